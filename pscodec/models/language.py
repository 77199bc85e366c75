"""The language model of a codec's codes, as it is trained: a Transformer that says how likely the next frame is.

Source: EnCodec (Defossez et al., 2022), section 3.3. entropy/network.py is what becomes of it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.transformer import attend, positions


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

    def forward(self, codes: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
        """`codes` `[B, n_q, T]`, -1 where an item has no such codebook or frame. Returns how unlikely they were, in
        nats, and how many there were, of each codebook, `[n_q]` both."""
        x = self._hidden(codes, offset)
        nats, counts = [], []
        for k in range(self.n_q):
            there = codes[:, k] >= 0
            logits = F.linear(x[there], self.heads[k], self.head_biases[k])
            nats.append(F.cross_entropy(logits.float(), codes[:, k][there], reduction="sum"))
            counts.append(there.sum())
        return torch.stack(nats), torch.stack(counts)

    def logits(self, codes: Tensor, books: list[int]) -> Tensor:
        """Of `codes` `[B, n_q, T]` as in `forward`, for those of `books` -> `[B, K, T, codebook_size]`."""
        return torch.einsum("btd,knd->bktn", self._hidden(codes), self.heads[books]) + self.head_biases[books][:, None]

    def _hidden(self, codes, offset=0):
        """What the frames before say of each, `[B, T, dim]`."""
        frames, before = codes.shape[2], 0
        for k, table in enumerate(self.embeddings):
            there = (codes[:, k, :-1] >= 0)[..., None]
            before = before + there * F.embedding(codes[:, k, :-1].clamp(min=0), table)
        x = torch.cat([self.start.expand(len(codes), 1, -1), before], 1)
        x = x + positions(offset + frames, self.dim, x.device)[offset:]
        seen = self._seen(frames, x.device)
        for layer in self.layers:
            x = layer(x, seen)
        return _norm(x)

    def _seen(self, frames, device):
        """Which frames a frame looks at, `[1, frames, frames]`: itself (whose codes it is not shown) and before."""
        ago = torch.arange(frames, device=device)
        ago = ago[:, None] - ago
        return ((ago >= 0) & (ago < self.context))[None]


class _Layer(nn.Module):
    def __init__(self, dim, n_heads, hidden, n_layers):
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.out, self.down):  # the residual stream begins as large as its embeddings
            layer.weight.data /= math.sqrt(2 * n_layers)

    def forward(self, x, seen):
        q, k, v = self.qkv(_norm(x)).chunk(3, 2)
        x = x + self.out(attend(q, k, v, self.n_heads, seen))  # fused: long sequences, no dropout
        return x + self.down(F.relu(self.up(_norm(x))))


def _norm(x):
    return F.layer_norm(x, x.shape[-1:])
