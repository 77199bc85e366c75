"""ConvNeXt blocks along time.

Sources: Liu et al., A ConvNet for the 2020s (2022); Woo et al., ConvNeXt V2 (2023); Siuzdak, Vocos (2023).
"""

import torch
from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.hifigan import LayerNorm


class ConvNeXt(nn.Module):
    """x + scale * (convolution of each channel, norm of each frame, `hidden` channels, GELU, back).

    `[B, C, T]` -> `[B, C, T]`; `scale` is learned for each channel.
    """

    def __init__(self, channels, hidden, kernel_size=7, scale=0.1):
        super().__init__()
        self.depthwise = conv(channels, channels, kernel_size, groups=channels, weight_norm=False, gain=0.7)
        self.norm = LayerNorm(channels)
        self.widen = conv(channels, hidden, 1, weight_norm=False)
        self.gelu = nn.GELU()
        self.narrow = conv(hidden, channels, 1, weight_norm=False, gain=0.7)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))

    def forward(self, x):
        return x + self.scale * self.narrow(self.gelu(self.widen(self.norm(self.depthwise(x)))))


class GRN(nn.Module):
    """Global response normalisation: each channel in proportion to its share of the whole signal, and added to itself.

    `[B, C, T]` -> `[B, C, T]`; it looks at all T frames. Source: ConvNeXt V2, section 3.2.
    """

    def __init__(self, channels):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(channels, 1)), nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x):
        size = torch.linalg.vector_norm(x.float(), dim=2, keepdim=True)
        return self.gamma * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNeXtV2(nn.Module):
    """x + (convolution of each channel, norm of each frame, `hidden` channels, GELU, `GRN`, back).

    `[B, C, T]` -> `[B, C, T]`; without `grn` it sees but its kernel's frames.
    """

    def __init__(self, channels, hidden, kernel_size=7, grn=True):
        super().__init__()
        self.depthwise = conv(channels, channels, kernel_size, groups=channels, weight_norm=False, gain=0.7)
        self.norm = LayerNorm(channels, eps=1e-6)
        self.widen = conv(channels, hidden, 1, weight_norm=False)
        self.gelu = nn.GELU()
        self.grn = GRN(hidden) if grn else nn.Identity()
        self.narrow = conv(hidden, channels, 1, weight_norm=False, gain=0.2)  # many of them are added up

    def forward(self, x):
        return x + self.narrow(self.grn(self.gelu(self.widen(self.norm(self.depthwise(x))))))
