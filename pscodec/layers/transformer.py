"""Attention over `[B, T, C]`."""

import torch.nn.functional as F
from torch import nn


def attend(q, k, v, n_heads, mask=None, training=False):
    """Softmax(q k' / sqrt(d)) v in `n_heads` heads: `q` `[B, N, C]`, `k`, `v` `[B, T, C]` -> `[B, N, C]`.

    `mask` `[B, T]`: True where there is something to look at.
    """
    q, k, v = (x.unflatten(2, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None:
        mask = mask[:, None, None]
    if training:  # on short crops the plain product avoids torch's fused kernel, slow on a CPU
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        y = scores.softmax(-1) @ v
    else:  # memory linear in the length
        y = F.scaled_dot_product_attention(q, k, v, mask)
    return y.transpose(1, 2).flatten(2)


def _check(channels, n_heads):
    if channels % n_heads:
        raise ValueError(f"{channels} channels do not divide into {n_heads} heads")


class SelfAttention(nn.Module):
    """Multi-head self-attention without positions (Vaswani et al., 2017). `[B, T, C]` -> `[B, T, C]`."""

    def __init__(self, channels, n_heads):
        super().__init__()
        _check(channels, n_heads)
        self.n_heads = n_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x, mask=None):
        return self.out(attend(*self.qkv(x).chunk(3, 2), self.n_heads, mask, self.training))


class CrossAttention(nn.Module):
    """Queries `[B, N, C]` look at a stream `[B, T, C]` -> `[B, N, C]`."""

    def __init__(self, channels, n_heads):
        super().__init__()
        _check(channels, n_heads)
        self.n_heads = n_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, query, stream, mask=None):
        k, v = self.kv(stream).chunk(2, 2)
        return self.out(attend(self.q(query), k, v, self.n_heads, mask, self.training))
