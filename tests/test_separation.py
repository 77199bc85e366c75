"""Losses within PIT, the separators' sizes and paddings, the frozen codec, and what a pass costs, by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pscodec.downstream.codec import FrozenCodec
from pscodec.downstream.separator import Codecformer, Snake, Statistics
from pscodec.downstream.sepformer import SepFormer
from pscodec.downstream.systems import join
from pscodec.downstream.trunks import TCNBlock, Transformer, positions
from pscodec.losses.intelligibility import Intelligibility
from pscodec.losses.separation import EXHAUSTIVE, EmbeddingLoss, SiSnrLoss, SiSnrStoiLoss, best_order, si_snr
from pscodec.models.hificodec import Decoder, Encoder
from pscodec.models.pscodec import PSCodec
from pscodec.prompts.fusion import Add
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.types import Separation
from pscodec.utils.macs import count_macs
from pscodec.utils.schedules import Trapezoid


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def codec():
    """A small codec with weight norms, 10 samples a frame at 16 kHz."""
    torch.manual_seed(0)
    encoder = Encoder(latent_dim=12, width=4, strides=(2, 5), kernels=(3,), dilations=(1,))
    decoder = Decoder(latent_dim=12, width=16, strides=(5, 2), kernels=(3,), dilations=(1,))
    return PSCodec(encoder, GroupResidualVQ(12, codebook_size=16), decoder, Add(), sample_rate=16000)


# ---- permutations


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_best_order_is_that_of_trying_all(n):
    cost = torch.randn(20, n, n, generator=torch.Generator().manual_seed(n))
    order = best_order(cost)
    for matrix, found in zip(cost, order.tolist(), strict=True):
        orders = list(itertools.permutations(range(n)))
        totals = [sum(matrix[e, s].item() for s, e in enumerate(o)) for o in orders]
        assert found == list(orders[totals.index(min(totals))])
    assert EXHAUSTIVE == 3  # so that both ways are compared here


@pytest.mark.parametrize("loss", [EmbeddingLoss(), SiSnrLoss(threshold=-math.inf)])
@pytest.mark.parametrize("n", [2, 4])
def test_the_loss_does_not_ask_for_an_order(loss, n):
    shape = (3, n, 5, 40) if loss.domain == "embedding" else (3, n, 200)
    noise = torch.Generator().manual_seed(0)
    targets, lengths = torch.randn(shape, generator=noise), torch.full((3,), shape[-1])
    estimates = targets + 0.5 * torch.randn(shape, generator=noise)
    shuffle = torch.randperm(n, generator=noise)
    plain, order = loss(Separation(estimates, targets, lengths))
    assert order.tolist() == [list(range(n))] * 3
    shuffled, order = loss(Separation(estimates[:, shuffle], targets, lengths))
    assert shuffled.item() == pytest.approx(plain.item(), rel=1e-5)
    assert torch.equal(shuffle[order[0]], torch.arange(n))


def test_the_embedding_loss_by_hand():
    targets = torch.zeros(1, 2, 2, 3)
    targets[0, 0] = 1.0
    assert EmbeddingLoss()(Separation(targets.flip(1), targets, torch.tensor([3])))[0].item() == 0.0
    # two sources, two channels, two true frames: eight numbers, one of them off by 2; the third frame does not count
    estimates = targets.clone()
    estimates[0, 0, 1, 1] += 2.0
    estimates[..., 2] = 99.0
    assert EmbeddingLoss()(Separation(estimates, targets, torch.tensor([2])))[0].item() == pytest.approx(4 / 8)
    # each mixture counts the same, however long
    both = Separation(estimates.repeat(2, 1, 1, 1), targets.repeat(2, 1, 1, 1), torch.tensor([2, 1]))
    assert EmbeddingLoss()(both)[0].item() == pytest.approx(4 / 8 / 2)


def test_si_snr_by_hand():
    t = torch.tensor([1.0, -1.0, 1.0, -1.0])
    n = torch.tensor([1.0, 1.0, -1.0, -1.0])  # orthogonal, same energy
    assert si_snr(3 * t + 0.3 * n, t).item() == pytest.approx(20.0, abs=1e-4)
    estimates, targets = torch.stack([n + 0.1 * t, t + 0.1 * n])[None], torch.stack([t, n])[None]
    loss, order = SiSnrLoss()(Separation(estimates, targets, torch.tensor([4])))
    assert order.tolist() == [[1, 0]] and loss.item() == pytest.approx(-20.0, abs=1e-3)


def test_easy_mixtures_do_not_count():
    t = torch.tensor([1.0, -1.0, 1.0, -1.0])
    n = torch.tensor([1.0, 1.0, -1.0, -1.0])
    targets = t.expand(2, 1, 4)
    estimates = torch.stack([t + 0.1 * n, t + 0.001 * n])[:, None]  # 20 dB, 60 dB
    lengths = torch.tensor([4, 4])
    assert SiSnrLoss(-30.0)(Separation(estimates, targets, lengths))[0].item() == pytest.approx(-20, abs=1e-3)
    assert SiSnrLoss(-90.0)(Separation(estimates, targets, lengths))[0].item() == pytest.approx(-40, abs=1e-2)
    everything = SiSnrLoss(-10.0)(Separation(estimates.requires_grad_(), targets, lengths))[0]
    everything.backward()
    assert everything.item() == 0.0 and estimates.grad.abs().max() == 0.0


@pytest.mark.parametrize("silent", ["targets", "estimates", "both"])
def test_silence_gives_numbers(silent):
    estimates, targets = torch.randn(2, 2, 300), torch.randn(2, 2, 300)
    if silent != "estimates":
        targets[0] = targets[1, 1] = 0.0
    if silent != "targets":
        estimates[:] = 0.0
    estimates.requires_grad_()
    loss, order = SiSnrLoss()(Separation(estimates, targets, torch.tensor([300, 200])))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(estimates.grad).all()
    assert sorted(order[0].tolist()) == [0, 1]


def test_envelopes_count_beside_si_snr():
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(8000) / 8000
    targets = torch.randn(1, 2, 8000, generator=generator) * torch.stack([t.mul(f).sin().abs() for f in (9, 21)])
    estimates = targets.flip(1) + 0.3 * torch.randn(1, 2, 8000, generator=generator)
    separation = Separation(estimates, targets, torch.tensor([8000]))
    loss, order = SiSnrStoiLoss(8000, stoi=30)(separation)
    plain, _ = SiSnrLoss()(separation)
    lacks = Intelligibility(8000)(estimates.flip(1), targets)
    assert order.tolist() == [[1, 0]] and 0.01 < lacks < 0.5
    assert loss.item() == pytest.approx((plain + 30 * lacks).item(), rel=1e-4)
    silent = torch.cat([targets[:, :1], torch.zeros(1, 1, 8000)], 1)  # of which nothing is asked
    alone = Intelligibility(8000)(estimates[:, 1:], targets[:, :1])
    assert Intelligibility(8000)(estimates.flip(1), silent).item() == pytest.approx(alone.item(), rel=1e-4)


# ---- networks


def test_sizes_are_the_papers():
    def by_hand(d, sources=2):
        layer = 4 * 256 * 256 + 4 * 256 + 2 * 256 * 1024 + 1024 + 256 + 2 * 2 * 256
        return 16 * layer + 2 * 256 + 2 * 256 * d + sources * (d * d + d) + 2 * (d * d + d)

    for d, millions in ((1024, 17.4), (512, 13.95)):
        assert size(Codecformer(d)) == by_hand(d) and by_hand(d) / 1e6 == pytest.approx(millions, rel=3e-3)
    assert size(Codecformer(64, n_src=5)) == by_hand(64, 5)
    assert size(Codecformer(64, activation="snake")) == by_hand(64) + 2 * 64
    assert size(SepFormer()) / 1e6 == pytest.approx(25.7, rel=2e-3)


def test_positions_by_hand_and_for_any_length():
    p = positions(6000, 4)  # more than 50 s at 75 frames a second
    assert p[:2, 0].tolist() == pytest.approx([0, math.sin(1)]) and p[:2, 1].tolist() == pytest.approx([1, math.cos(1)])
    assert p[5000, 2].item() == pytest.approx(math.sin(5000 / 100), abs=2e-3)
    net = Codecformer(8, channels=16, n_blocks=1, n_heads=2, hidden=8).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 8, 6000)).shape == (1, 2, 8, 6000)


def test_positions_are_shifted_in_training_alone():
    net = Transformer(8, 1, 2, 8, 0.0, position_offset=3)
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        shifted = [net.blocks[0](x + positions(9, 8)[first : first + 5]) for first in range(4)]
        seen = [[i for i, y in enumerate(shifted) if torch.allclose(net(x), y, atol=1e-6)] for _ in range(40)]
        assert {i for found in seen for i in found} == {0, 1, 2, 3}
        assert torch.allclose(net.eval()(x), shifted[0], atol=1e-6)


@pytest.mark.parametrize("dilation", [1, 2, 8])
def test_frames_apart_are_convolved_as_by_a_dilated_kernel(dilation):
    block = TCNBlock(6, 12, 0.0, 7, dilation)
    x = torch.randn(2, 29, 6)
    kernel = block.depthwise.weight, block.depthwise.bias
    plain = F.conv1d(x.transpose(1, 2), *kernel, padding=3 * dilation, dilation=dilation, groups=6)
    assert torch.allclose(block._convolve(x), plain.transpose(1, 2), atol=1e-6)


def test_statistics_by_hand():
    statistics = Statistics(2)
    z = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert torch.equal(statistics.standardise(z), z) and torch.equal(statistics.to_source(z), z)  # not yet set
    statistics.set(z, torch.tensor([[10.0, 0.0], [14.0, 0.0], [12.0, 3.0]]))
    assert statistics.standardise(z)[:, 0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert torch.isfinite(statistics.standardise(z)).all()  # the second channel says nothing
    assert statistics.to_source(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([14.0, 1.0])
    assert len(statistics.state_dict()) == 4  # in the checkpoint


def test_a_residual_begins_at_the_mixture():
    net = Codecformer(8, 3, 16, 1, 2, 8, 0.0, output="residual")
    z = 5 + torch.randn(2, 8, 200)
    net.statistics.set(z.transpose(1, 2).flatten(0, 1), 2 * z.transpose(1, 2).flatten(0, 1))
    with torch.no_grad():
        z_hat = net(z)
        assert z_hat.shape == (2, 3, 8, 200) and 0 < (z_hat - 2 * z.unsqueeze(1)).std() < 0.3 * (2 * z).std()
        net.output.linear.weight.zero_()
        assert torch.allclose(net(z), 2 * z.unsqueeze(1).expand(2, 3, 8, 200), atol=1e-4)


def test_every_mask_has_a_gradient():
    """Two leaky rectifiers of slope 0.01 in a row left half of the units a ten-thousandth of the others'."""
    net = Codecformer(32, channels=16, n_blocks=1, n_heads=2, hidden=8)
    net(torch.randn(4, 32, 50)).square().mean().backward()
    sizes = net.output.value.weight.grad.norm(dim=1)
    assert sizes.min() > 0.05 * sizes.median()


@pytest.mark.parametrize("what", [{"output": "sum"}, {"trunk": "lstm"}, {"activation": "leaky_relu"}])
def test_what_a_separator_is_not(what):
    with pytest.raises(ValueError, match=next(iter(what))):
        Codecformer(8, channels=16, n_blocks=1, n_heads=2, hidden=8, **what)


def test_guesses_that_need_no_separator():
    targets = torch.stack([torch.ones(2, 3), torch.zeros(2, 3)])[None]
    separation = Separation(targets, targets, torch.tensor([3]), mixture=torch.full((1, 2, 3), 3.0))
    mean, mixture = EmbeddingLoss().trivial(separation)
    assert mean.item() == pytest.approx(0.25) and mixture.item() == pytest.approx((4 + 9) / 2)


def test_a_trapezoid_by_hand():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = Trapezoid(optimizer, warmup=4, decay=0.5)
    rates = []
    for step in range(10):
        schedule.set(step, step / 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4])
    assert Trapezoid(optimizer).factor(0, 0.0) == 1.0 and schedule.factor(100, 1.5) == 0.0


def test_snake_by_hand():
    snake = Snake(2)
    snake.alpha.data = torch.tensor([1.0, 2.0])
    assert snake(torch.tensor([[0.5, 0.5]]))[0].tolist() == pytest.approx(
        [0.5 + math.sin(0.5) ** 2, 0.5 + math.sin(1.0) ** 2 / 2]
    )


@pytest.mark.parametrize("trunk", ["transformer", "tcn"])
@pytest.mark.parametrize(("n_src", "output"), [(1, "mask"), (2, "residual"), (5, "mask")])
def test_padding_changes_nothing_before_it(n_src, output, trunk):
    net = Codecformer(8, n_src, 16, 2, 2, 32, output=output, trunk=trunk, attend_every=2).eval()
    z = torch.randn(2, 8, 30)
    z[1, :, 20:] = 7.0
    for parameter in net.parameters():  # what is small at the start would hide it
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        both, alone = net(z, torch.tensor([30, 20])), net(z[1:, :, :20])
        assert torch.allclose(both[1, :, :, :20], alone[0], atol=1e-4) and both.shape == (2, n_src, 8, 30)
        assert not torch.allclose(net(z)[1, :, :, :20], alone[0], atol=1e-3)  # without the mask it would


@pytest.mark.parametrize("length", [3, 16, 1000, 1007])
def test_sepformer_keeps_the_length(length):
    net = SepFormer(3, filters=8, chunk=10, n_layers=1, n_blocks=1, n_heads=2, hidden=8).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 1, length)).shape == (1, 3, length)


# ---- the frozen codec


def test_a_frozen_codec_stays_so(codec):
    wav = torch.randn(1, 1, 200)
    with torch.no_grad():
        before = codec.eval().encoder(wav)
    frozen = FrozenCodec(codec, 8000)
    system = join(Codecformer(12, channels=8, n_blocks=1, n_heads=1, hidden=8), frozen).train()
    assert system.separator.training and not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        assert torch.allclose(frozen.codec.encoder(wav), before, atol=1e-5)  # folding weight norms changes nothing
    assert not any("parametrizations" in name for name, _ in frozen.named_parameters())


def test_a_batch_is_embedded_as_its_items_are(codec):
    frozen = FrozenCodec(codec, 8000)
    mix, sources, lengths = torch.randn(3, 1, 400), torch.randn(3, 2, 400), torch.tensor([400, 237, 400])
    mix[1, :, 237:] = sources[1, :, 237:] = 0.0
    z_mix, z_sources, frames = frozen.embed(mix, sources, lengths)
    assert frames.tolist() == [80, 48, 80]  # 237 samples are 474 at 16 kHz, 48 frames of 10
    for i, n in enumerate(lengths.tolist()):
        alone = frozen.embed(mix[i : i + 1, :, :n], sources[i : i + 1, :, :n])
        assert torch.allclose(z_mix[i, :, : frames[i]], alone[0][0], atol=1e-5)
        assert torch.allclose(z_sources[i, :, :, : frames[i]], alone[1][0], atol=1e-5)
        assert z_sources[i, :, :, frames[i] :].abs().sum() == 0


def test_one_gain_for_the_mixture_and_its_sources(codec):
    frozen = FrozenCodec(codec, 8000)
    mix = torch.tensor([[[0.1, -0.5, 0.2]], [[0.0, 0.0, 0.0]]])
    assert frozen.scale(mix).flatten().tolist() == pytest.approx([1.9, 1.0])  # silence keeps its level
    assert FrozenCodec(codec, 8000, "none").scale(mix).flatten().tolist() == [1.0, 1.0]
    sources = torch.randn(1, 2, 400)
    loud, quiet = (frozen.embed(g * sources.sum(1, keepdim=True), g * sources) for g in (1.0, 0.01))
    assert torch.allclose(loud[0], quiet[0], atol=1e-4) and torch.allclose(loud[1], quiet[1], atol=1e-4)
    # and it is taken off again, at the rate and length of the data
    z, _, _ = frozen.embed(0.01 * sources[:, :1])
    loud, quiet = (frozen.decode(z[:, None], {}, 399, scale) for scale in (None, torch.full((1, 1, 1), 4.0)))
    assert loud.shape == (1, 1, 399) and torch.allclose(loud, 4 * quiet)
    z, _, _ = frozen.embed(torch.zeros(1, 1, 400))
    assert torch.isfinite(z).all()


@pytest.mark.parametrize("domain", ["embedding", "waveform"])
def test_only_the_separator_learns(codec, domain):
    system = join(Codecformer(12, channels=8, n_blocks=1, n_heads=1, hidden=8), FrozenCodec(codec, 8000)).train()
    batch = {"mix": torch.randn(2, 1, 400), "sources": torch.randn(2, 2, 400), "lengths": torch.tensor([400, 300])}
    loss = EmbeddingLoss() if domain == "embedding" else SiSnrLoss()
    loss(system(batch, domain))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in system.separator.parameters())
    assert all(p.grad is None for p in system.codec.parameters())


def test_embeddings_from_a_cache_take_the_encoders_place(codec):
    frozen = FrozenCodec(codec, 8000)
    system = join(Codecformer(12, channels=8, n_blocks=1, n_heads=1, hidden=8), frozen).eval()
    batch = {"mix": torch.randn(2, 1, 400), "sources": torch.randn(2, 2, 400), "lengths": torch.tensor([400, 300])}
    z_mix, z_sources, frames = frozen.embed(*batch.values())
    live, cached = (
        system(batch, "embedding"),
        system({"z_mix": z_mix, "z_sources": z_sources, "frames": frames}, "embedding"),
    )
    assert EmbeddingLoss()(live)[0].item() == pytest.approx(EmbeddingLoss()(cached)[0].item(), rel=1e-5)


# ---- what it costs


def test_macs_by_hand():
    assert count_macs(nn.Linear(3, 5), torch.zeros(2, 7, 3)).total == 2 * 7 * 3 * 5
    conv = count_macs(nn.Conv1d(4, 6, 3, stride=2, groups=2), torch.zeros(1, 4, 21))
    assert conv.total == conv.plain == 10 * 6 * (4 // 2) * 3
    assert count_macs(nn.ConvTranspose1d(4, 6, 8, stride=4), torch.zeros(1, 4, 10)).total == 10 * 4 * 6 * 8
    mha = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    for weights in (True, False):
        macs = count_macs(lambda x, w=weights: mha(x, x, x, need_weights=w), torch.zeros(1, 9, 16))
        assert macs.attention == 2 * 9 * 9 * 16 and macs.total == macs.attention + 4 * 9 * 16 * 16


def test_macs_of_a_separator_by_hand():
    t, d, c = 100, 512, 256
    attention = 16 * 2 * t * t * c
    layers = 16 * t * (4 * c * c + 2 * c * 1024) + 2 * t * d * c + t * d * 2 * d + 2 * 2 * t * d * d
    macs = count_macs(Codecformer(d).eval(), torch.zeros(1, d, t))
    assert (macs.total, macs.attention) == (layers + attention, attention)
