"""HiFi-GAN's multi-receptive-field residual blocks, used by HifiCodec's encoder and decoder and all built on them.

Source: Kong et al., HiFi-GAN (2020), section 2.2; HiFi-Codec (Yang et al., 2023) mirrors it for the encoder.
"""

import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv

SLOPE = 0.1  # of every leaky ReLU inside the blocks


class ResBlock(nn.Module):
    """HiFi-GAN "ResBlock1": for each dilation, x + conv(lrelu(conv_dilated(lrelu(x)))). `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels, kernel_size, dilations=(1, 3, 5)):
        super().__init__()
        self.convs1 = nn.ModuleList(conv(channels, channels, kernel_size, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(conv(channels, channels, kernel_size, gain=0.2) for _ in dilations)

    def forward(self, x):
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            x = x + conv2(F.leaky_relu(conv1(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class LayerNorm(nn.LayerNorm):
    """Normalises the channels of each frame by itself: nothing reaches over time. `[B, C, T]` -> `[B, C, T]`."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def norm_layer(norm, channels):
    """`none`, `layer` (per frame) or `group` (HifiCodec's GroupNorm, which spans the whole clip)."""
    if norm == "none":
        return nn.Identity()
    if norm == "layer":
        return LayerNorm(channels)
    if norm == "group":
        return nn.GroupNorm(max(1, channels // 16), channels, eps=1e-6)
    raise ValueError(f"norm is none, layer or group, not {norm!r}")


class MRF(nn.Module):
    """The mean of parallel residual blocks with different kernels. `[B, C, T]` -> `[B, C, T]`.

    With a norm, it is applied to the running sum after each block, as HifiCodec's public encoder does.
    """

    def __init__(self, channels, kernels=(3, 7, 11), dilations=(1, 3, 5), norm="none"):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(channels, k, dilations) for k in kernels)
        self.norms = nn.ModuleList(norm_layer(norm, channels) for _ in kernels)

    def forward(self, x):
        total = 0
        for block, norm in zip(self.blocks, self.norms, strict=True):
            total = norm(total + block(x))
        return total / len(self.blocks)
