"""MelP-Enc: what the prompt's Mel spectrogram tells, as one vector. PSCodec, section III-A.2, fig. 4."""

import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.transformer import SelfAttention


class Block(nn.Module):
    """Layer norm, self-attention, Conv1d, linear projection, skip connection. `[B, F, C]` -> `[B, F, C]`."""

    def __init__(self, channels, n_heads, kernel_size, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, n_heads)
        self.conv = conv(channels, channels, kernel_size, weight_norm=False)
        self.linear = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        y = self.attention(self.norm(x))
        y = self.conv(y.transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.linear(F.relu(y)))


class MelPEnc(nn.Module):
    """Eq. (1): `mel` `[B, n_mels, F]` -> `z_mel` `[B, latent_dim, 1]`, the mean over time of six blocks, and an MLP.

    With `pool` N the mean is that of each of N equal stretches of the prompt (ours), `[B, latent_dim, N]`: as many
    vectors are sent, and CasAN asks with each of them. Raises ValueError for no stretch.
    """

    def __init__(
        self,
        latent_dim=512,
        n_mels=80,
        width=512,
        n_blocks=6,
        n_heads=4,
        kernel_size=3,
        hidden=1024,
        dropout=0.0,
        pool=1,
    ):
        super().__init__()
        if pool < 1:
            raise ValueError(f"a prompt is pooled over at least one stretch, not {pool}")
        self.pool = pool
        self.first = conv(n_mels, width, kernel_size, weight_norm=False)
        self.blocks = nn.Sequential(*(Block(width, n_heads, kernel_size, dropout) for _ in range(n_blocks)))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, latent_dim))

    def forward(self, mel):
        x = self.blocks(self.first(mel).transpose(1, 2))
        means = x.mean(1, keepdim=True) if self.pool == 1 else stretches(x, self.pool)
        return self.mlp(means).transpose(1, 2)


def stretches(x, count):
    """Means of `count` stretches of `x` `[B, F, C]`, as equal as whole frames allow -> `[B, count, C]`."""
    return F.adaptive_avg_pool1d(x.transpose(1, 2), count).transpose(1, 2)
