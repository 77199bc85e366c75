"""Convolutions over time that own layout and precision: every codec of the project gets its speed from here.

Weights keep the shapes of `nn.Conv1d` / `nn.ConvTranspose1d`, so public state dicts fit. The arithmetic runs as a 2-D
convolution of height 1 with the channels innermost in memory: oneDNN and cuDNN are faster on that layout in
bfloat16, and activations keep it from layer to layer through their strides.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm as _weight_norm


def lift(x):
    """`[B, C, T]` -> `[B, C, 1, T]`, channels innermost (a no-op when they already are)."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` (zero padding) computed channels-last. `[B, C, T]` -> `[B, C', T']`."""

    def forward(self, x):
        y = F.conv2d(
            lift(x),
            self.weight.unsqueeze(2),
            self.bias,
            (1, self.stride[0]),
            (0, self.padding[0]),
            (1, self.dilation[0]),
            self.groups,
        )
        return y.squeeze(2)


class ConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` computed channels-last. `[B, C, T]` -> `[B, C', T']`."""

    def forward(self, x):
        y = F.conv_transpose2d(
            lift(x),
            self.weight.unsqueeze(2),
            self.bias,
            (1, self.stride[0]),
            (0, self.padding[0]),
            (0, self.output_padding[0]),
            self.groups,
            (1, self.dilation[0]),
        )
        return y.squeeze(2)


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
