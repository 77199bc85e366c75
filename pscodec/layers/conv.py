"""Convolutions over time that own layout and precision: every codec of the project gets its speed from here.

Weights keep the shapes of `nn.Conv1d` / `nn.ConvTranspose1d`, so public state dicts fit. The arithmetic runs as a 2-D
convolution of height 1 with the channels innermost in memory: oneDNN and cuDNN are faster on that layout in
bfloat16, and activations keep it from layer to layer through their strides. CPUs without AVX512 are left out of it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm as _weight_norm

CPU = torch.backends.cpu.get_cpu_capability()  # asked once: torch.compile cannot look into the question


def channels_last(device):
    """Whether convolutions on `device` are to run channels-last: before AVX512, oneDNN's are half as fast that way."""
    return device.type != "cpu" or CPU.startswith("AVX512")


def lift(x):
    """`[B, C, T]` -> `[B, C, 1, T]`, channels innermost (a no-op when they already are)."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def conv1d(x, weight, bias, stride, padding, dilation, groups):
    """`F.conv1d`, channels-last where that is fast. Options are tuples of one number, as layers keep them."""
    if not channels_last(x.device):
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)
    flat = (1, *stride), (0, *padding), (1, *dilation)
    return F.conv2d(lift(x), weight.unsqueeze(2), bias, *flat, groups).squeeze(2)


def conv_transpose1d(x, weight, bias, stride, padding, output_padding, groups, dilation):
    """`F.conv_transpose1d`, as `conv1d`."""
    if not channels_last(x.device):
        return F.conv_transpose1d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    flat = (1, *stride), (0, *padding), (0, *output_padding)
    return F.conv_transpose2d(lift(x), weight.unsqueeze(2), bias, *flat, groups, (1, *dilation)).squeeze(2)


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` (zero padding) computed channels-last. `[B, C, T]` -> `[B, C', T']`."""

    def forward(self, x):
        return conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` computed channels-last. `[B, C, T]` -> `[B, C', T']`."""

    def forward(self, x):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return conv_transpose1d(x, self.weight, self.bias, *options)


def _start(layer, fan_in, gain=1.0):
    """He's initialisation (2015): the signal keeps its size through layers with rectifiers.

    torch's default shrinks it at each of them, and a vocoder then spends its first hundreds of steps on getting loud.
    """
    nn.init.normal_(layer.weight, std=gain * (2 / fan_in) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(i, o, kernel_size, stride=1, dilation=1, groups=1, bias=True, padding=None, weight_norm=True, gain=1.0):
    """A convolution of `i` to `o` channels. Unless `padding` is told, it gives T / stride frames for T divisible by
    stride (odd kernels where stride is 1)."""
    if padding is None:
        padding = -(-((kernel_size - 1) * dilation + 1 - stride) // 2)
    layer = Conv1d(i, o, kernel_size, stride, padding, dilation, groups, bias)
    _start(layer, i * kernel_size // groups, gain)
    return _weight_norm(layer) if weight_norm else layer


def upsample(i, o, stride, kernel_size=None, weight_norm=True):
    """A transposed convolution of `i` to `o` channels: exactly T * stride frames; kernel 2 * stride unless told."""
    kernel_size = kernel_size or 2 * stride
    padding = -(-(kernel_size - stride) // 2)
    output_padding = stride - kernel_size + 2 * padding
    layer = ConvTranspose1d(i, o, kernel_size, stride, padding, output_padding)
    _start(layer, i * kernel_size // stride)
    return _weight_norm(layer) if weight_norm else layer
