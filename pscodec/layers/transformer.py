"""Attention over `[B, T, C]`."""

import torch.nn.functional as F
from torch import nn


def attend(q, k, v, n_heads, mask=None, dropout=0.0, training=False):
    """Softmax(q k' / sqrt(d)) v in `n_heads` heads: `q` `[B, N, C]`, `k`, `v` `[B, T, C]` -> `[B, N, C]`.

    `mask` `[B, T]`, or `[B, N, T]` for each query: True where there is something to look at. `dropout` is that of the
    weights, in training.
    """
    q, k, v = (x.unflatten(2, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None:
        mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    if training and not q.is_cuda:  # on short crops the plain product avoids torch's fused kernel, slow on a CPU
        weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            weights = weights.masked_fill(~mask, float("-inf"))
        y = F.dropout(weights.softmax(-1), dropout) @ v
    else:  # memory linear in the length
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout if training else 0.0)
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """What self- and cross-attention share: heads, and the dropout of their weights in training."""

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__()
        if channels % n_heads:
            raise ValueError(f"{channels} channels do not divide into {n_heads} heads")
        self.n_heads, self.dropout = n_heads, dropout

    def attend(self, q, k, v, mask):
        return attend(q, k, v, self.n_heads, mask, self.dropout, self.training)


class SelfAttention(Attention):
    """Multi-head self-attention without positions (Vaswani et al., 2017). `[B, T, C]` -> `[B, T, C]`.

    `mask` `[B, T]`: True where a frame may be looked at (None: everywhere).
    """

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__(channels, n_heads, dropout)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x, mask=None):
        return self.out(self.attend(*self.qkv(x).chunk(3, 2), mask))


class CrossAttention(Attention):
    """Queries `[B, N, C]` look at a stream `[B, T, C]` -> `[B, N, C]`."""

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__(channels, n_heads, dropout)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, query, stream, mask=None):
        return self.out(self.attend(self.q(query), *self.kv(stream).chunk(2, 2), mask))
