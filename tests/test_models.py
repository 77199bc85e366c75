"""The parts of PSCodec: sizes of the paper, shapes, and what may not reach over time."""

from pathlib import Path

import pytest
import torch

from pscodec.discriminators.base import Discriminators
from pscodec.discriminators.mpd import MultiPeriodDiscriminator, PeriodDiscriminator
from pscodec.discriminators.msstft import MultiScaleSTFTDiscriminator
from pscodec.layers.conv import conv, interleaved, upsample
from pscodec.models.hificodec import Encoder
from pscodec.types import Prompt
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve

CONF = Path(__file__).parents[1] / "recipes/LibriTTS/codec/conf"


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def codec(*presets, **overrides):
    return build_only(resolve(compose(CONF / "pscodec_base.yaml", presets), overrides), "codec")


@pytest.fixture(scope="module")
def paper():
    return codec().eval()


@pytest.fixture(scope="module")
def mini():
    torch.manual_seed(0)
    return codec(CONF / "presets/mini.yaml").eval()


def prompt(batch=1, frames=120):
    torch.manual_seed(1)
    return Prompt(fbank=torch.randn(batch, 80, frames), mel=torch.randn(batch, 80, frames))


@pytest.mark.parametrize(
    ("part", "size"),
    [("encoder", 47.19), ("decoder", 14.22), ("quantizer", 0.262), ("melp_enc", 13.8), ("vpp_enc.campplus", 6.85)],
)
def test_parameters_of_each_part(paper, part, size):
    assert millions(paper.get_submodule(part)) == pytest.approx(size, rel=0.02)


def test_the_paper_counts_84_million(paper):
    assert millions(paper) == pytest.approx(84, rel=0.02)


def test_discriminators_have_their_published_sizes():
    assert millions(MultiPeriodDiscriminator()) == pytest.approx(41.1, rel=0.01)
    assert millions(MultiScaleSTFTDiscriminator()) == pytest.approx(0.47, rel=0.03)


def test_bitrates(paper):
    assert paper.frame_rate == 75 and paper.bitrate == 675
    assert codec(CONF / "presets/mini.yaml", n_residual=2).bitrate == 1350


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.01])
def test_shapes_of_any_length(mini, seconds):
    wav = torch.randn(2, 1, int(seconds * 24000)).clamp(-1, 1)
    codes = mini.encode(wav)
    assert codes.shape == (2, 1, -(-wav.shape[-1] // 320)) and codes.dtype == torch.int64
    side = mini.side(prompt(2))
    assert side["z_vp"].shape == side["z_mel"].shape == (2, 256, 1)
    wav_hat = mini.decode(codes, side, wav.shape[-1])
    assert wav_hat.shape == wav.shape and wav_hat.abs().max() <= 1


def test_forward_is_encode_then_decode(mini):
    wav = torch.randn(1, 1, 9600)
    with torch.no_grad():
        output = mini(wav, prompt())
    assert torch.equal(output.quantized.codes, mini.encode(wav))
    decoded = mini.decode(output.quantized.codes, mini.side(prompt()))
    assert torch.allclose(output.wav_hat, decoded, atol=1e-4)


@pytest.mark.parametrize(("norm", "local"), [("none", True), ("layer", True), ("group", False)])
def test_what_reaches_over_time(norm, local):
    torch.manual_seed(0)
    encoder = Encoder(16, 4, kernels=(3, 7), dilations=(1, 3), norm=norm).eval()
    wav = torch.randn(1, 1, 320 * 60)
    later = wav.clone()
    later[..., 320 * 50 :] = 0
    with torch.no_grad():
        same = torch.allclose(encoder(wav)[..., :10], encoder(later)[..., :10], atol=1e-5)
    assert same is local


def test_a_prompt_that_brings_its_voiceprint_equals_one_that_does_not(mini):
    p = prompt()
    with torch.no_grad():
        voiceprint = mini.vpp_enc.campplus(p.fbank)
        assert torch.allclose(
            mini.side(p)["z_vp"], mini.side(Prompt(mel=p.mel, voiceprint=voiceprint))["z_vp"], atol=1e-6
        )


def test_convolutions_equal_torch_and_give_whole_frames():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 40)
    ours = conv(6, 8, 5, dilation=3, weight_norm=False)
    assert torch.allclose(
        ours(x), torch.nn.functional.conv1d(x, ours.weight, ours.bias, padding=6, dilation=3), atol=1e-5
    )
    for stride in (2, 4, 5, 8):
        assert conv(6, 8, 2 * stride, stride)(x).shape == (2, 8, 40 // stride)
        up = upsample(6, 8, stride, weight_norm=False)
        plain = torch.nn.functional.conv_transpose1d(x, up.weight, up.bias, stride, up.padding, up.output_padding)
        assert up(x).shape == (2, 8, 40 * stride) and torch.allclose(up(x), plain, atol=1e-5)


@pytest.mark.parametrize("kernel", [7, 11])
@pytest.mark.parametrize("dilation", [2, 3, 5])
@pytest.mark.parametrize("frames", [1, 4, 30, 41])
def test_dilated_convolutions_learn_the_same_before_avx512(kernel, dilation, frames, monkeypatch):
    monkeypatch.setattr("pscodec.layers.conv.CPU", "AVX2")
    seen = []
    monkeypatch.setattr("pscodec.layers.conv.interleaved", lambda *args: seen.append(args) or interleaved(*args))
    torch.manual_seed(0)
    layer = conv(4, 6, kernel, dilation=dilation, weight_norm=False).double()
    x = torch.randn(3, 4, frames, dtype=torch.float64, requires_grad=True)
    padding = kernel // 2 * dilation
    y = layer(x)
    assert len(seen) == 1
    plain = torch.nn.functional.conv1d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)
    torch.testing.assert_close(y, plain)
    wanted = [x, layer.weight, layer.bias]
    ours, theirs = (torch.autograd.grad(out.square().sum(), wanted) for out in (y, plain))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "grad"),
    [
        (lambda: conv(4, 6, 7, dilation=3), False),  # in use
        (lambda: conv(4, 6, 7), True),
        (lambda: conv(4, 6, 3, dilation=3), True),
        (lambda: conv(4, 6, 7, dilation=3, pad="causal"), True),
        (lambda: conv(4, 6, 7, dilation=3, padding=5), True),
        (lambda: conv(4, 6, 7, dilation=3, groups=2), True),
        (lambda: conv(4, 6, 8, dilation=2, padding=7), True),
    ],
)
def test_other_convolutions_are_left_as_they_are(layer, grad, monkeypatch):
    monkeypatch.setattr("pscodec.layers.conv.CPU", "AVX2")
    monkeypatch.setattr("pscodec.layers.conv.interleaved", None)
    with torch.set_grad_enabled(grad):
        layer()(torch.randn(2, 4, 40))


def test_period_discriminator_equals_its_two_dimensional_form():
    torch.manual_seed(0)
    d, wav = PeriodDiscriminator(3, width=2), torch.randn(2, 1, 300)
    logits, fmaps = d(wav)
    x = wav.view(2, 1, 100, 3)
    for layer in d.convs:
        x = torch.nn.functional.conv2d(x, layer.weight.unsqueeze(3), layer.bias, (layer.stride[0], 1), (2, 0))
        x = torch.nn.functional.leaky_relu(x, 0.1)
    assert torch.allclose(fmaps[-1].view(2, 3, *fmaps[-1].shape[1:]).permute(0, 2, 3, 1), x, atol=1e-5)
    assert len(fmaps) == 5 and logits.shape[:2] == (6, 1)


def test_discriminators_string_their_answers_together():
    d = Discriminators({"mpd": MultiPeriodDiscriminator(width=1), "msstft": MultiScaleSTFTDiscriminator(width=2)})
    judged = d(torch.randn(1, 1, 4800))
    assert len(judged.logits) == len(judged.fmaps) == 10
    assert Discriminators()(torch.randn(1, 1, 4800)).logits == []


def test_strides_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="samples a frame"):
        codec(CONF / "presets/mini.yaml", decoder_strides=[4, 4, 4, 4])
