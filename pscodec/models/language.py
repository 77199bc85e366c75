"""The language model of a codec's codes, as it is trained: a Transformer that says how likely the next frame is.

Source: EnCodec (Defossez et al., 2022), section 3.3. entropy/network.py is what becomes of it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodesLanguageModel(nn.Module):
    """Codes of the frames before -> logits of a frame's codes, each codebook's by themselves.

    `n_q` codebooks of `codebook_size` entries in `groups`; `context`: frames that a layer of attention sees;
    `longest`: frames of a sequence at most; `offset`: in training a sequence begins at a random place up to there.
    Norms come before the layers and have no weights of their own: what follows them can have those. Rectifiers,
    because they are exact in integers; the paper names none.
    """

    def __init__(
        self,
        n_q,
        codebook_size,
        groups=1,
        dim=200,
        n_layers=5,
        n_heads=8,
        hidden=800,
        context=262,
        longest=375,
        offset=375,
    ):
        super().__init__()
        if dim % n_heads or dim % 2:
            raise ValueError(f"{dim} channels: not even, or not divisible by {n_heads} heads")
        self.n_q, self.codebook_size, self.groups, self.n_heads = n_q, codebook_size, groups, n_heads
        self.context, self.longest, self.offset = context, longest, offset
        self.embeddings = nn.Parameter(torch.randn(n_q, codebook_size, dim) * 0.1)
        self.start = nn.Parameter(torch.randn(dim) * 0.1)
        self.layers = nn.ModuleList(_Layer(dim, n_heads, hidden, n_layers) for _ in range(n_layers))
        self.heads = nn.Parameter(torch.randn(n_q, codebook_size, dim) * 0.02)
        self.head_biases = nn.Parameter(torch.zeros(n_q, codebook_size))

    @property
    def dim(self):
        return len(self.start)

    def forward(self, codes: Tensor, books: list[int], offset: int = 0) -> Tensor:
        """`codes` `[B, K, T]` of codebooks `books` (K of them) -> logits `[B, K, T, codebook_size]`."""
        tables = self.embeddings[books]
        before = sum(F.embedding(codes[:, k, :-1], tables[k]) for k in range(len(books)))
        x = torch.cat([self.start.expand(len(codes), 1, -1), before], 1)
        x = x + positions(offset + codes.shape[2], self.dim, x.device)[offset:]
        seen = self._seen(codes.shape[2], x.device)
        for layer in self.layers:
            x = layer(x, seen)
        x = F.layer_norm(x, x.shape[-1:])
        return torch.einsum("btd,knd->bktn", x, self.heads[books]) + self.head_biases[books][:, None]

    def _seen(self, frames, device):
        ago = torch.arange(frames, device=device)
        ago = ago[:, None] - ago
        return (ago >= 0) & (ago < self.context)


class _Layer(nn.Module):
    def __init__(self, dim, n_heads, hidden, n_layers):
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.out, self.down):  # the residual stream begins as large as its embeddings
            layer.weight.data /= math.sqrt(2 * n_layers)

    def forward(self, x, seen):
        q, k, v = (y.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for y in self.qkv(_norm(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, seen)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(_norm(x))))


def _norm(x):
    return F.layer_norm(x, x.shape[-1:])


def positions(n, dim, device=None):
    """Sines and cosines of places 0 to n - 1, `[n, dim]` (Vaswani et al., 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(n, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
