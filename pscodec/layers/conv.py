"""Convolutions over time that own layout and precision: every codec of the project gets its speed from here.

Weights keep the shapes of `nn.Conv1d` / `nn.ConvTranspose1d`, so public state dicts fit. The arithmetic runs as a 2-D
convolution of height 1 with the channels innermost in memory: oneDNN and cuDNN are faster on that layout in
bfloat16, and activations keep it from layer to layer through their strides. CPUs without AVX512 are left out of it.

oneDNN (3.12, the one of torch 2.13) computes some bfloat16 convolutions of few channels wrongly where a CPU has AMX:
forward, and backward through transposed ones, where channels times kernel make a multiple of 32. A kernel with one tap
more, a zero, is computed rightly, and means the same (`wrong_by_amx`).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm as _weight_norm

LONG = 7  # kernels from this width on gain by `interleaved`
CPU = torch.backends.cpu.get_cpu_capability()  # asked once: torch.compile cannot look into the question


AMX = torch.cpu._is_amx_tile_supported()


def wrong_by_amx(channels, weight, dtype):
    """Whether a convolution of so many `channels` in, with `weight` `[.., .., K]`, is one of those in `dtype`."""
    few = channels < 32 and channels * weight.shape[2] % 32 == 0
    return few and AMX and dtype == torch.bfloat16 and weight.device.type == "cpu"


def _computed_in(x):
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def channels_last(device):
    """Whether convolutions on `device` are to run channels-last: before AVX512, oneDNN's are half as fast that way."""
    return device.type != "cpu" or CPU.startswith("AVX512")


def lift(x):
    """`[B, C, T]` -> `[B, C, 1, T]`, channels innermost (a no-op when they already are)."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def conv1d(x, weight, bias, stride, padding, dilation, groups):
    """`F.conv1d`, channels-last where that is fast. Options are tuples of one number, as layers keep them."""
    if not channels_last(x.device):
        if torch.is_grad_enabled() and _to_interleave(weight.shape[2], *stride, *padding, *dilation, groups):
            return interleaved(x, weight, bias, *dilation)
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)
    if groups == 1 and wrong_by_amx(x.shape[1], weight, _computed_in(x)):
        x, weight = F.pad(x, (0, *dilation)), F.pad(weight, (0, 1))
    flat = (1, *stride), (0, *padding), (1, *dilation)
    return F.conv2d(lift(x), weight.unsqueeze(2), bias, *flat, groups).squeeze(2)


def _to_interleave(kernel, stride, padding, dilation, groups):
    """Whether a convolution is one of those that `interleaved` makes faster: dilated, long, and keeping its frames."""
    same = kernel % 2 == 1 and padding == kernel // 2 * dilation
    return dilation > 1 and kernel >= LONG and same and stride == groups == 1


def interleaved(x, weight, bias, dilation):
    """A dilated convolution that keeps its frames, as one without dilation of `dilation` signals that take turns.

    Before AVX512 oneDNN has no fast backward pass of a dilated convolution: this way forward and backward together take
    half to two thirds of the time with 16 to 64 channels, nine tenths with 256. `[B, C, T]` -> `[B, C', T]`.
    """
    n, frames = len(x), x.shape[-1]
    each = -(-frames // dilation)
    x = F.pad(x, (0, each * dilation - frames)).view(n, -1, each, dilation)
    x = x.permute(0, 3, 1, 2).reshape(n * dilation, -1, each)
    y = F.conv1d(x, weight, bias, padding=weight.shape[2] // 2)
    return y.view(n, dilation, -1, each).permute(0, 2, 3, 1).reshape(n, -1, each * dilation)[..., :frames]


def conv_transpose1d(x, weight, bias, stride, padding, output_padding, groups, dilation):
    """`F.conv_transpose1d`, as `conv1d`."""
    if not channels_last(x.device):
        return F.conv_transpose1d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    flat, beyond = ((1, *stride), (0, *padding), (0, *output_padding)), 0
    if groups == 1 and torch.is_grad_enabled() and wrong_by_amx(weight.shape[1], weight, _computed_in(x)):
        weight, beyond = F.pad(weight, (0, 1)), dilation[0]
    y = F.conv_transpose2d(lift(x), weight.unsqueeze(2), bias, *flat, groups, (1, *dilation)).squeeze(2)
    return y[..., : y.shape[-1] - beyond] if beyond else y


def pad_ends(x, ends, mode):
    """`x` `[B, C, T]` with `ends` (left, right) more frames: `zeros`, or its own ones mirrored at its ends (`reflect`).

    What is too short to be mirrored has zeros after it while that is done, as in EnCodec's public code.
    """
    if not any(ends):
        return x
    (left, right), n = ends, x.shape[-1]
    if mode == "zeros":
        beside = [x.new_zeros(len(x), x.shape[1], width) for width in ends]
    elif max(ends) < n:
        beside = [x[..., 1 : left + 1].flip(-1), x[..., n - 1 - right : n - 1].flip(-1)]
    else:
        return F.pad(F.pad(x, (0, max(ends) + 1 - n)), ends, mode="reflect")[..., : left + n + right]
    return join_frames([beside[0], x, beside[1]])


def join_frames(parts):
    """Signals `[B, C, n]` one after the other, in the order in memory that the layers here want."""
    if channels_last(parts[0].device):
        return torch.cat([part.transpose(1, 2) for part in parts], 1).transpose(1, 2)
    return torch.cat(parts, 2)


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` computed channels-last. `[B, C, T]` -> `[B, C', T']`.

    Beside the zeros that `padding` puts on both sides, `ends` (left, right) and `ends_mode` say what is put before and
    after the signal, see `pad_ends`.
    """

    ends, ends_mode = (0, 0), "zeros"

    def forward(self, x):
        if any(self.ends):
            x = pad_ends(x, self.ends, self.ends_mode)
        return conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` computed channels-last. `[B, C, T]` -> `[B, C', T']`, less `crop` frames at the end."""

    crop = 0

    def forward(self, x):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        y = conv_transpose1d(x, self.weight, self.bias, *options)
        return y[..., : y.shape[-1] - self.crop] if self.crop else y


def _start(layer, fan_in, gain=1.0):
    """He's initialisation (2015): the signal keeps its size through layers with rectifiers.

    torch's default shrinks it at each of them, and a vocoder then spends its first hundreds of steps on getting loud.
    """
    nn.init.normal_(layer.weight, std=gain * (2 / fan_in) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(
    i,
    o,
    kernel_size,
    stride=1,
    dilation=1,
    groups=1,
    bias=True,
    padding=None,
    weight_norm=True,
    gain=1.0,
    pad="same",
    mode="zeros",
):
    """A convolution of `i` to `o` channels, T / stride frames of T divisible by stride, unless `padding` (zeros on both
    sides) is told.

    `pad`: `same` looks as far back as ahead (odd kernels where stride is 1); `causal` looks back alone, no further than
    the stride that its output stands for. `mode`: what it sees beyond the ends, `zeros` or the signal mirrored there,
    `reflect`. Raises ValueError for other words, and for causal kernels shorter than their strides.
    """
    _check_word("pad", pad, ("same", "causal"))
    _check_word("mode", mode, ("zeros", "reflect"))
    total, ends = (kernel_size - 1) * dilation + 1 - stride, (0, 0)
    if padding is None:
        plain = pad == "same" and mode == "zeros"
        if not plain and total < 0:
            raise ValueError(f"a kernel of {kernel_size} is shorter than its stride of {stride}")
        padding = -(-total // 2) if plain else 0
        ends = (0, 0) if plain else (total, 0) if pad == "causal" else (total - total // 2, total // 2)
    layer = Conv1d(i, o, kernel_size, stride, padding, dilation, groups, bias)
    layer.ends, layer.ends_mode = ends, mode
    _start(layer, i * kernel_size // groups, gain)
    return _weight_norm(layer) if weight_norm else layer


def upsample(i, o, stride, kernel_size=None, weight_norm=True, pad="same", gain=1.0):
    """A transposed convolution of `i` to `o` channels: exactly T * stride frames; kernel 2 * stride unless told.

    `pad`: `same` gives an input to the frames on both sides; `causal` to its own and later ones alone.
    """
    _check_word("pad", pad, ("same", "causal"))
    kernel_size = kernel_size or 2 * stride
    if pad == "causal":
        layer = ConvTranspose1d(i, o, kernel_size, stride)
        layer.crop = kernel_size - stride
    else:
        padding = -(-(kernel_size - stride) // 2)
        layer = ConvTranspose1d(i, o, kernel_size, stride, padding, stride - kernel_size + 2 * padding)
    _start(layer, i * kernel_size // stride, gain)
    return _weight_norm(layer) if weight_norm else layer


def _check_word(name, word, known):
    if word not in known:
        raise ValueError(f"{name} is {' or '.join(known)}, not {word!r}")
