"""SoundStream's STFT discriminator, in complex numbers.

Source: Zeghidour et al., SoundStream (2021), section III-D, figure 4; complex layers as public code has it (Trabelsi et
al., Deep complex networks, 2018).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.features import stft
from pscodec.types import Judged

STRIDES = ((1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2))  # time, frequency
WIDTHS = (1, 2, 4, 4, 8, 8)


class ComplexConv2d(nn.Module):
    """A convolution with complex weights. Complex `[B, i, N, F]` -> `[B, o, N', F']`."""

    def __init__(self, i, o, kernel, stride=(1, 1)):
        super().__init__()
        self.stride, self.padding = stride, tuple(k // 2 for k in kernel)
        scale = (i * kernel[0] * kernel[1]) ** -0.5 / 2**0.5
        # pairs of numbers: optimizers and precisions know no others
        self.weight = nn.Parameter(scale * torch.randn(o, i, *kernel, 2))
        self.bias = nn.Parameter(torch.zeros(o, 2))

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = torch.view_as_complex(self.weight.float()), torch.view_as_complex(self.bias.float())
            return F.conv2d(x, weight, bias, self.stride, self.padding)


class ModReLU(nn.Module):
    """relu(|x| + b) at the angle of x."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        size = x.abs()
        return x * (torch.relu(size + self.b) / size.clamp(min=1e-8))


class ComplexSTFTDiscriminator(nn.Module):
    """One STFT (window `n_fft`, hop a quarter) through units of two convolutions, each of which halves frequency, and
    every second one time. `wav` `[B, 1, L]` -> `Judged`: magnitudes as logits, real and imaginary parts as features.
    """

    def __init__(self, n_fft=1024, width=32):
        super().__init__()
        self.n_fft = n_fft
        self.first = ComplexConv2d(1, width, (7, 7))
        channels = [width, *(width * factor for factor in WIDTHS)]
        self.units = nn.ModuleList(
            nn.Sequential(
                ComplexConv2d(i, i, (3, 3)), ModReLU(), ComplexConv2d(i, o, (stride[0] + 2, stride[1] + 2), stride)
            )
            for i, o, stride in zip(channels[:-1], channels[1:], STRIDES, strict=True)
        )

    def forward(self, wav):
        x = self.first(stft(wav, self.n_fft, self.n_fft // 4).transpose(2, 3))
        fmaps = [torch.view_as_real(x)]
        for unit in self.units:
            x = unit(x)
            fmaps.append(torch.view_as_real(x))
        return Judged([x.abs()], [fmaps[:-1]])
