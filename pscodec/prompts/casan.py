"""CasAN: cascaded attention joins the prompts to the quantized stream. PSCodec, section III-C, figs. 5 and 6."""

import torch
from torch import nn

from pscodec.layers.push import PushWindows
from pscodec.layers.transformer import CrossAttention, SelfAttention
from pscodec.utils.errors import UserError


class GroupNorm(nn.GroupNorm):
    """Each group of channels over all its frames; `mask` `[B, T]` says which frames there are. `[B, T, C]` likewise."""

    def forward(self, x, mask=None):
        if mask is None:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        groups = x.unflatten(2, (self.num_groups, -1))
        there = mask[:, :, None, None]
        count = there.sum((1, 3), keepdim=True) * groups.shape[3]
        mean = (groups * there).sum((1, 3), keepdim=True) / count
        variance = ((groups - mean).pow(2) * there).sum((1, 3), keepdim=True) / count
        return ((groups - mean) * (variance + self.eps).rsqrt()).flatten(2) * self.weight + self.bias


class Block(nn.Module):
    """MHSA, MHCA, FFN; each behind a layer norm, before a dropout, beside a skip connection. `x` `[B, T, C]`.

    MHSA is fig. 6's: a group norm and self-attention between two 1x1 convolutions (qkv and output), which are linear
    layers over the channels. In MHCA the one query is z_mel, so that it gives one vector c, added to every frame; of
    several queries the mean is. With `add_query` z_mel itself is added too. The last layer of each begins at zero, so
    that training sets out from a sum. What each adds is multiplied by `scale` (ours): behind a layer norm it does not
    know how small the latents are that it is added to.
    """

    def __init__(self, channels, n_heads, hidden, n_groups, dropout, add_query=False, scale=1.0):
        super().__init__()
        self.add_query, self.scale = add_query, scale
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.group_norm = GroupNorm(n_groups, channels)
        self.mhsa = SelfAttention(channels, n_heads)
        self.mhca = CrossAttention(channels, n_heads)
        self.ffn = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.dropout = nn.Dropout(dropout)
        for last in (self.mhsa.out, self.mhca.out, self.ffn[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x, query=None, mask=None):
        x = x + self.scale * self.dropout(self.mhsa(self.group_norm(self.norm1(x), mask), mask))
        if query is not None:
            found = self.mhca(query, self.norm2(x), mask).mean(1, keepdim=True)
            x = x + self.scale * self.dropout(found) + (query.mean(1, keepdim=True) if self.add_query else 0)
        return x + self.scale * self.dropout(self.ffn(self.norm3(x)))


class CasAN(nn.Module):
    """`z_q` `[B, D, T]` and the prompts, `z_vp` `[B, D, 1]` and `z_mel` `[B, D, N]` (None: absent) -> `[B, D, T]`.

    Z_vp is added to Z_q; `n_blocks` blocks follow, each looking at the stream with Z_mel as its query. `mask` `[B, T]`
    is True for the frames that belong to each item of a padded batch.

    `query` says how Z_mel reaches the stream h, where the paper does not (fig. 5 sums around MHCA, and the sum must
    keep h, or nothing of the codes is left): `context` adds what attention finds, h + c, so that Z_mel only steers its
    weights; `context_plus_query` adds both, h + c + Z_mel, in every block; `sum` adds Z_mel once, to Z_q + Z_vp.

    Attention and group norm look at all frames, so in use a stream of more than `context` frames (0: never) is fused in
    windows of `context` frames, of which the middle half is kept: time and memory then grow with the length, not with
    its square. Up to `context` frames the result is that of the whole; beyond, a frame sees a quarter of `context` at
    least on either side. Training, on a second at a time, always sees the whole.
    """

    def __init__(
        self,
        latent_dim=512,
        n_blocks=6,
        n_heads=4,
        hidden=2048,
        n_groups=32,
        dropout=0.0,
        context=3000,
        query="context",
        scale=1.0,
    ):
        super().__init__()
        if context % 4:
            raise ValueError(f"a context of {context} frames does not divide into quarters")
        if query not in ("context", "context_plus_query", "sum"):
            raise ValueError(f"query is context, context_plus_query or sum, not {query!r}")
        self.context, self.query = context, query
        sizes = latent_dim, n_heads, hidden, n_groups, dropout, query == "context_plus_query", scale
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(n_blocks))

    def forward(self, z_q, z_vp=None, z_mel=None, mask=None):
        x = z_q if z_vp is None else z_q + z_vp
        if self.query == "sum" and z_mel is not None:
            x = x + z_mel.mean(2, keepdim=True)
        x = x.transpose(1, 2)
        query = None if z_mel is None else z_mel.transpose(1, 2)
        if self.training or not self.context or x.shape[1] <= self.context:
            return self._cascade(x, query, mask).transpose(1, 2)
        return torch.cat([*self._windows(x, query, mask)], 1).transpose(1, 2)

    def push_form(self, z_vp=None, z_mel=None):
        """The same on a stream (layers/push): each window when it is full, so up to `context` frames late."""
        if not self.context:
            raise UserError("CasAN with context 0 attends to the whole recording, so it cannot be fed piece by piece")
        return PushWindows(lambda z_q: self(z_q, z_vp, z_mel), self.context)

    def _cascade(self, x, query, mask):
        for block in self.blocks:
            x = block(x, query, mask)
        return x

    def _windows(self, x, query, mask):
        """Whole `x` in pieces: half a context each, the first and the last window up to their ends."""
        length, quarter, kept = x.shape[1], self.context // 4, 0
        for begin in range(0, length - 2 * quarter, 2 * quarter):
            begin = min(begin, length - self.context)
            end = begin + self.context
            there = None if mask is None else mask[:, begin:end]
            if there is not None:  # where an item has ended, anything will do but nothing
                there = there | ~there.any(1, keepdim=True)
            piece = self._cascade(x[:, begin:end], query, there)
            first, kept = kept, length if end == length else end - quarter
            yield piece[:, first - begin : kept - begin]
            if end == length:
                return
