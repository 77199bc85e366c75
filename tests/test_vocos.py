"""The encoder and decoder at the rate of the frames: whole, in pieces, packed and exported."""

import math

import pytest
import torch

from pscodec.layers.convnext import ConvNeXt
from pscodec.layers.push_graph import Pushed
from pscodec.layers.source import NoisePhases
from pscodec.layers.spectrum import InverseSTFT, MelFrames, overlap_add
from pscodec.models.hificodec import HifiCodec
from pscodec.models.optimise import optimise
from pscodec.models.vocos import Decoder, Encoder
from pscodec.quantizers.rvq import GroupResidualVQ


@pytest.fixture(params=[None, (4000, 6000)], ids=["", "noise"])
def codec(request):
    torch.manual_seed(0)
    quantizer = GroupResidualVQ(16, codebook_size=32, n_residual=2, kmeans_steps=0, beam=3)
    return HifiCodec(Encoder(16, 24, 2, 48), quantizer, Decoder(16, 24, 2, 48, noise=request.param)).eval()


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.01])
def test_codes_and_waveform_have_the_lengths_of_any_other_codec(codec, seconds):
    wav = 0.1 * torch.randn(2, 1, round(24000 * seconds))
    codes = codec.encode(wav)
    assert codes.shape == (2, 2, -(-wav.shape[-1] // 320))
    assert codec.decode(codes, {}, wav.shape[-1]).shape == wav.shape


def test_frames_look_at_their_own_stretch_of_the_waveform():
    mel = MelFrames(24000, 320)
    wav = torch.zeros(1, 1, 3200)
    silence = mel(wav)
    wav[..., 1600] = 1.0
    heard = (mel(wav) != silence).any(1)[0].nonzero().flatten()
    # frame t sees the samples from 320 t - 352 up to 320 t + 672
    assert heard.tolist() == [3, 4, 5, 6]
    assert silence.unique().tolist() == pytest.approx([torch.tensor(0.01).log().item()])


def test_a_spectrum_turned_back_is_the_waveform():
    torch.manual_seed(0)
    wav = torch.randn(1, 24000)
    padded = torch.nn.functional.pad(wav, (480, 480)).unfold(-1, 1280, 320) * torch.hann_window(1280)
    spectrum = torch.fft.rfft(padded).transpose(1, 2)
    x = torch.cat([spectrum.abs().log(), spectrum.angle()], 1)
    assert torch.allclose(InverseSTFT(320)(x)[:, 0], wav, atol=1e-3)


def test_noise_has_the_phases_above_its_ramp_and_none_below():
    torch.manual_seed(0)
    level, phase = torch.full((1, 641, 600), -1.0), torch.zeros(1, 641, 1) + torch.linspace(0, 3, 641)[:, None]
    real, imag = NoisePhases(320, 1280, 24000, 4000, 6000)(torch.cat([level, phase.expand_as(level)], 1)).chunk(2, 1)
    spectrum = torch.complex(real, imag)
    edges = [round(f / 24000 * 1280) for f in (4000, 6000)]
    given = torch.polar(level.exp(), phase.expand_as(level))
    assert torch.allclose(spectrum[:, : edges[0] + 1], given[:, : edges[0] + 1], atol=1e-6)
    high = spectrum[0, edges[1] : -1]
    assert torch.allclose(high.abs(), level.exp()[0, edges[1] : -1], atol=1e-5)
    turns = (high[:, 1:256] / high[:, :255]).angle()  # frames overlap, so neighbours are alike, but for chance
    assert turns.std() > 0.5 and torch.allclose(high[:, :344], high[:, 256:], atol=1e-6)
    middle = spectrum[0, edges[0] : edges[1]].abs().square().mean(1)
    assert middle.mean() == pytest.approx(math.exp(-2), rel=0.1), "no dip of power where they meet"


def test_noise_ends_the_repetition_at_the_rate_of_the_frames():
    torch.manual_seed(0)
    z = torch.randn(1, 16, 1).expand(-1, -1, 300)
    alike = []
    for noise in (None, (4000, 6000)):
        torch.manual_seed(1)
        with torch.inference_mode():
            wav = Decoder(16, 24, 2, 48, noise=noise).eval()(z)[0, 0, 3200:-3200]
        spectrum = torch.fft.rfft(wav.double())
        spectrum[: len(spectrum) // 2] = 0  # above 6 kHz
        high = torch.fft.irfft(spectrum)
        alike.append((high[320:] @ high[:-320] / high.square().sum()).item())
    assert alike[0] > 0.95 and abs(alike[1]) < 0.3


def test_a_ramp_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="6000 Hz"):
        Decoder(noise=(6000, 4000))


@pytest.mark.parametrize(("length", "hop_length"), [(12, 4), (11, 4), (4, 4)])
def test_overlapping_frames_are_added_where_they_belong(length, hop_length):
    frames = torch.randn(2, 5, length)
    expected = torch.zeros(2, 4 * hop_length + length)
    for t in range(5):
        expected[:, t * hop_length : t * hop_length + length] += frames[:, t]
    assert torch.allclose(overlap_add(frames, hop_length), expected, atol=1e-6)


@pytest.mark.parametrize("piece", [1, 37, 1000, 24000])
def test_pieces_equal_one_pass(codec, piece):
    wav = 0.1 * torch.randn(1, 1, 320 * 40)
    with torch.inference_mode():
        z = codec.encoder(wav)
        for part, x, whole in ((codec.encoder, wav, z), (codec.decoder, z, codec.decoder(z))):
            pushed = Pushed(codec, part)
            found = torch.cat([*map(pushed.push, x.split(piece, -1)), pushed.push(x[..., :0], last=True)], -1)
            assert torch.allclose(found, whole, atol=1e-4)


def test_pieces_too_short_for_a_frame_are_waited_for_in_bf16(codec):
    optimise(codec, "bf16")
    wav = 0.1 * torch.randn(1, 1, 320 * 10)
    with torch.inference_mode():
        z = codec.encoder(wav)
        for part, x, whole in ((codec.encoder, wav, z), (codec.decoder, z, codec.decoder(z))):
            pushed = Pushed(codec, part)
            found = [*map(pushed.push, x.split(x.shape[-1] // 10, -1)), pushed.push(x[..., :0], last=True)]
            assert found[0].shape[-1] == 0
            assert (torch.cat(found, -1) - whole).abs().max() < 0.1 * whole.abs().max()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_packed_for_use_it_computes_the_same(codec, precision, tolerance):
    wav = 0.1 * torch.randn(1, 1, 9600)
    with torch.inference_mode():
        z = codec.encoder(wav)
        before = codec.decoder(z)
        optimise(codec, precision)
        assert (codec.encoder(wav) - z).abs().max() < tolerance * z.abs().max()
        assert (codec.decoder(z).float() - before).abs().max() < tolerance * before.abs().max()


def test_onnx_computes_the_same(codec, tmp_path):
    pytest.importorskip("onnxruntime")
    from pscodec.bin.export_onnx import DecoderGraph, EncoderGraph, export

    assert export(EncoderGraph(codec).eval(), tmp_path / "encoder.onnx") <= 0.02
    assert export(DecoderGraph(codec, {}).eval(), tmp_path / "decoder.onnx") <= 1e-4


def test_gradients_reach_every_weight(codec):
    wav = 0.1 * torch.randn(2, 1, 3200)
    codec.train()(wav).wav_hat.square().mean().backward()
    without = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if "quantizer" not in name]


def test_a_block_begins_near_the_identity():
    torch.manual_seed(0)
    x = torch.randn(1, 32, 50)
    assert (ConvNeXt(32, 96)(x) - x).std() < 0.2


def test_an_stft_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="1023"):
        MelFrames(24000, 320, n_fft=1023)
