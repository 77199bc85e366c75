"""Decoders that shape pulses and noise: what the source is, pieces, export, and how the pitch is learned."""

import math

import pytest
import torch

from pscodec.layers.push_graph import Pushed
from pscodec.layers.source import HIGHEST, Excitation, SourceFilter, Spectra
from pscodec.layers.spectrum import InverseParts
from pscodec.losses.pitch import PitchLoss
from pscodec.models.hificodec import HifiCodec
from pscodec.models.source import Decoder, PitchHead
from pscodec.models.vocos import Encoder
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.types import CodecOutput, Evidence, Plan


@pytest.fixture
def codec():
    torch.manual_seed(0)
    quantizer = GroupResidualVQ(16, codebook_size=32, n_residual=2, kmeans_steps=0, beam=3)
    return HifiCodec(Encoder(16, 24, 2, 48), quantizer, Decoder(16, 24, 2, 48)).eval()


def test_pulses_hold_every_harmonic_at_one_amplitude():
    # 125 Hz: 192 samples a period, 95 harmonics below 12 kHz
    pulses, noise = Excitation(320, 24000)(torch.full((1, 1, 75), math.log(125.01)))[0]
    spectrum = torch.fft.rfft(pulses.double() * torch.hann_window(24000)).abs() / 6000
    harmonics = torch.stack([spectrum[round(125.01 * k) - 1 : round(125.01 * k) + 2].max() for k in range(1, 96)])
    assert torch.allclose(harmonics, torch.full_like(harmonics, math.sqrt(2 / 95)), rtol=0.25), (
        "1.4 dB at most: a Hann window's"
    )
    between = torch.cat([spectrum[round(125.01 * k) + 8 : round(125.01 * (k + 1)) - 7] for k in range(95)])
    assert between.max() < 1e-3
    assert pulses.square().mean() == pytest.approx(1, abs=0.02) and noise.square().mean() == pytest.approx(1, abs=0.05)
    assert pulses[191::192][:5].min() > 13, "the first period ends with the first pulse: sqrt(2 * 95) high"


def test_phases_go_on_where_the_pitch_changes():
    log_f0 = torch.log(torch.tensor([100.0, 150.0, 200.0])).view(1, 1, 3)
    pulses = Excitation(320, 24000)(log_f0)[0, 0]
    # periods of 240, 160 and 120 samples; a frame of 320 is 1 1/3, 2 and 2 2/3 of them
    peaks = (pulses > 8).nonzero().flatten() + 1
    expected = [240, 320 + 2 / 3 * 160, 320 + 5 / 3 * 160, 640 + 2 / 3 * 120, 640 + 5 / 3 * 120, 960]
    assert sorted({round(t) for t in expected}) == pytest.approx(peaks.tolist(), abs=1)


def test_without_filters_the_spectra_are_the_source():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3200)
    spectra = Spectra(320, 1280)(x)
    n = 641
    none, whole = torch.full((2, n, 10), -40.0), torch.zeros(2, n, 10)
    inverse = InverseParts(320, 1280)
    for filters, expected in (
        ((whole, whole, none), x[:, :1]),
        ((none, whole, whole), x[:, 1:]),
        ((whole + math.log(0.5), whole + math.pi, none), -0.5 * x[:, :1]),
    ):
        assert torch.allclose(inverse(SourceFilter()(torch.cat(filters, 1), spectra)), expected, atol=1e-5)


@pytest.mark.parametrize("piece", [1, 3, 40])
def test_pieces_equal_one_pass(codec, piece):
    z = torch.randn(2, 16, 40)
    with torch.inference_mode():
        whole, pushed = codec.decoder(z), Pushed(codec, codec.decoder)
        for _ in range(2):  # a second signal begins anew
            parts = [pushed.push(part, last=False) for part in z.split(piece, 2)]
            parts.append(pushed.push(z[..., :0], last=True))
            # a pitch that is off by the last bit moves the flanks of the pulses
            assert torch.allclose(torch.cat(parts, 2), whole, atol=2e-3) and whole.abs().max() > 0.2
            pushed.reset()


def test_gradients_are_finite_and_leave_the_pitch_to_its_loss(codec):
    codec.train()
    codec.decoder(torch.randn(2, 16, 20)).square().mean().backward()
    grads = {name: p.grad for name, p in codec.decoder.named_parameters()}
    assert all((grad is None) == name.startswith("pitch.") for name, grad in grads.items())
    assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)


def harmonic(f0, seconds, rate=24000):
    time = torch.arange(round(seconds * rate)) / rate
    return sum(torch.sin(2 * math.pi * k * f0 * time) / k for k in range(1, 12)) * 0.1


def test_the_loss_is_how_far_the_pitch_is_off():
    wav = torch.stack([harmonic(140.0, 1.0), harmonic(220.0, 1.0), torch.randn(24000) * 1e-4])[:, None]
    loss = PitchLoss(24000, 320, items=0)
    told = torch.zeros(3, 2, 75)
    told[:, 0] = torch.tensor([140.0, 220.0, 100.0]).log()[:, None]
    told[:, 1] = torch.tensor([4.0, 4.0, -4.0])[:, None]
    value = lambda: loss(Evidence(wav, CodecOutput(wav, None, {"pitch": told}, {}))).item()  # noqa: E731
    assert value() < 0.03
    told[:2, 0] += 0.1
    assert value() == pytest.approx(0.1, abs=0.03)
    told[:, 1] *= -1
    assert value() > 0.7, "voiced for unvoiced and the other way round"


def test_what_a_codec_can_tell_is_what_it_learns():
    head, loss = PitchHead(16, 8), PitchLoss(24000, 320)
    torch.nn.init.zeros_(head.pitch.weight)
    torch.nn.init.constant_(head.pitch.bias, 100.0)  # as high as it goes
    told = head(torch.zeros(1, 16, 3))[0].exp()
    f0, voiced = loss.track(harmonic(HIGHEST + 100, 1.0)[None], 75)
    assert told.max().item() == pytest.approx(f0.max()) == HIGHEST and not voiced[0, 10:-10].any()
    f0, voiced = loss.track(harmonic(HIGHEST - 100, 1.0)[None], 75)
    assert f0[0, 10:-10] == pytest.approx(HIGHEST - 100, rel=0.03) and voiced[0, 10:-10].all()


def test_a_codec_without_pitch_is_named(codec):
    wav = torch.zeros(1, 1, 3200)
    with pytest.raises(ValueError, match="tells no pitch"):
        PitchLoss(24000, 320)(Evidence(wav, CodecOutput(wav, None, {}, {})))


def test_frozen_codebooks_give_each_item_what_its_number_of_them_codes_in_use():
    torch.manual_seed(0)
    quantizer = GroupResidualVQ(16, codebook_size=32, n_residual=2, kmeans_steps=0, beam=4, dropout=0.5).eval()
    quantizer.frozen = True
    z = torch.randn(4, 16, 30)
    quantizer.plan = Plan({"n_q": torch.tensor([1, 2, 1, 2])}, slice(None), True)
    taught = quantizer(z)
    quantizer.plan = None
    both = quantizer(z)
    quantizer.n_q = 1
    one = quantizer(z)
    assert not torch.equal(one.codes[:, 0], both.codes[:, 0]), "the search makes them differ"
    for item, expected in enumerate((one, both, one, both)):
        assert torch.equal(taught.z_q[item], expected.z_q[item])
    assert torch.equal(taught.codes, both.codes)


def test_onnx_computes_the_same(codec, tmp_path):
    pytest.importorskip("onnxruntime")
    from pscodec.bin.export_onnx import DecoderGraph, export

    assert export(DecoderGraph(codec, {}).eval(), tmp_path / "decoder.onnx") <= 5e-3
