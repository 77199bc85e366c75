"""Codecformer: speech separation by masks on a codec's embedding of the mixture.

Sources: Yip et al., "Towards audio codec-based speech separation" (Interspeech 2024); Yip et al., "Speech Separation
using Neural Audio Codecs with Embedding Loss", fig. 2. Shapes: B batch, D latent_dim, T frames, C channels, S sources.
"""

import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pscodec.layers.transformer import SelfAttention


class Codecformer(nn.Module):
    """Fig. 2: channel adapter, transformer blocks, channel adapter, mask generator, mask gating.

    17.4 M parameters for a codec of 1024 dimensions, 13.95 M for one of 512. `activation` is the codec's own, so that
    the masked embeddings are distributed as its decoder expects: `snake` (DAC), `elu` (EnCodec, SoundStream) or
    `leaky_relu` (HifiCodec, PSCodec).
    """

    domain = "embedding"

    def __init__(
        self,
        latent_dim,
        n_src=2,
        channels=256,
        n_blocks=16,
        n_heads=8,
        hidden=1024,
        dropout=0.1,
        activation="leaky_relu",
    ):
        super().__init__()
        self.n_src = n_src
        # the paper's 1 x 1 convolutions, with the channels innermost
        self.adapter_in = nn.Linear(latent_dim, channels, bias=False)
        self.blocks = nn.ModuleList(TransformerBlock(channels, n_heads, hidden, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(channels)
        self.adapter_out = nn.Linear(channels, latent_dim, bias=False)
        self.masker = weight_norm(nn.Linear(latent_dim, latent_dim * n_src, bias=False))
        self.gating = MaskGating(latent_dim, activation)

    def forward(self, z, frames=None):
        """`z` `[B, D, T]`, embeddings of mixtures -> `z_hat` `[B, S, D, T]`, of their sources.

        `frames` `[B]`: how many of each are not padding (None: all). What stands in the padding of the answer is of
        no meaning, and what stands in the padding of `z` changes nothing before it.
        """
        mask = None
        if frames is not None and bool((frames < z.shape[2]).any()):
            mask = torch.arange(z.shape[2], device=z.device) < frames[:, None]
        x = self.adapter_in(z.transpose(1, 2))
        x = x + positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        x = self.adapter_out(self.norm(x))
        masks = self.gating(self.masker(x).unflatten(2, (self.n_src, -1)))  # [B, T, S, D]
        return masks.permute(0, 2, 3, 1) * z.unsqueeze(1)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward (ReLU), each around a shortcut. `[B, T, C]` -> `[B, T, C]`."""

    def __init__(self, channels, n_heads, hidden, dropout):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, n_heads, dropout)
        self.feed = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.feed(self.norm2(x)))


class MaskGating(nn.Module):
    """act(act(value(x)) * sigmoid(gate(x))): masks from what the mask generator says. `[..., D]` -> `[..., D]`."""

    def __init__(self, latent_dim, activation):
        super().__init__()
        self.value, self.gate = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)
        self.inner, self.outer = _activation(activation, latent_dim), _activation(activation, latent_dim)

    def forward(self, x):
        return self.outer(self.inner(self.value(x)) * torch.sigmoid(self.gate(x)))


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with an alpha for each channel (Ziyin et al., 2020). `[..., C]` -> `[..., C]`."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


def _activation(name, channels):
    if name == "snake":
        return Snake(channels)
    if name == "elu":
        return nn.ELU()
    if name == "leaky_relu":
        return nn.LeakyReLU()
    raise ValueError(f"activation is snake, elu or leaky_relu, not {name!r}")


def positions(length, channels, device=None):
    """Sinusoidal positions `[length, channels]` (Vaswani et al., 2017), for any length: there is no table to end."""
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10000.0) / channels))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
