"""APCodec: spectra there and back, its losses by hand, what cannot be streamed."""

import math

import pytest
import torch

from pscodec.discriminators.base import Discriminators
from pscodec.discriminators.mrd import MagnitudeDiscriminator
from pscodec.files import encode_file
from pscodec.inference import Coder
from pscodec.layers.convnext import GRN
from pscodec.layers.spectrum import ComplexFrames, InverseSTFT
from pscodec.losses.adversarial import FeatureMatching, HingeGenerator, LeastSquaresGenerator
from pscodec.losses.phase import AmplitudeL2, AntiWrappedPhase, Consistency, RealImaginary, anti_wrap
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.types import CodecOutput, Evidence, Judged
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve

SIZES = {"shift": 40, "n_fft": 128, "win_length": 80}


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_fft", "win_length"), [(1024, 320), (128, 80), (80, None)])
def test_there_and_back(n_fft, win_length):
    wav = noise(2, 1, 3200)
    spectrum = ComplexFrames(40, n_fft, win_length)(wav)
    assert spectrum.shape == (2, n_fft // 2 + 1, 80)
    back = InverseSTFT(40, n_fft, win_length)(torch.cat([spectrum.abs().clamp(min=1e-12).log(), spectrum.angle()], 1))
    assert torch.allclose(back, wav, atol=1e-4)


def test_a_frame_is_the_windowed_transform_of_what_is_around_its_hop():
    wav = noise(1, 1, 400)
    frame = ComplexFrames(40, 128, 80)(wav)[0, :, 3]  # in the middle of samples 120 to 159
    stretch = wav[0, 0, 140 - 40 : 140 + 40] * torch.hann_window(80)
    padded = torch.cat([torch.zeros(24), stretch, torch.zeros(24)])
    assert torch.allclose(frame, torch.fft.rfft(padded), atol=1e-5)


def test_grn_by_hand():
    grn = GRN(2)
    x = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])  # norms over time 5 and 1, mean 3
    assert torch.equal(grn(x), x)
    with torch.no_grad():
        grn.gamma.fill_(1), grn.beta[1].fill_(10)
    by_hand = [3 + 3 * 5 / 3, 4 + 4 * 5 / 3, 10.0, 10 + 1 + 1 / 3]
    assert grn(x).flatten().tolist() == pytest.approx(by_hand, rel=1e-5)


def test_phases_are_compared_around_the_circle():
    errors = torch.tensor([0.1, -0.1, math.pi, 2 * math.pi - 0.1, 4 * math.pi + 0.2])
    assert anti_wrap(errors).tolist() == pytest.approx([0.1, 0.1, math.pi, 0.1, 0.2], abs=1e-5)


def evidence(wav, wav_hat=None, turn=0.0, louder=0.0):
    """Of a decoder that makes the spectrum of `wav`, but for a phase and a logarithm of the amplitude more."""
    spectrum = ComplexFrames(*SIZES.values())(wav)
    latents = {"log_amplitude": (spectrum.abs() + 1e-5).log() + louder, "phase": spectrum.angle() + turn}
    return Evidence(wav, CodecOutput(wav if wav_hat is None else wav_hat, None, latents))


def test_losses_by_hand():
    wav = noise(1, 1, 800)
    for loss in (AmplitudeL2, AntiWrappedPhase, Consistency, RealImaginary):
        assert loss(**SIZES)(evidence(wav)).item() == pytest.approx(0, abs=1e-4)
    assert AmplitudeL2(**SIZES)(evidence(wav, louder=0.5)).item() == pytest.approx(0.25)
    # a phase that is everywhere wrong by .3: group delays and derivatives are right
    assert AntiWrappedPhase(**SIZES)(evidence(wav, turn=0.3)).item() == pytest.approx(0.3, rel=1e-3)
    assert AntiWrappedPhase(**SIZES)(evidence(wav, turn=2 * math.pi)).item() == pytest.approx(0, abs=1e-4)
    spectrum = ComplexFrames(*SIZES.values())(wav)
    silent = torch.zeros_like(wav)
    assert Consistency(**SIZES)(evidence(wav, silent)).item() == pytest.approx(
        spectrum.abs().square().mean().item(), rel=1e-2
    )
    opposite = RealImaginary(**SIZES)(evidence(wav, turn=math.pi)).item()
    assert opposite == pytest.approx(2 * (spectrum.real.abs().mean() + spectrum.imag.abs().mean()).item(), rel=1e-2)


def test_a_discriminator_of_less_weight_is_heard_less():
    torch.manual_seed(0)
    parts = {"a": MagnitudeDiscriminator(64, 16, 64, width=2), "b": MagnitudeDiscriminator(32, 8, 32, width=2)}

    class Alone(torch.nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, wav):
            return Judged(*([x] for x in self.part(wav)))

    both = Discriminators({name: Alone(part) for name, part in parts.items()}, weights={"b": 0.1})
    real, fake = both(noise(1, 1, 400)), both(noise(1, 1, 400).flip(2))
    assert fake.weights == [1.0, 0.1] == fake.detach().weights

    def of(loss, *which):
        judged = [Judged([x.logits[i] for i in which], [x.fmaps[i] for i in which]) for x in (real, fake)]
        return loss(Evidence(None, None, *judged)).item()

    for loss in (LeastSquaresGenerator(), FeatureMatching(summed=True)):
        whole = loss(Evidence(None, None, real, fake)).item()
        assert whole == pytest.approx(of(loss, 0) + 0.1 * of(loss, 1), rel=1e-5)
    hinge = HingeGenerator()
    assert hinge(Evidence(None, None, real, fake)).item() == pytest.approx(
        (of(hinge, 0) + 0.1 * of(hinge, 1)) / 2, rel=1e-5
    )


def test_what_looks_over_the_whole_recording_is_refused_by_name(recipe, tmp_path):
    text = resolve(compose(recipe / "conf/apcodec.yaml"), {"width": 8, "decoder_width": 8})
    codec = build_only(text, "codec").eval()
    assert codec.hop_length == 320 and codec.bitrate == 3000
    wav = noise(1, 1, 3200)
    codes = codec.encode(wav)
    assert codes.shape == (1, 4, 10) and codec.decode(codes, {}).shape == (1, 1, 3200)
    for stream in (lambda: StreamEncoder(codec), lambda: StreamDecoder(codec, {})):
        with pytest.raises(
            UserError, match=r"APCodec cannot be coded piece by piece: .*grn \(.*norm\) may look at the whole"
        ):
            stream()
    (tmp_path / "empty.raw").touch()
    with pytest.raises(UserError, match="an empty recording"):
        encode_file(Coder(codec), tmp_path / "empty.raw", tmp_path / "x.psc", raw_rate=24000)
