"""A 1-D U-Net that knows the time of a diffusion.

Sources: Ho et al., DDPM (2020), appendix B; the sizes of Yang et al., LaDiffCodec (2024), section 3.1 and its public
configuration.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.transformer import SelfAttention


class UNet(nn.Module):
    """`x` `[B, dim, T]` at times `t` `[B]` and a condition `[B, condition, T]` -> `[B, dim, T]`, any T.

    `widths`: channels of the levels, of which each halves the rate of the one before; `middle`: at the lowest of them.
    A `Block` a level on the way down, one in the middle, one a level on the way up, which sees what the first left.
    Attention costs the square of T: levels 0, the input's rate, to `attend_from` - 1 have none; the middle always has.
    `by`: `stack` puts the condition beside the input; `film` scales and shifts every block with it.
    Raises ValueError for another word.
    """

    def __init__(
        self, dim, condition, widths=(128, 256, 256, 512, 512), middle=512, heads=4, by="stack", attend_from=0
    ):
        super().__init__()
        if by not in ("stack", "film"):
            raise ValueError(f"the condition comes in by stack or film, not {by!r}")
        self.dim, self.by, self.fold = dim, by, 2 ** (len(widths) - 1)
        knows = {"time": 4 * widths[0], "film": condition if by == "film" else 0}
        heads_at = [heads if level >= attend_from else 0 for level in range(len(widths))]
        self.time = Time(widths[0], knows["time"])
        self.first = conv(dim + (condition if by == "stack" else 0), widths[0], 7, weight_norm=False, gain=0.7)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(Block(widths[max(0, level - 1)], width, heads=heads_at[level], **knows))
            last = level == len(widths) - 1
            self.downsamplers.append(nn.Identity() if last else conv(width, width, 4, 2, weight_norm=False, gain=0.7))
        self.middle = Block(widths[-1], middle, heads=heads, **knows)
        below = middle
        for level, width in reversed(list(enumerate(widths))):
            self.up.append(Block(below + width, width, heads=heads_at[level], **knows))
            self.upsamplers.append(upsample(width, width, 2, weight_norm=False, gain=0.7) if level else nn.Identity())
            below = width
        self.norm = _norm(below)
        self.last = conv(below, dim, 7, weight_norm=False, gain=0.0)  # begins at zero, the mean of what it predicts

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        length = x.shape[-1]
        x, condition = (self._whole(signal) for signal in (x, condition))
        time = self.time(t)
        seen = condition if self.by == "film" else None
        x = self.first(torch.cat([x, condition], 1) if self.by == "stack" else x)
        left = []
        for block, downsample in zip(self.down, self.downsamplers, strict=True):
            x = block(x, time, seen)
            left.append(x)
            x = downsample(x)
        x = self.middle(x, time, seen)
        for block, upsampler in zip(self.up, self.upsamplers, strict=True):
            x = upsampler(block(torch.cat([x, left.pop()], 1), time, seen))
        return self.last(F.silu(self.norm(x)))[..., :length].float()

    def _whole(self, x):
        """`x` with its last frame repeated, until the levels divide it."""
        missing = -x.shape[-1] % self.fold
        return F.pad(x, (0, missing), mode="replicate") if missing else x


class Time(nn.Module):
    """Steps `t` `[B]` -> `[B, out, 1]`: sines and cosines of `width` frequencies, and two layers."""

    def __init__(self, width, out):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * (width // 2), out), nn.SiLU(), nn.Linear(out, out))
        self.width = width // 2

    def forward(self, t):
        frequencies = torch.exp(torch.arange(self.width, device=t.device) * (-math.log(10000) / self.width))
        angles = t[:, None].float() * frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], 1)).unsqueeze(2)


class Block(nn.Module):
    """Three convolutions and attention of `heads` (0: none), each beside a shortcut. `[B, i, T]` -> `[B, o, T]`.

    `time`: channels of the time, which is added after the first convolution; `film`: of the condition (0: none), which
    then scales and shifts there, at the block's rate.
    """

    def __init__(self, i, o, time, heads=4, film=0):
        super().__init__()
        self.norms = nn.ModuleList(_norm(n) for n in (i, o, o))
        gains = (1.0, 1.0, 0.3)  # what blocks add up to begins as large as x
        pairs = zip((i, o, o), gains, strict=True)
        self.convs = nn.ModuleList(conv(n, o, 3, weight_norm=False, gain=gain) for n, gain in pairs)
        self.time = nn.Linear(time, o)
        self.film = conv(film, 2 * o, 1, weight_norm=False, gain=0.1) if film else None
        self.shortcut = conv(i, o, 1, weight_norm=False, gain=0.7) if i != o else nn.Identity()
        self.attention_norm = _norm(o) if heads else None
        self.attention = SelfAttention(o, heads) if heads else None

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        y = x
        for n, (norm, layer) in enumerate(zip(self.norms, self.convs, strict=True)):
            y = layer(F.silu(norm(y)))
            if n == 0:
                y = y + self.time(F.silu(time).squeeze(2)).unsqueeze(2)
                if self.film is not None:
                    scale, shift = self.film(F.adaptive_avg_pool1d(condition, y.shape[-1])).chunk(2, 1)
                    y = (1 + scale) * y + shift
        x = self.shortcut(x) + y
        if self.attention is None:
            return x
        return x + self.attention(self.attention_norm(x).transpose(1, 2)).transpose(1, 2)


def _norm(channels):
    return nn.GroupNorm(math.gcd(8, max(1, channels // 8)), channels)
