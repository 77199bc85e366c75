"""SoundStream: its network's shape, its loss and its complex discriminator by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from pscodec.discriminators.complex_stft import ComplexConv2d, ComplexSTFTDiscriminator, ModReLU
from pscodec.features import LogMel
from pscodec.losses.spectral import MultiMelL1LogL2
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.types import CodecOutput, Evidence
from pscodec.utils.hparams import build_only, compose, resolve


def test_its_units_are_the_papers(recipe):
    codec = build_only(resolve(compose(recipe / "conf/soundstream.yaml"), {"width": 8, "latent_dim": 16}), "codec")
    units = [layer for layer in codec.encoder.layers if hasattr(layer, "block")]
    assert [unit.block[1].dilation for unit in units] == 4 * [(1,), (3,), (9,)]
    assert {unit.block[1].kernel_size for unit in units} == {(7,)}
    assert units[0].block[1].out_channels == 8 and isinstance(units[0].shortcut, torch.nn.Identity)
    assert not any(isinstance(layer, torch.nn.LSTM) for layer in codec.modules())
    assert codec.bitrate == 6000


def test_a_frame_goes_out_when_it_is_in_and_equals_one_pass(recipe):
    torch.manual_seed(0)
    text = resolve(compose(recipe / "conf/soundstream.yaml"), {"width": 4, "latent_dim": 16, "kmeans_steps": 0})
    codec = build_only(text, "codec").eval()
    for book in codec.quantizer.codebooks:
        torch.nn.init.normal_(book.entries)
    wav = 0.1 * torch.randn(1, 1, 320 * 20)
    codes = codec.encode(wav)
    wav_hat = codec.decode(codes, {})
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, {})
    assert (encoder.latency, decoder.latency) == (320, 0)
    for t, piece in enumerate(wav.split(320, 2)):
        frame = encoder.push(piece)
        assert torch.equal(frame, codes[..., t : t + 1])
        assert torch.allclose(decoder.push(frame), wav_hat[..., 320 * t : 320 * (t + 1)], atol=1e-5)


def test_the_spectral_loss_by_hand():
    wav = 0.3 * torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    loss = MultiMelL1LogL2(windows=[256], n_mels=8)
    mel = LogMel(24000, 256, 64, 8).mel(wav)
    doubled = Evidence(wav, CodecOutput(2 * wav))
    by_hand = mel.abs().mean().item() + math.sqrt(128) * math.log(2)  # every logarithm is off by log 2
    assert loss(doubled).item() == pytest.approx(by_hand, rel=1e-3)
    assert loss(Evidence(wav, CodecOutput(wav))).item() == pytest.approx(0, abs=1e-4)


def test_complex_numbers_by_hand():
    torch.manual_seed(0)
    layer = ComplexConv2d(2, 3, (3, 3), (1, 2))
    x = torch.randn(1, 2, 5, 8, dtype=torch.complex64)
    real, imaginary = layer.weight.unbind(-1)

    def plain(values, weight):
        return F.conv2d(values, weight, None, (1, 2), 1)

    by_hand = torch.complex(
        plain(x.real, real) - plain(x.imag, imaginary), plain(x.real, imaginary) + plain(x.imag, real)
    )
    assert torch.allclose(layer(x), by_hand, atol=1e-5)
    relu = ModReLU()
    with torch.no_grad():
        relu.b.fill_(-1)
    found = relu(torch.tensor([3 + 4j, 0.3 + 0.4j, 0j]))
    assert torch.allclose(found, torch.tensor([3 + 4j, 0, 0]) * 4 / 5, atol=1e-6)


def test_the_discriminator_halves_frequency_six_times_and_time_thrice():
    torch.manual_seed(0)
    judged = ComplexSTFTDiscriminator(n_fft=256, width=2)(torch.randn(2, 1, 4096))
    assert judged.logits[0].shape == (2, 16, 9, 3) and (judged.logits[0] >= 0).all()  # 65 frames, 129 bins
    assert [fmap.shape[1] for fmap in judged.fmaps[0]] == [2, 2, 4, 8, 8, 16]
