"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from pscodec.features import LogMel, stft
from pscodec.losses.adversarial import FeatureMatching, HingeGenerator, hinge_discriminator
from pscodec.losses.base import ModelLoss, WeightedSum
from pscodec.losses.spectral import MultiMelL1, WavL1
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


def test_losses_of_silence_have_finite_gradients():
    wav_hat = torch.zeros(1, 1, 24000, requires_grad=True)
    (
        MultiMelL1()(heard(torch.zeros(1, 1, 24000), wav_hat)) + WavL1()(heard(torch.zeros(1, 1, 24000), wav_hat))
    ).backward()
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
