"""DAC: its layers against SpeechBrain's on the same weights, its quantizer and discriminators by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from speechbrain.lobes.models.discrete import dac as public

from pscodec.discriminators.base import Levelled
from pscodec.discriminators.mrd import BandDiscriminator, MultiResolutionDiscriminator
from pscodec.layers.snake import Snake
from pscodec.losses.adversarial import FeatureMatching
from pscodec.models.dac import DAC, Decoder, Encoder
from pscodec.quantizers.codebook import Codebook
from pscodec.quantizers.factorised import FactorisedRVQ
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.types import Evidence, Judged, Plan
from pscodec.utils.hparams import build_only, compose, resolve


def ours(n_residual=3, latent_dim=64, strides=(2, 4, 8, 8)):
    quantizer = FactorisedRVQ(latent_dim, 64, n_residual, 8, kmeans_steps=0)
    encoder = Encoder(latent_dim, 4, strides)
    return DAC(encoder, quantizer, Decoder(latent_dim, 64, strides[::-1]), sample_rate=16000).eval()


def theirs():
    torch.manual_seed(0)
    model = public.DAC(
        encoder_dim=4, encoder_rates=[2, 4, 8, 8], latent_dim=64, decoder_dim=64, decoder_rates=[8, 8, 4, 2],
        n_codebooks=3, codebook_size=64, sample_rate=16000,
    ).eval()  # fmt: skip
    with torch.no_grad():  # alphas of 1 and biases of 0 would not be told apart
        for name, p in model.named_parameters():
            p.add_(0.3 * p.abs().mean() * torch.randn_like(p)) if "alpha" not in name else p.uniform_(0.3, 3)
    return model


@torch.no_grad()
def test_it_is_what_speechbrain_computes():
    public_dac, codec = theirs(), ours()
    codec.load_public(public_dac.state_dict())
    wav = 0.1 * torch.randn(2, 1, 512 * 20)
    z_q, codes, *_ = public_dac.encode(wav)
    assert torch.allclose(codec.encoder(wav), public_dac.encoder(wav), atol=1e-5)
    assert torch.equal(codec.encode(wav), codes) and all(len(book.unique()) > 3 for book in codes.unbind(1))
    quantized = codec.quantizer(codec.encoder(wav))
    assert torch.allclose(quantized.z_q, z_q, atol=1e-5)
    assert torch.allclose(codec.decode(codes, {}), public_dac.decode(z_q), atol=1e-5)
    _, _, _, commitment, codebook = public_dac.quantizer(public_dac.encoder(wav))
    assert quantized.loss.item() == pytest.approx((0.25 * commitment + codebook).item(), rel=1e-4)


@torch.no_grad()
def test_older_names_of_weight_norm_load_and_others_are_refused():
    state = theirs().state_dict()
    older = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in state.items()}
    older = {k.replace("parametrizations.weight.original1", "weight_v"): v for k, v in older.items()}
    codec, same = ours(), ours()
    codec.load_public(state)
    same.load_public(older)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in codec.state_dict().items())
    with pytest.raises(ValueError, match="not this DAC: quantizer.layers.3.* is missing"):
        ours(n_residual=4).load_public(state)
    with pytest.raises(ValueError, match=r"encoder.layers.6.bias is \[64\], \[32\] here"):
        ours(latent_dim=32).load_public(state)


def test_snake_in_training_is_the_same_function_with_its_gradients():
    torch.manual_seed(0)
    snake, x = Snake(3).double(), torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        snake.alpha.uniform_(0.3, 2)
    assert torch.allclose(snake.train()(x), snake.eval()(x))
    assert torch.autograd.gradcheck(snake.train(), x)
    found = [torch.autograd.grad(snake(x).sin().sum(), (x, snake.alpha))[1]]
    found.append(torch.autograd.grad(snake.eval()(x).sin().sum(), (x, snake.alpha))[1])
    assert torch.allclose(*found)


def test_snake_by_hand():
    snake = Snake(2)
    with torch.no_grad():
        snake.alpha[0, 1] = 2
    y = snake(torch.tensor([[[0.5], [0.5]]]))
    assert y.flatten().tolist() == pytest.approx([0.5 + math.sin(0.5) ** 2, 0.5 + math.sin(1.0) ** 2 / 2])


def test_entries_are_chosen_by_direction():
    book = Codebook(2, 2, direction=True, kmeans_steps=0).eval()
    with torch.no_grad():
        book.entries.copy_(torch.tensor([[10.0, 0.0], [0.1, 0.1]]))
    x = torch.tensor([[0.2, 0.0], [20.0, 19.0]])
    assert book(x).tolist() == [0, 1]  # by distance it would be 1, 0
    near, codes = book.nearest_few(x, 2)
    assert codes.tolist() == [[0, 1], [1, 0]]
    assert near[0].tolist() == pytest.approx([0, 2 - math.sqrt(2)], abs=1e-5)  # on the unit circle


def test_items_of_fewer_layers_are_decoded_from_them_and_teach_no_more():
    torch.manual_seed(0)
    quantizer = FactorisedRVQ(6, 16, 3, 4, dropout=0.5, kmeans_steps=0, restart_after=0).train()
    z = torch.randn(2, 6, 5)
    quantizer.plan = Plan({"n_q": torch.tensor([1, 3])})
    quantized = quantizer(z)
    assert torch.allclose(quantized.z_q[0], quantizer.decode(quantized.codes[:, :1])[0], atol=1e-6)
    assert torch.allclose(quantized.z_q[1], quantizer.decode(quantized.codes)[1], atol=1e-6)
    losses, residual = [], z
    for layer in quantizer.layers:
        part, _, loss = layer(residual)
        residual = residual - part
        losses.append(loss)
    by_hand = (losses[0].sum() + losses[1][1] + losses[2][1]) / 2
    assert quantized.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    drawn = quantizer.draw(np.random.default_rng(0), 1000)["n_q"]
    assert set(drawn.tolist()) == {1, 2, 3} and 400 < (drawn < 3).sum() < 600
    quantizer.eval().n_q = 2
    assert quantizer(z).codes.shape == (2, 2, 5)


def test_sizes_are_the_papers(recipe):
    codec = build_only(resolve(compose(recipe / "conf/dac.yaml"), {}), "codec")
    assert 74.0e6 < sum(p.numel() for p in codec.parameters()) < 75.2e6
    assert codec.bitrate == 24000 and codec.hop_length == 320


def test_odd_strides_give_whole_frames_and_streams_equal_one_pass():
    torch.manual_seed(0)
    codec = ours(strides=(2, 5))
    wav = 0.1 * torch.randn(1, 1, 1000)
    codes = codec.encode(wav)
    wav_hat = codec.decode(codes, {})
    assert codes.shape == (1, 3, 100) and wav_hat.shape == (1, 1, 1000)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, {})
    found = [encoder.push(piece) for piece in wav.split(130, 2)] + [encoder.finish()]
    assert torch.equal(torch.cat(found, 2), codes)
    heard = [decoder.push(piece) for piece in codes.split(7, 2)] + [decoder.finish()]
    assert torch.allclose(torch.cat(heard, 2), wav_hat, atol=1e-5)


def test_bands_of_the_spectrum_are_judged_apart():
    disc = BandDiscriminator(512, width=4).eval()
    assert disc.bands == [(0, 25), (25, 64), (64, 128), (128, 192), (192, 257)]
    wav = torch.randn(1, 1, 4000)
    logits, fmaps = disc(wav)
    assert len(fmaps) == 5 * 5 and fmaps[0].shape == (1, 4, 1 + 4000 // 128, 25)
    assert logits.shape[2:] == (1 + 4000 // 128, sum(math.ceil(n / 8) for n in (25, 39, 64, 64, 65)))
    tone = wav + torch.sin(2 * math.pi * 0.45 * torch.arange(4000.0)).view(1, 1, -1)  # in the fifth band
    inner = slice(8, -8)  # at its ends the tone is mirrored, with a bend
    pairs = zip(disc(tone)[1], fmaps, strict=True)
    changed = [not torch.allclose(a[:, :, inner], b[:, :, inner], atol=1e-2) for a, b in pairs]
    assert changed[20:] == [True] * 5 and not any(changed[:15])
    assert sum(p.numel() for p in MultiResolutionDiscriminator().parameters()) == pytest.approx(1.41e6, rel=0.01)


def test_level_and_mean_are_no_clue():
    seen = []
    part = torch.nn.Identity()
    part.register_forward_hook(lambda _, __, out: seen.append(out))
    Levelled(part)(torch.tensor([[[3.0, 1.0, 2.0]], [[0.3, 0.1, 0.2]]]))
    assert torch.allclose(seen[0], torch.tensor([[[0.8, -0.8, 0.0]], [[0.8, -0.8, 0.0]]]), atol=1e-6)


def test_matching_features_without_the_logits_by_hand():
    def judged(value):
        return Judged([torch.full((2,), 5.0 * value)], [[torch.full((2,), value), torch.full((3,), 3 * value)]])

    evidence = Evidence(None, None, judged(0.0), judged(1.0))
    assert FeatureMatching(summed=True, logits=False)(evidence).item() == 1 + 3
    assert FeatureMatching(summed=True)(evidence).item() == 1 + 3 + 5
    assert F.l1_loss(judged(0.0).logits[0], judged(1.0).logits[0]).item() == 5
