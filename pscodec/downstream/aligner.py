"""Which frames of codes speak which unit of a text, learned by CTC (Graves et al., 2006) from pairs of the two alone.

Little data does not teach a Transformer to read along a text; where each unit is, given to it beforehand, does.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.conv import conv


class Aligner(nn.Module):
    """Codes -> log-probabilities of a text's units, 0 being none of them, every `stride` frames.

    `n_units`: with 0; `n_q`: codebooks, whose embeddings are summed.
    """

    def __init__(self, n_units, codebook_size, n_q, dim=128, n_layers=3, stride=2, dropout=0.1):
        super().__init__()
        self.books, self.stride = n_q, stride
        self.codes = nn.ModuleList(nn.Embedding(codebook_size, dim) for _ in range(n_q))
        self.blocks = nn.ModuleList(
            conv(dim, dim, 5, stride=stride if i == 0 else 1, weight_norm=False) for i in range(n_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_layers))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(dim, n_units)

    def draw(self, rng, frames):
        """Nothing is left to chance in a step."""
        return {}

    def turns(self):
        return [{}]

    def forward(self, batch: dict) -> Tensor:
        """`text` `[B, N]` and `codes` `[B, K, T]`, padded with 0 and -1 -> nats, 0 and units, summed, `[3]`."""
        text, codes = batch["text"], batch["codes"]
        logs = self.logs(codes)
        frames = -(-(codes[:, 0] >= 0).sum(1) // self.stride)
        lengths = (text > 0).sum(1)
        nats = F.ctc_loss(logs.transpose(0, 1), text, frames, lengths, reduction="none", zero_infinity=True)
        return torch.stack([nats.sum(), nats.new_zeros(()), lengths.sum()])

    def logs(self, codes: Tensor) -> Tensor:
        """`codes` `[B, K, T]` -> `[B, ceil(T / stride), n_units]`."""
        there = (codes[:, :1] >= 0).transpose(1, 2)
        x = sum(table(codes[:, k].clamp(min=0)) for k, table in enumerate(self.codes)) * there
        for i, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            y = block(x.transpose(1, 2)).transpose(1, 2)
            y = self.dropout(F.relu(norm(y)))
            x = (y if i == 0 else x + y) * there[:, :: self.stride]
        return self.head(x).float().log_softmax(2)

    @torch.inference_mode()
    def durations(self, units: list[int], codes: Tensor) -> list[int] | None:
        """Frames of each unit, in all as many as `codes` `[K, T]` has; None where the text has more units than that.

        From the likeliest path: a unit begins half-way between where the one before ends to be heard and where it
        itself begins to.
        """
        spans = best_path(self.logs(codes[None])[0].cpu().numpy(), units)
        if spans is None or codes.shape[1] < len(units):
            return None
        edges = [0, *((a[1] + b[0] + 1) / 2 for a, b in zip(spans, spans[1:], strict=False))]
        edges = [round(edge * self.stride) for edge in edges] + [codes.shape[1]]
        for i in range(1, len(units)):  # a frame at least for each
            edges[i] = max(edges[i], edges[i - 1] + 1)
        for i in range(len(units) - 1, 0, -1):
            edges[i] = min(edges[i], edges[i + 1] - 1)
        return [b - a for a, b in zip(edges, edges[1:], strict=False)]


def best_path(logs, units):
    """First and last place of each of `units` in log-probabilities `[T, n]`, 0 being none, on the likeliest path of
    CTC; None where there is none."""
    states = [0]
    for unit in units:
        states += [unit, 0]
    states = np.array(states)
    leaps = np.zeros(len(states), bool)  # over the none between two different units
    leaps[3::2] = states[3::2] != states[1:-2:2]
    worth = np.full(len(states), -np.inf)
    worth[:2] = logs[0, states[:2]]
    came = np.zeros((len(logs), len(states)), np.int8)
    for t in range(1, len(logs)):
        one = np.r_[-np.inf, worth[:-1]]
        two = np.where(leaps, np.r_[-np.inf, -np.inf, worth[:-2]], -np.inf)
        ways = np.stack([worth, one, two])
        came[t] = ways.argmax(0)
        worth = ways.max(0) + logs[t, states]
    state = len(states) - 1 - int(worth[-2] > worth[-1])
    if not np.isfinite(worth[state]):
        return None
    spans = [None] * len(units)
    for t in range(len(logs) - 1, -1, -1):
        if state % 2:
            last = spans[state // 2][1] if spans[state // 2] else t
            spans[state // 2] = (t, last)
        state -= int(came[t, state])
    return spans
