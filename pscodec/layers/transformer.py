"""Attention over `[B, T, C]`."""

import torch.nn.functional as F
from torch import nn


class SelfAttention(nn.Module):
    """Multi-head self-attention without positions (Vaswani et al., 2017). `[B, T, C]` -> `[B, T, C]`.

    `dropout` is that of the attention's weights, in training.
    """

    def __init__(self, channels, n_heads, dropout=0.0):
        super().__init__()
        if channels % n_heads:
            raise ValueError(f"{channels} channels do not divide into {n_heads} heads")
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x, mask=None):
        """`mask` `[B, T]` bool, True where a frame may be looked at (None: everywhere)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:, None, None]
        if self.training and not x.is_cuda:
            # on short crops the plain product avoids torch's fused kernel, slow on a CPU
            weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if mask is not None:
                weights = weights.masked_fill(~mask, float("-inf"))
            y = F.dropout(weights.softmax(-1), self.dropout) @ v
        else:  # memory linear in the length
            y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))
