"""Layers fed piece by piece against the same layers on the whole signal."""

import pytest
import torch
from torch import nn

from pscodec.layers.conv import Conv1d, ConvTranspose1d, conv, upsample
from pscodec.layers.hifigan import MRF, LayerNorm
from pscodec.layers.packed import pack
from pscodec.layers.push import PushConv, PushConvTranspose, PushPointwise, PushWindows
from pscodec.layers.push_graph import Pushed
from pscodec.prompts.casan import CasAN
from pscodec.utils.errors import UserError

CUTS = [[1] * 24, [0, 3, 0, 9, 1, 11, 0], [24]]


def together(form, x, cuts):
    """Every output of `form` for `x` in pieces of `cuts`; what comes must be what `ready` promised."""
    out, n = [], 0
    for piece in x.split(cuts, -1):
        n += piece.shape[-1]
        out.append(form.push(piece))
        assert sum(y.shape[-1] for y in out) == form.ready(n)
    out.append(form.push(x[..., :0], last=True))
    form.reset()
    return torch.cat(out, -1)


def check(form, layer, x=None):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 24) if x is None else x
    with torch.inference_mode():
        whole = layer(x)
        for cuts in CUTS:
            torch.testing.assert_close(together(form, x, cuts), whole, atol=1e-5, rtol=0)
        for length in (1, 2, 5):  # shorter than the kernels
            if layer_outputs(layer, length) > 0:
                short = x[..., :length]
                torch.testing.assert_close(together(form, short, [length]), layer(short), atol=1e-5, rtol=0)
        first, rest = x[..., :9], x[..., 9:]  # the last piece may hold something
        torch.testing.assert_close(
            torch.cat([form.push(first), form.push(rest, last=True)], -1), whole, atol=1e-5, rtol=0
        )


def layer_outputs(layer, n):
    """Outputs of a convolution for n inputs, as torch's documentation counts them (other layers: n)."""
    if isinstance(layer, nn.Conv1d):
        return (n + 2 * layer.padding[0] - layer.dilation[0] * (layer.kernel_size[0] - 1) - 1) // layer.stride[0] + 1
    if isinstance(layer, nn.ConvTranspose1d):
        span = layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
        return (n - 1) * layer.stride[0] - 2 * layer.padding[0] + span + layer.output_padding[0]
    return n


def test_convolution_by_hand():
    layer = Conv1d(1, 1, 3, padding=1, bias=False)
    layer.weight.data = torch.tensor([[[1.0, 2.0, 3.0]]])
    form = PushConv(layer)
    pieces = [form.push(torch.tensor([[[x]]])).flatten().tolist() for x in (1.0, 2.0, 4.0)]
    # 0 + 2 * 1 + 3 * 2 = 8 once the 2 is there; 1 + 2 * 2 + 3 * 4 = 17 with the 4; 2 + 2 * 4 + 0 = 10 at the end
    assert pieces == [[], [8.0], [17.0]]
    assert form.push(torch.empty(1, 1, 0), last=True).flatten().tolist() == [10.0]


def test_transposed_convolution_by_hand():
    layer = ConvTranspose1d(1, 1, 4, 2, padding=1)
    layer.weight.data, layer.bias.data = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([100.0])
    form = PushConvTranspose(layer)
    # 1 gives 1 2 3 4, 10 gives 10 20 30 40 two later: 1 2 13 24 30 40, the first and the last cropped
    assert form.push(torch.tensor([[[1.0]]])).flatten().tolist() == [102.0]
    assert form.push(torch.tensor([[[10.0]]])).flatten().tolist() == [113.0, 124.0]
    assert form.push(torch.empty(1, 1, 0), last=True).flatten().tolist() == [130.0]


@pytest.mark.parametrize("kernel_size", [1, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("padding", [None, 5])
def test_convolutions(kernel_size, stride, dilation, padding):
    if stride > (kernel_size - 1) * dilation + 1:
        with pytest.raises(UserError, match="strides up to the kernel"):
            PushConv(Conv1d(4, 6, kernel_size, stride, dilation=dilation))
        return
    layer = conv(4, 6, kernel_size, stride, dilation, groups=2, padding=padding)
    check(PushConv(layer), layer)


@pytest.mark.parametrize(("stride", "factor"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 3), (4, 2), (5, 1), (5, 2)])
def test_upsampling(stride, factor):
    layer = upsample(4, 6, stride, factor * stride)
    check(PushConvTranspose(layer), layer)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "more", "dilation"),
    [(3, 2, 1, 1, 1), (3, 2, 1, 0, 1), (7, 3, 0, 2, 1), (4, 3, 2, 2, 2), (9, 2, 5, 0, 1), (5, 1, 2, 0, 3)],
)
def test_transposed_convolutions(kernel_size, stride, padding, more, dilation):
    layer = ConvTranspose1d(4, 6, kernel_size, stride, padding, more, dilation=dilation, bias=False)
    check(PushConvTranspose(layer), layer)


def test_a_transposed_convolution_that_would_take_back_its_outputs_is_refused():
    with pytest.raises(UserError, match="shorter than its inputs"):
        PushConvTranspose(ConvTranspose1d(1, 1, 4, 4, padding=1))


def test_plain_torch_layers_are_pushed_too():
    layer = nn.Conv1d(4, 6, 5, 2, 2)
    check(PushConv(layer), layer)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_branches_wait_for_each_other(norm):
    layer = MRF(4, kernels=(3, 7), dilations=(1, 3), norm=norm)
    check(Pushed(layer, layer), layer)


def test_a_sum_waits_for_the_slower_branch():
    form = PushPointwise(torch.add, 2)
    assert form.push(torch.ones(1, 1, 3), torch.ones(1, 1, 1)).shape[-1] == 1
    assert form.push(torch.ones(1, 1, 0), torch.ones(1, 1, 1)).flatten().tolist() == [2.0]
    with pytest.raises(ValueError, match="do not end together"):
        form.push(torch.ones(1, 1, 1), torch.ones(1, 1, 1), last=True)


def test_weights_that_are_packed_are_shared_and_held_inputs_are_copies():
    layer = pack(conv(4, 4, 3))
    form = PushConv(layer)
    assert form.function.packed is layer.packed and PushConvTranspose(pack(upsample(4, 4, 2))).function.bias is None
    x = torch.randn(1, 4, 1000)
    form.push(x)
    assert form.held.x.untyped_storage().nbytes() == 2 * 4 * 4  # two frames of four floats, not a view of a thousand


def test_windows_by_hand():
    """Each frame plus a hundred times the first frame of its window: what is kept shows which window it is from."""
    form = PushWindows(lambda x: x + 100 * x[..., :1], 4)
    signal = torch.arange(1.0, 12.0).reshape(1, 1, 11)
    assert form.push(signal[..., :3]).shape[-1] == 0
    assert form.push(signal[..., 3:7]).flatten().tolist() == [101, 102, 103, 304, 305]  # windows from 1 and 3
    assert form.push(signal[..., 7:8]).flatten().tolist() == [506, 507]
    # the next regular window, from 7 to 10, then the one that ends with 11
    assert form.push(signal[..., 8:], last=True).flatten().tolist() == [708, 709, 810, 811]
    form.reset()
    assert form.push(signal[..., :4]).flatten().tolist() == [101, 102, 103]
    assert form.push(signal[..., :0], last=True).flatten().tolist() == [104]
    form.reset()
    assert form.push(signal[..., :2], last=True).flatten().tolist() == [101, 102]


@pytest.mark.parametrize("frames", [5, 16, 17, 24, 31, 32, 50])
def test_casan_on_a_stream_is_casan(frames):
    torch.manual_seed(0)
    layer = CasAN(latent_dim=8, n_blocks=1, n_heads=2, hidden=8, n_groups=2, context=16).eval()
    for weight in layer.parameters():  # it sets out as a plain sum, with some of them zero
        nn.init.normal_(weight, std=0.5)
    side = {"z_vp": torch.randn(2, 8, 1), "z_mel": torch.randn(2, 8, 1)}
    form = Pushed(layer, lambda z_q: layer(z_q, **side))
    x = torch.randn(2, 8, frames)
    with torch.inference_mode():
        for size in (1, 7, 50):
            cuts = [size] * (frames // size) + [frames % size]
            torch.testing.assert_close(together(form, x, cuts), layer(x, **side), atol=1e-5, rtol=0)
    layer.context = 0
    with pytest.raises(UserError, match="whole recording"):
        Pushed(layer, layer)


class Widening(nn.Module):
    """`x + scale * sin(x)` and a constant, as Snake and speaker vectors do; then what `end` says."""

    def __init__(self, end=None):
        super().__init__()
        self.scale, self.end = nn.Parameter(torch.full((1, 4, 1), 2.0)), end or nn.Identity()

    def forward(self, x):
        return self.end(x + (1 / (self.scale + 1e-9)) * torch.sin(x).pow(2))


def test_elementwise_functions_and_constants():
    layer = Widening()
    check(Pushed(layer, layer), layer)


@pytest.mark.parametrize(
    ("end", "name"),
    [(nn.GroupNorm(2, 4), "end (GroupNorm)"), (nn.AdaptiveAvgPool1d(1), "end"), (nn.LSTM(4, 4), "end (LSTM)")],
)
def test_what_sees_the_whole_signal_is_refused_by_name(end, name):
    layer = Widening(end)
    with pytest.raises(UserError) as refusal:
        Pushed(layer, layer)
    assert f"Widening cannot be coded piece by piece: {name}" in str(refusal.value) and "\n" not in str(refusal.value)


def test_functions_over_time_are_refused_by_name():
    for function in (lambda x: x.softmax(-1), lambda x: torch.cumsum(x, -1), lambda x: x * torch.ones(4, 24)):
        with pytest.raises(UserError, match="cannot be coded piece by piece"):
            Pushed(nn.Identity(), function)


def test_choices_that_depend_on_the_signal_are_refused():
    with pytest.raises(UserError, match="cannot be coded piece by piece"):
        Pushed(nn.Identity(), lambda x: x if x.sum() > 0 else -x)


class Delayed(nn.Module):
    """The sum of each frame and the one before, scaled: with a push form of its own."""

    def forward(self, x, scale=1.0):
        return scale * (x + nn.functional.pad(x, (1, 0))[..., :-1])

    def push_form(self, scale=1.0):
        layer = Conv1d(4, 4, 2, padding=1, groups=4, bias=False)
        layer.weight.data.fill_(scale)

        class Cropped(PushConv):
            def push(self, x, last=False):
                return super().push(x)  # the right padding belongs to no frame

        return Cropped(layer)


def test_a_module_may_bring_its_own_push_form():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.delayed, self.norm = Delayed(), LayerNorm(4)

        def forward(self, x):
            return self.norm(self.delayed(x, scale=3.0))

    layer = Model()
    check(Pushed(layer, layer), layer)
