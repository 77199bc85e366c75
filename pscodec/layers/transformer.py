"""Attention over `[B, T, C]`."""

import torch.nn.functional as F
from torch import nn


class SelfAttention(nn.Module):
    """Multi-head self-attention without positions (Vaswani et al., 2017). `[B, T, C]` -> `[B, T, C]`."""

    def __init__(self, channels, n_heads):
        super().__init__()
        if channels % n_heads:
            raise ValueError(f"{channels} channels do not divide into {n_heads} heads")
        self.n_heads = n_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.training:  # on short crops the plain product avoids torch's fused kernel, slow on a CPU
            y = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        else:  # memory linear in the length
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))
