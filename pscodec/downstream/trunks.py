"""What stands between a mixture's features and a separator's output: sequence models over frames.

Each maps `[B, T, C]` to `[B, T, C]`; `mask` `[B, T]` is True where a frame is not padding (None: nowhere), and what
stands in the padding reaches no other frame.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.transformer import TransformerBlock

DILATIONS = (1, 2, 4, 8)  # of successive blocks of a TCN, again and again


class Transformer(nn.Module):
    """Sinusoidal positions, then `n_blocks` pre-norm blocks: the paper's.

    `position_offset`: in training the first frame of a batch is given a random place up to so many frames, so that
    a long mixture's later frames stand where some segment has stood in training; 0 is the paper's.
    """

    def __init__(self, channels, n_blocks, n_heads, hidden, dropout, position_offset=0):
        super().__init__()
        self.position_offset = position_offset
        self.blocks = nn.ModuleList(TransformerBlock(channels, n_heads, hidden, dropout) for _ in range(n_blocks))

    def forward(self, x, mask=None):
        first = int(torch.randint(self.position_offset + 1, ())) if self.training and self.position_offset else 0
        x = x + positions(first + x.shape[1], x.shape[2], x.device)[first:].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x


def positions(length, channels, device=None):
    """Sinusoidal positions `[length, channels]` (Vaswani et al., 2017), for any length: there is no table to end."""
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10000.0) / channels))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class TCN(nn.Module):
    """A temporal convolutional network (as Conv-TasNet's: Luo & Mesgarani, 2019) of ConvNeXt blocks (Liu et al., 2022),
    whose dilations double from block to block and begin again after the fourth. It has no positions: any length fits.

    `attend_every`: after so many blocks a transformer block of `n_heads` looks at all frames; 0: never.
    """

    def __init__(self, channels, n_blocks, n_heads, hidden, dropout, attend_every=0, kernel_size=7):
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(n_blocks):
            self.blocks.append(TCNBlock(channels, hidden, dropout, kernel_size, DILATIONS[i % len(DILATIONS)]))
            if attend_every and i % attend_every == attend_every - 1:
                self.blocks.append(TransformerBlock(channels, n_heads, hidden, dropout))

    def forward(self, x, mask=None):
        for block in self.blocks:
            x = block(x, mask)
        return x


class TCNBlock(nn.Module):
    """x + scale * (dilated convolution of each channel, norm, `hidden` channels, GELU, back); learned `scale`."""

    def __init__(self, channels, hidden, dropout, kernel_size, dilation, scale=0.1):
        super().__init__()
        self.dilation = dilation
        self.depthwise = conv(channels, channels, kernel_size, groups=channels, weight_norm=False, gain=0.7)
        self.norm = nn.LayerNorm(channels)
        self.feed = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x, mask=None):
        y = x if mask is None else x * mask[..., None]
        return x + self.scale * self.dropout(self.feed(self.norm(self._convolve(y))))

    def _convolve(self, x):
        # every dilation-th frame is a signal of its own, convolved without gaps: dilated kernels are slow on CPUs
        d, length = self.dilation, x.shape[1]
        x = F.pad(x, (0, 0, 0, -length % d)).unflatten(1, (-1, d)).transpose(1, 2)  # [B, d, T / d, C]
        y = self.depthwise(x.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        return y.unflatten(0, (-1, d)).transpose(1, 2).flatten(1, 2)[:, :length]
