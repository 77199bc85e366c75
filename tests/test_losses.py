"""Losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from pesq import pesq

from pscodec.data.audio import load_audio
from pscodec.features import LogMel, stft
from pscodec.losses.adversarial import FeatureMatching, HingeGenerator, hinge_discriminator
from pscodec.losses.balancer import Balancer
from pscodec.losses.base import ModelLoss, WeightedSum
from pscodec.losses.intelligibility import Intelligibility, STOILoss
from pscodec.losses.neurogram import NSIMLoss
from pscodec.losses.perceptual import PerceptualLoss
from pscodec.losses.spectral import MultiMelL1, MultiMelL1L2, MultiSTFTL1, WavL1
from pscodec.metrics.stoi import stoi as measured_stoi
from pscodec.types import CodecOutput, Evidence, Judged


def judged(*logits, fmaps=None):
    return Judged([torch.tensor(x) for x in logits], fmaps or [])


def heard(wav, wav_hat):
    return Evidence(wav, CodecOutput(wav_hat, losses={"quant": torch.tensor(0.5)}))


def test_hinge_discriminator_is_the_mean_over_discriminators_of_both_margins():
    real, fake = judged([2.0, 0.0], [0.5]), judged([-3.0, 1.0], [-0.5])
    # first: mean(0, 1) + mean(0, 2) = 1.5; second: 0.5 + 0.5 = 1
    assert hinge_discriminator(real, fake).item() == pytest.approx(1.25)


def test_hinge_generator():
    evidence = heard(None, None)
    evidence.fake = judged([2.0, 0.0], [-1.0])
    assert HingeGenerator()(evidence).item() == pytest.approx((0.5 + 2.0) / 2)
    assert HingeGenerator(clipped=False)(evidence).item() == pytest.approx((-1.0 + 1.0) / 2)


def test_feature_matching():
    evidence = heard(None, None)
    evidence.real = Judged([], [[torch.tensor([1.0, 3.0]), torch.tensor([4.0])], [torch.tensor([2.0])]])
    evidence.fake = Judged([], [[torch.tensor([2.0, 5.0]), torch.tensor([4.0])], [torch.tensor([5.0])]])
    assert FeatureMatching()(evidence).item() == pytest.approx((1.5 + 0.0 + 3.0) / 3)
    assert FeatureMatching(relative=True)(evidence).item() == pytest.approx((1.5 / 2 + 0.0 + 3.0 / 2) / 3)


def test_mel_loss_of_a_gain_is_five_times_its_logarithm():
    torch.manual_seed(0)
    wav = 0.5 * torch.randn(1, 1, 24000)
    # every band of white noise is above the floor in both, so each window differs by log 2 everywhere but in the
    # filters that are empty at short windows
    one = MultiMelL1(windows=(2048,))
    assert one(heard(wav, wav / 2)).item() == pytest.approx(math.log(2), rel=1e-4)
    five = MultiMelL1()
    empty = sum((mel.filters.sum(0) == 0).float().mean().item() for mel in five.mels)
    assert five(heard(wav, wav / 2)).item() == pytest.approx((5 - empty) * math.log(2), rel=1e-3)
    assert five(heard(wav, wav)).item() == 0


def test_mel_distances_by_hand():
    wav = torch.zeros(2, 1, 1024)
    wav[1, :, ::2] = 1  # of the two magnitudes of a constant and of the fastest alternation
    loss = MultiMelL1L2(windows=(32,), n_mels=4)
    (mel,) = loss.mels
    wav_hat = wav + torch.tensor([0.0, 0.5]).view(2, 1, 1)
    # a constant c stands in bin 0 with c * 16, in bin 1 with c * 8, and nowhere else; the STFT is divided by sqrt(32)
    bands = mel.filters[0] * 8 + mel.filters[1] * 4
    silence = loss(heard(torch.zeros(1, 1, 1024), torch.full((1, 1, 1024), 0.5)))
    by_hand = bands.mean() + bands.square().mean().sqrt()
    assert silence.item() == pytest.approx(by_hand.item() / 32**0.5, rel=1e-4)
    assert loss(heard(wav, wav)).item() == 0 and loss(heard(wav, wav_hat)).item() > 0
    # the mean over items and windows
    alone = [loss(heard(wav[i : i + 1], wav_hat[i : i + 1])).item() for i in range(2)]
    assert loss(heard(wav, wav_hat)).item() == pytest.approx(sum(alone) / 2)
    windows = [MultiMelL1L2(windows=w, n_mels=4)(heard(wav, wav_hat)).item() for w in ((32,), (64,), (32, 64))]
    assert windows[2] == pytest.approx(sum(windows[:2]) / 2)


class Slope(torch.nn.Module):
    """The mean over items of `slope` times the sum of their samples, whose gradient is `slope` everywhere."""

    def __init__(self, slope, adversarial=False):
        super().__init__()
        self.slope, self.adversarial = slope, adversarial

    def forward(self, evidence):
        return self.slope * evidence.output.wav_hat.sum((1, 2)).mean()


def test_the_balancer_by_hand():
    raw, inner = torch.full((2, 1, 4), 0.5, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    terms = {"wav": Slope(10.0), "adv": Slope(-0.5, adversarial=True), "quant": ModelLoss("quant"), "off": Slope(7.0)}
    balancer = Balancer(terms, {"wav": 3, "adv": 1, "quant": 5, "off": 0}, decay=0.5)

    def gradient(judged=True):
        raw.grad = inner.grad = None
        evidence = Evidence(None, CodecOutput(raw * 1, losses={"quant": 2 * inner}))
        evidence.fake = Judged([], []) if judged else None
        total, values = balancer(evidence)
        total.backward()
        assert raw.grad.unique().numel() == 1 and inner.grad == 5 * 2
        return total.item(), values, raw.grad[0, 0, 0].item()

    # an item's gradient of slope s has the norm 2 |s|, so each sample's is a share / 2; of a mean over two items, half
    assert gradient(judged=False)[2] == pytest.approx(1 / 2 / 2)
    total, values, grad = gradient()
    assert grad == pytest.approx((3 / 4 - 1 / 4) / 2 / 2)
    # the value is the plain sum: 3 * 10 * 2 - .5 * 2 + 5 * 6
    assert total == pytest.approx(60 - 1 + 30) and values["off"].item() == 14
    balancer.terms["wav"].slope = 40.0
    # norms 20, 20, 80 have the mean (.125 * 20 + .25 * 20 + .5 * 80) / .875
    mean = 47.5 / 0.875
    assert gradient()[2] == pytest.approx((3 / 4 * 80 / mean - 1 / 4) / 2 / 2)
    before = {k: v.clone() for k, v in balancer.state_dict().items()}
    assert set(before) == {"sums", "counts"}
    balancer.eval()
    assert gradient()[2] == pytest.approx((3 * 40 - 0.5) / 2)
    assert all(torch.equal(before[k], v) for k, v in balancer.state_dict().items())


def test_a_balanced_loss_that_does_not_move_anything_divides_by_nothing():
    raw = torch.zeros(1, 1, 4, requires_grad=True)
    total, _ = Balancer({"wav": Slope(0.0), "adv": Slope(1.0)}, {"wav": 1, "adv": 1})(heard(None, raw * 1))
    total.backward()
    assert raw.grad.flatten().tolist() == pytest.approx([1 / 2 / 2] * 4)


def test_losses_of_silence_have_finite_gradients():
    wav_hat = torch.zeros(1, 1, 24000, requires_grad=True)
    evidence = heard(torch.zeros(1, 1, 24000), wav_hat)
    sum(loss(evidence) for loss in (MultiMelL1(), MultiMelL1L2(), WavL1())).backward()
    assert torch.isfinite(wav_hat.grad).all()


def test_weighted_sum_logs_what_it_does_not_train_and_waits_for_discriminators():
    wav, wav_hat = torch.zeros(1, 1, 8), torch.full((1, 1, 8), 0.25, requires_grad=True)
    losses = WeightedSum(
        {"wav": WavL1(), "quant": ModelLoss("quant"), "adv": HingeGenerator()}, {"wav": 2, "quant": 0, "adv": 1}
    )
    total, terms = losses(heard(wav, wav_hat))
    assert total.item() == pytest.approx(0.5)
    assert {k: v.item() for k, v in terms.items()} == {"wav": 0.25, "quant": 0.5}
    evidence = heard(wav, wav_hat)
    evidence.fake = judged([3.0])
    assert set(losses(evidence)[1]) == {"wav", "quant", "adv"}
    with pytest.raises(ValueError, match="do not match"):
        WeightedSum({"wav": WavL1()}, {"mel": 1})


def test_what_was_used_before_can_be_trained_through():
    wav = 0.1 * torch.randn(1, 1, 6000)
    with torch.inference_mode():
        stft(wav, 448, 112)  # a window length of its own, first met in use
    trained = wav.clone().requires_grad_()
    stft(trained, 448, 112).abs().sum().backward()
    assert trained.grad.abs().sum() > 0


@pytest.mark.parametrize("n_fft", [8, 9, 256])
def test_stft_and_its_gradient_are_torchs(n_fft):
    wav = torch.randn(2, 1, 600, dtype=torch.float32, requires_grad=True)
    other = wav.detach().clone().requires_grad_()
    spectrum = stft(wav, n_fft, 4)
    wanted = torch.stft(other[:, 0], n_fft, 4, window=torch.hann_window(n_fft), return_complex=True)[:, None]
    weights = torch.randn_like(wanted)
    (spectrum * weights).sum().abs().backward()
    (wanted * weights).sum().abs().backward()
    assert torch.allclose(spectrum, wanted, atol=1e-4)
    assert torch.allclose(wav.grad, other.grad, atol=1e-4)


@pytest.mark.parametrize("n_fft", [255, 256])
def test_log_mel_and_its_gradient_are_torchs(n_fft):
    wav = torch.randn(2, 1, 600)
    wav[1, :, 200:] = 0  # no magnitude, no gradient, no NaN
    wav.requires_grad_()
    other = wav.detach().clone().requires_grad_()
    mel = LogMel(n_fft=n_fft, hop_length=64, n_mels=20, floor=1e-3)
    spectrum = torch.stft(other[:, 0], n_fft, 64, window=torch.hann_window(n_fft), return_complex=True)
    wanted = (mel.filters.T @ spectrum.abs()).clamp(min=1e-3).log()[:, None]
    weights = torch.randn_like(wanted)
    found = mel(wav)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(wav.grad, other.grad, atol=1e-4)


def test_the_stft_loss_of_what_is_e_times_as_loud_is_one():
    wav = torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(0))
    evidence = Evidence(wav, CodecOutput(math.e * wav, None, {}, {}))
    assert MultiSTFTL1(floor=1e-9)(evidence).item() == pytest.approx(1, abs=1e-4)
    assert MultiSTFTL1(floor=1e4)(evidence).item() == 0, "all of it lies below the floor"


@pytest.mark.parametrize("snr", [20, 5, -5])
def test_intelligibility_is_what_stoi_leaves(snr):
    torch.manual_seed(0)
    t = torch.arange(2 * 24000) / 24000
    wav = 0.1 * torch.randn(len(t)) * (1 + 0.8 * (2 * math.pi * 3 * t).sin())
    noise = torch.randn(len(t))
    wav_hat = wav + noise * wav.std() / noise.std() * 10 ** (-snr / 20)
    loss = Intelligibility()(wav_hat[None], wav[None]).item()
    assert 1 - loss == pytest.approx(measured_stoi(wav.numpy(), wav_hat.numpy(), 24000), abs=0.03)
    pause = torch.zeros(1, 1, 72000)
    with_pause = (torch.cat([pause, signal[None, None]], 2) for signal in (wav_hat, wav))
    assert Intelligibility()(*with_pause).item() == pytest.approx(loss, rel=0.2)
    assert Intelligibility()(0.3 * wav[None], wav[None]).item() < 0.01
    evidence = Evidence(wav[None, None], CodecOutput(wav_hat[None, None], None, {}, {}))
    assert STOILoss()(evidence).item() == pytest.approx(loss), "of a codec"


def left_after(steps, rate, distance, start):
    """What is left of `distance`, as a share, after so many steps down from `start`."""
    found = torch.nn.Parameter(start)
    optimizer, losses = torch.optim.Adam([found], lr=rate), []
    for _ in range(steps):
        losses.append(distance(found))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert found.grad.isfinite().all()
    return losses[-1].item() / losses[0].item()


def test_intelligibility_leads_to_the_clean_envelopes():
    torch.manual_seed(0)
    wav = torch.randn(2, 1, 12000) * torch.linspace(0, 20, 12000).sin()
    assert left_after(20, 0.05, lambda found: Intelligibility()(found, wav), torch.randn(2, 1, 12000)) < 0.6


def test_the_perceptual_loss_is_nearly_raw_pesq(mini_corpus):
    """Of white and of coloured noise, of noise that follows the speech, and of a steep low-pass filter."""
    wav, _ = load_audio(mini_corpus / "en_US_f_Allison/conf-nonextended.wav", 16000)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(wav.shape, generator=g)
    red = torch.fft.irfft(torch.fft.rfft(noise) / (1 + torch.arange(wav.shape[1] // 2 + 1) / 500), wav.shape[1])
    worse = [wav + n * wav.std() / n.std() * 10 ** (-snr / 20) for n in (noise, red) for snr in (30, 20, 10, 0)]
    worse += [wav + wav * noise * level for level in (0.05, 0.2, 0.8)]
    worse += [torch.fft.irfft(torch.fft.rfft(wav) * (torch.arange(wav.shape[1] // 2 + 1) < wav.shape[1] // 8))]
    loss = PerceptualLoss(16000)
    points = np.array([4.5 - loss.distance(made, wav).item() for made in worse])
    scores = np.array([pesq(16000, wav[0].numpy(), made[0].numpy(), "wb") for made in worse])
    assert np.corrcoef(0.999 + 4 / (1 + np.exp(3.8224 - 1.3669 * points)), scores)[0, 1] > 0.95  # P.862.2, eq. 1
    assert np.abs(4.5 - points - loss.distance(0.1 * worse[3], wav).item()).min() < 0.01, "levels are aligned"
    evidence = heard(wav[None], worse[3][None])
    assert loss(evidence).item() == pytest.approx(4.5 - points[3]), "of a codec"


@pytest.mark.parametrize(
    ("loss", "noise", "rate", "steps"), [(PerceptualLoss(), 0.05, 0.003, 50), (NSIMLoss(), 0.01, 0.001, 30)]
)
def test_what_scores_hear_leads_to_the_recording(voice, loss, noise, rate, steps):
    wav, _ = load_audio(voice)
    assert loss.distance(wav, wav).item() < 0.05
    torch.manual_seed(0)
    start = wav + noise * torch.randn_like(wav)
    assert left_after(steps, rate, lambda found: loss.distance(found, wav), start) < 0.7
    for silent in (torch.zeros(1, 9600), 1e-9 * torch.ones(1, 9600)):
        made = torch.nn.Parameter(silent.clone())
        loss.distance(made, silent).backward()
        assert made.grad.isfinite().all()


def test_nsim_is_visqols():
    from visqol.nsim import measure_patch_similarity

    torch.manual_seed(0)
    clean = 20 * torch.rand(2, 21, 20)
    heard = clean + 4 * torch.randn(2, 21, 20)
    ours = NSIMLoss().similarity(clean, heard).mean((1, 2))
    patches = zip(clean.double().numpy(), heard.double().numpy(), strict=True)
    theirs = [measure_patch_similarity(*pair).similarity for pair in patches]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-4)


def test_its_loss_follows_visqol(mini_corpus):
    """The same noises and filter as PESQ is followed through."""
    from visqol import VisqolApi

    wav, _ = load_audio(mini_corpus / "en_US_f_Allison/conf-nonextended.wav", 16000)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(wav.shape, generator=g)
    worse = [wav + noise * wav.std() * 10 ** (-snr / 20) for snr in (40, 30, 20, 10, 0)]
    worse += [wav + wav * noise * level for level in (0.05, 0.2, 0.8)]
    api, loss = VisqolApi(), NSIMLoss(16000)
    api.create(mode="speech", use_lattice_model=True)
    alike = [1 - loss.distance(made, wav).item() for made in worse]
    theirs = [api.measure_from_arrays(wav[0].double().numpy(), made[0].double().numpy(), 16000).vnsim for made in worse]
    assert np.corrcoef(alike, theirs)[0, 1] > 0.95 and np.abs(np.subtract(alike, theirs)).max() < 0.15
    assert loss.distance(0.1 * worse[2], wav).item() == pytest.approx(1 - alike[2], abs=0.01), "levels are aligned"
    assert loss(heard(wav[None], worse[2][None])).item() == pytest.approx(1 - alike[2]), "of a codec"
