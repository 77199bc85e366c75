"""Attention over `[B, T, C]`."""

import math

import torch
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

    `mask` `[B, T]`, or `[B, T, T]` for each frame: True where a frame may be looked at (None: everywhere). `cache`: of
    the frames before, which are looked at, too, and to which these are added.
    """

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__(channels, n_heads, dropout)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x, mask=None, cache=None):
        q, k, v = self.qkv(x).chunk(3, 2)
        if cache:
            k, v = cache.extend(k, v)
        return self.out(self.attend(q, k, v, mask))


class Cache:
    """Keys and values of the frames so far, of `batch` items, for `room` frames at most, beside tensors `like` `x`."""

    def __init__(self, batch, room, like):
        self.held, self.length = like.new_zeros(2, batch, room, like.shape[-1]), 0

    def extend(self, *new):
        """Take in keys and values `[B, n, C]`; returns those of all frames. Raises ValueError without room."""
        begin, self.length = self.length, self.length + new[0].shape[1]
        if self.length > self.held.shape[2]:
            raise ValueError(f"a cache of {self.held.shape[2]} frames cannot hold {self.length}")
        for held, x in zip(self.held, new, strict=True):
            held[:, begin : self.length] = x
        return self.held[:, :, : self.length]


class CrossAttention(Attention):
    """Queries `[B, N, C]` look at a stream `[B, T, C]` -> `[B, N, C]`."""

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__(channels, n_heads, dropout)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, query, stream, mask=None):
        return self.out(self.attend(self.q(query), *self.kv(stream).chunk(2, 2), mask))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward (ReLU), each around a shortcut. `norm`: makes a norm of so many channels."""

    def __init__(self, channels, n_heads, hidden, dropout, norm=nn.LayerNorm):
        super().__init__()
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.attention = SelfAttention(channels, n_heads, dropout)
        self.feed = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, cache=None, told=()):
        """`mask` and `cache` are those of `SelfAttention`; `told`: what the norms take beside `x`."""
        x = x + self.dropout(self.attention(self.norm1(x, *told), mask, cache))
        return x + self.dropout(self.feed(self.norm2(x, *told)))


def positions(n, dim, device=None):
    """Sines and cosines of places 0 to n - 1, `[n, dim]` (Vaswani et al., 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(n, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
