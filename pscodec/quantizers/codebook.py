"""One codebook: nearest entry by Euclidean distance, with its ways of learning and of staying alive.

Sources: van den Oord et al., VQ-VAE (2017) for `grad` and `ema`; Zeghidour et al., SoundStream (2021), section III-C,
for the k-means start and the restart of entries that are no longer chosen.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.types import Plan


class Codebook(nn.Module):
    """`size` entries of `dim` numbers. Called with vectors `[N, dim]` it returns codes `[N]` int64.

    `update`: `grad` learns the entries from the codebook loss (HifiCodec, PSCodec eq. 10), `ema` moves them to the
    running mean of the vectors they answer for (decay `decay`).
    `kmeans_steps` > 0 starts from k-means over the first training batch, 0 from U(-1/size, 1/size).
    `restart_after` > 0 replaces an entry unused for that many training steps by a random vector of the batch;
    `restart_below` > 0, of `ema` codebooks, one whose running mean of uses a step is less (EnCodec, section 3.2).
    `direction`: nearest is what points most the same way, whatever its length (DAC, section 3.2).

    A training step is a pass in training mode with gradients on. Where it takes several (gradient accumulation), the
    last, as `plan` says, learns from the vectors of all. K-means cannot wait for them and sees the first pass's; `ema`
    entries have moved when the last pass looks them up.
    """

    plan: Plan | None = None

    def __init__(
        self, size, dim, update="grad", decay=0.99, kmeans_steps=10, restart_after=200, restart_below=0, direction=False
    ):
        super().__init__()
        if update not in ("grad", "ema"):
            raise ValueError(f"a codebook's update is grad or ema, not {update!r}")
        if restart_below and update != "ema":
            raise ValueError("restart_below counts uses as ema codebooks do")
        self.size, self.update, self.decay, self.direction = size, update, decay, direction
        self.kmeans_steps, self.restart_after, self.restart_below = kmeans_steps, restart_after, restart_below
        self.entries = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size), update == "grad")
        if direction:
            nn.init.normal_(self.entries)  # of any length: all directions are there
        self.parts = []  # vectors and codes of this step's passes
        self.register_buffer("started", torch.tensor(kmeans_steps == 0))
        self.register_buffer("idle", torch.zeros(size, dtype=torch.long))  # training steps since each was last chosen
        if update == "ema":
            self.register_buffer("counts", torch.ones(size))
            self.register_buffer("sums", self.entries.detach().clone())

    def forward(self, x):
        x = x.detach().float()
        if self.training and not self.started:
            self._start(x)
        codes = self.nearest(x)
        if self.training and torch.is_grad_enabled():
            self.parts.append((x, codes))
            if self.plan is None or self.plan.ends_step:
                self._learn(*map(torch.cat, zip(*self.parts, strict=True)))
                self.parts.clear()
        return codes

    @torch.no_grad()
    def nearest(self, x):
        """Codes `[...]` of the entries nearest to `x` `[..., dim]` (float32, whatever autocast says)."""
        return self._distances(x).argmin(-1)

    @torch.no_grad()
    def nearest_few(self, x, n):
        """The squared distances of the `n` entries nearest to `x` `[..., dim]`, and their codes: `[..., n]` each."""
        few = self._distances(x).topk(min(n, self.size), largest=False)
        return few.values + self._directed(x.float()).pow(2).sum(-1, keepdim=True), few.indices

    def _distances(self, x):
        """|x - e|^2 less |x|^2, which is the same for every entry e."""
        with torch.autocast(x.device.type, enabled=False):
            entries, x = self._directed(self.entries.float()), self._directed(x.float())
            # one product, with a column of ones for |e|^2: to add it to all distances costs as much again
            return F.pad(x, (0, 1), value=1.0) @ torch.cat([-2 * entries, entries.pow(2).sum(1, keepdim=True)], 1).T

    def _directed(self, x):
        return F.normalize(x, dim=-1) if self.direction else x

    def lookup(self, codes):
        """Entries `[..., dim]` of `codes` `[...]`; differentiable with respect to the entries."""
        return F.embedding(codes, self.entries)

    @torch.no_grad()
    def _start(self, x):
        x = _from_processes(x)
        centres = self._draw(x, self.size)
        for _ in range(self.kmeans_steps):
            nearest = torch.cdist(x, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=self.size).unsqueeze(1)
            means = torch.zeros_like(centres).index_add_(0, nearest, x) / counts.clamp(min=1)
            centres = torch.where(counts > 0, means, centres)
        self.entries.copy_(_of_first_process(centres))
        if self.update == "ema":
            self._count_from(slice(None), self.entries)
        self.started.fill_(True)

    @torch.no_grad()
    def _learn(self, x, codes):
        chosen = _over_processes(torch.bincount(codes, minlength=self.size))
        if self.update == "ema":
            self.counts.lerp_(chosen.float(), 1 - self.decay)
            self.sums.lerp_(_over_processes(torch.zeros_like(self.sums).index_add_(0, codes, x)), 1 - self.decay)
            self.entries.copy_(self.sums / self.counts.clamp(min=1e-5).unsqueeze(1))
        self.idle.add_(1).masked_fill_(chosen > 0, 0)
        if self.restart_after or self.restart_below:
            self._restart(x)

    def _restart(self, x):
        dead = self.counts < self.restart_below if self.restart_below else torch.zeros_like(self.idle, dtype=torch.bool)
        if self.restart_after:
            dead |= self.idle >= self.restart_after
        dead = dead.nonzero().squeeze(1)
        if len(dead) == 0:
            return
        fresh = _of_first_process(self._draw(_from_processes(x), len(dead)))
        self.entries.data[dead] = fresh
        self.idle[dead] = 0
        if self.update == "ema":
            self._count_from(dead, fresh)

    def _count_from(self, which, entries):
        """The running means of entries that are new: as much used as they have to be, or once."""
        self.counts[which] = self.restart_below or 1.0
        self.sums[which] = entries * (self.restart_below or 1.0)

    @staticmethod
    def _draw(x, n):
        """`n` random rows of `x`, repeated only where it has fewer."""
        order = torch.randperm(len(x), device=x.device)
        return x[order.repeat(-(-n // len(x)))[:n]]


def _over_processes(counts):
    """The sum of `counts` over all training processes, so that their codebooks stay one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    return counts


def _from_processes(x):
    """The rows of all training processes' `x` `[N, dim]`, which are equally many, in the order of the ranks."""
    if not torch.distributed.is_initialized():
        return x
    gathered = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)


def _of_first_process(values):
    """`values` as the first training process has them."""
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(values, 0)
    return values
