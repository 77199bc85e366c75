"""ConvNeXt blocks along time. Sources: Liu et al., A ConvNet for the 2020s (2022); Siuzdak, Vocos (2023)."""

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
