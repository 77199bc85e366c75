"""Codecs made fast: packed convolutions compute what the layers they came from compute."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import Conv1d, ConvTranspose1d, conv, lift, upsample
from pscodec.layers.packed import DESCRIBED, Blocks, pack
from pscodec.models.optimise import optimise
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.machine import onednn_takes

CONF = Path(__file__).parents[1] / "recipes/LibriTTS/codec/conf"


@pytest.fixture
def codec():
    torch.manual_seed(0)
    text = resolve(compose(CONF / "pscodec_base.yaml", [CONF / "presets/mini.yaml"]), {"codebook_dim": 8})
    return build_only(text, "codec").eval()


@pytest.fixture(params=["AVX512", "AVX2", "no oneDNN"])
def machine(request, monkeypatch):
    """A processor whose channels-last kernels are fast, one whose are not, and a build of torch without oneDNN.

    Any processor computes all three ways, save that oneDNN's blocks hold bfloat16 where the real one takes it.
    """
    capability = "AVX2" if request.param == "AVX2" else "AVX512"
    monkeypatch.setattr("pscodec.layers.conv.CPU", capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: request.param != "no oneDNN")
    return request.param


LAYERS = [
    lambda: conv(6, 8, 7, dilation=3),
    lambda: conv(6, 8, 10, stride=5),
    lambda: conv(1, 8, 7, bias=False),
    lambda: Conv1d(6, 8, 3, groups=2),
    lambda: upsample(6, 8, 5),
    lambda: ConvTranspose1d(6, 8, 7, 3, 1, 1, 2, bias=False),
]


@torch.inference_mode()
@pytest.mark.parametrize("layer", LAYERS)
def test_packed_layers_equal_their_own_ones(layer, machine):
    layer = layer().eval()
    x = torch.randn(2, layer.in_channels, 40)
    packed = pack(layer)
    assert isinstance(packed.packed, Blocks) == (machine == "AVX512") and packed(x).shape == layer(x).shape
    assert torch.allclose(packed(x), layer(x), atol=1e-5)
    half = pack(layer, torch.bfloat16)
    assert isinstance(half.packed, Blocks) == (machine == "AVX512" and onednn_takes(torch.bfloat16))
    assert half(x).dtype == torch.bfloat16
    assert (half(x) - layer(x)).norm() < 0.01 * layer(x).norm()  # 8 bits a factor


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: conv(96, 96, 7),
        lambda: conv(320, 960, 1),
        lambda: conv(48, 48, 4, stride=2),
        lambda: upsample(384, 192, 4),
    ],
)
def test_every_length_meets_the_blocks_that_it_wants(layer, dtype):
    """Where there are two kinds, the wrong ones took a hundred times as long."""
    layer = layer().eval()
    packed = pack(layer, dtype)
    if not isinstance(packed.packed, Blocks):
        pytest.skip("this processor has no use for blocks")
    blocks, options = packed.packed, packed._options()

    def check(length):
        x = torch.randn(1, layer.in_channels, length)
        met = blocks.wanted(torch.Size((1, layer.in_channels, 1, length)), options)
        fresh = getattr(torch.ops.mkldnn, blocks.arrange)(
            lift(layer.weight.to(dtype)), *options, [*x[:, :, None].shape]
        )
        one, other = (torch.ops.mkldnn._get_mkldnn_serialized_md(x)[DESCRIBED:] for x in (met, fresh))
        assert torch.equal(one, other)  # nothing is left to arrange
        expected = layer(x)
        assert (packed(x) - expected).norm() < (0.01 if dtype is torch.bfloat16 else 1e-5) * expected.norm()

    for length in (8, 20, 48, 100, 300, 1000):
        check(length)
    assert len(blocks.kinds) <= 3  # not one a length
    one = next(iter(blocks.kinds))
    blocks.kinds = {one: blocks.kinds[one]}  # others are made of this one when they are wanted
    threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            check(8)
            check(1000)
    finally:
        torch.set_num_threads(threads)


USE_BF16 = """
import pscodec, sys, torch
from pscodec.utils.machine import best_precision, onednn_takes
codec = pscodec.load_codec(sys.argv[1], precision="bf16")
wav = codec.decode(codec.encode(torch.randn(1, 24000), 24000))
print(onednn_takes(torch.bfloat16), best_precision("cpu"), codec.model.encoder.first.dtype, *wav.shape)
"""


def test_bf16_works_where_onednn_has_none(tiny_exp):
    environ = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # read once a process
    command = [sys.executable, "-c", USE_BF16, str(tiny_exp)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "fp32", "torch.bfloat16", "1", "24000"], done.stderr


@torch.inference_mode()
def test_packed_layers_share_weights_with_changed_options(machine):
    layer = conv(6, 8, 7, dilation=3).eval()
    first = pack(layer)
    second = pack(first, padding=0, bias=False)
    x = torch.randn(1, 6, 40)
    assert second.packed is first.packed and second.bias is None
    assert torch.allclose(second(x), F.conv1d(x, layer.weight, dilation=3), atol=1e-5)
    assert second(x).shape[-1] == 22 and first(x).shape[-1] == 40


def test_padding_that_is_not_zeros_is_refused():
    with pytest.raises(ValueError, match="zero padding"):
        pack(torch.nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"))


def use(codec):
    torch.manual_seed(1)
    wav, side = 0.1 * torch.randn(2, 1, 8000), {name: torch.randn(2, 256, 1) for name in ("z_vp", "z_mel")}
    with torch.inference_mode():
        codes = codec.encode(wav)
        return codec.encoder(codec.pad(wav)), codes, codec.decode(codes, side)


def test_fp32_codes_and_waveform_stay(codec, machine):
    z, codes, wav = use(codec)
    fast_z, fast_codes, fast_wav = use(optimise(copy.deepcopy(codec), "fp32"))
    assert (fast_z - z).abs().max() < 1e-5 * z.abs().max()
    assert torch.equal(fast_codes, codes) and (fast_wav - wav).abs().max() < 1e-5


def test_bf16_computes_in_bf16_and_gives_float(codec):
    z, _, wav = use(codec)
    fast = optimise(codec, "bf16")
    fast_z, _, _ = use(fast)
    assert fast_z.dtype == torch.float32 and 1e-4 < (fast_z - z).norm() / z.norm() < 0.03
    assert fast.encoder.first.bias.dtype == torch.bfloat16 and fast.melp_enc.first.weight.dtype == torch.float32
    names = {name for name, _ in fast.decoder.named_parameters()}
    assert not any("weight" in name for name in names), "nothing is kept twice"


def test_precision_is_chosen_by_the_machine_or_refused(codec, monkeypatch):
    monkeypatch.setattr("pscodec.models.optimise.best_precision", lambda device: "bf16")
    assert optimise(copy.deepcopy(codec)).encoder.first.dtype == torch.bfloat16
    with pytest.raises(UserError, match="precision is auto, fp32 or bf16, not 'fp16'"):
        optimise(codec, "fp16")


@pytest.mark.parametrize("channels", [2, 4, 8, 12, 16, 24, 32])
@pytest.mark.parametrize(
    "kernel, stride, padding", [(4, 4, 0), (8, 1, 0), (8, 4, 2), (16, 8, 0), (16, 8, 4), (7, 1, 3)]
)
def test_bfloat16_convolutions_of_few_channels_are_right(channels, kernel, stride, padding):
    """oneDNN's on AMX are not, of some of these."""
    torch.manual_seed(0)
    for layer in (
        nn.Conv1d(channels, 16, kernel, stride, padding),
        nn.ConvTranspose1d(16, channels, kernel, stride, padding),
        nn.Conv1d(channels, 16, kernel, 1, padding, dilation=3),
    ):
        kind = ConvTranspose1d if isinstance(layer, nn.ConvTranspose1d) else Conv1d
        ours = kind(layer.in_channels, layer.out_channels, kernel, layer.stride, padding, dilation=layer.dilation)
        ours.load_state_dict(layer.state_dict())
        x = torch.randn(2, layer.in_channels, 200)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = layer(x1)
        with torch.autocast("cpu", torch.bfloat16):
            fast = ours(x2)
        g = torch.randn_like(y)
        y.backward(g)
        fast.float().backward(g)
        for found, wanted in (
            (fast.detach().float(), y.detach()),
            (x2.grad, x1.grad),
            (ours.weight.grad, layer.weight.grad),
            (ours.bias.grad, layer.bias.grad),
            (pack(layer, torch.bfloat16)(x).float(), y.detach()),
        ):
            assert found.shape == wanted.shape and (found - wanted).norm() < 0.02 * wanted.norm()
