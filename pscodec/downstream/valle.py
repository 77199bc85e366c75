"""Speech from text by a language model of a codec's codes: VALL-E (Wang et al., 2023), figure 3, over any codec.

A decoder-only Transformer writes the first codebook's codes one by one (section 4.2.1); where there are more, a second
one writes each further codebook at once, from those before it (section 4.2.2). A batch is a dict of `text` `[B, N]`, 0
beside shorter texts, and `codes` `[B, K, T]`, -1 beside shorter ones. Shapes: B batch, N text units, T frames, K
codebooks, S codebook_size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.transformer import Cache, TransformerBlock, positions

LASTING = 6.0  # logarithm of the most frames that a unit gets
TOLD = 32  # frames of a unit that are told apart by how many of it were, or are to come


class AutoRegressive(nn.Module):
    """Text and the codes so far -> logits of the next code of the first codebook, or of the end.

    `n_units`: text units, with 0, which is none. Texts look at all of themselves, frames at the text and backwards.
    `aligned`, which the paper does not have: each frame is told the unit that it speaks (downstream.aligner) and its
    place in it, and how many frames each unit gets is learned, too, and in use comes first; there is no end to find.
    `code_dropout`, which the paper does not have either: the share of the codes so far that training replaces, as
    `dropped_for` says, by `any`, or by its `own`, drawn from what it thinks after the true ones (scheduled sampling:
    Bengio et al., 2015; for Transformers: Duckworth et al., 2019). Of little data a model learns to go on from true
    codes and not from its own, which are never quite those.
    """

    def __init__(
        self,
        n_units,
        codebook_size,
        dim=1024,
        n_layers=12,
        n_heads=16,
        hidden=4096,
        dropout=0.1,
        aligned=False,
        code_dropout=0.0,
        dropped_for="any",
    ):
        super().__init__()
        if dropped_for not in ("any", "own"):
            raise ValueError(f"dropped_for is any or own, not {dropped_for!r}")
        self.codebook_size, self.aligned = codebook_size, aligned
        self.code_dropout, self.dropped_for = code_dropout, dropped_for
        self.text = Embedded(n_units, dim, dropout)
        self.codes = Embedded(codebook_size + 1, dim, dropout)  # the last one begins a sequence
        self.layers = Layers(dim, n_layers, n_heads, hidden, dropout)
        self.head = nn.Linear(dim, codebook_size + 1)  # the last one ends it
        self.lasting = nn.Linear(dim, 1) if aligned else None
        self.frame_units = FrameUnits(dim) if aligned else None

    @property
    def edge(self):
        """The entry that begins and ends a sequence of codes."""
        return self.codebook_size

    def draw(self, rng, frames):
        """What is left to chance in a step, keywords of `forward`: nothing."""
        return {}

    def turns(self):
        """Keywords of `forward` that validation takes in turn."""
        return [{}]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Nats, codes that were thought the likeliest, and codes, summed, `[3]`. Where it is aligned the batch has
        `durations` `[B, N]`, frames of each unit, whose error comes to the nats: that of their logarithm, squared."""
        text, codes = batch["text"], batch["codes"][:, 0]
        there = codes >= 0
        targets = torch.where(F.pad(there, (0, 1)), F.pad(codes, (0, 1)), -1)
        targets = targets.scatter(1, there.sum(1, keepdim=True), self.edge)
        logits, lasting = self._told(text, codes.clamp(min=0), batch.get("durations"))
        told = judged(logits, targets)
        if self.aligned:
            wrong = (lasting - batch["durations"].clamp(min=1).log())[text > 0].square()
            told = told + F.pad(wrong.sum()[None], (0, 2))
        return told

    def _told(self, text, codes, durations):
        """Codes `[B, T]` -> logits of them and the end `[B, T + 1, S + 1]`, and logarithms of durations `[B, N]`."""
        if self.training and self.code_dropout:
            others = self._own(text, codes, durations) if self.dropped_for == "own" else self._any(codes)
            codes = torch.where(torch.rand(codes.shape, device=codes.device) < self.code_dropout, others, codes)
        n, x = text.shape[1], self._after(text, codes, durations)
        return self.head(x[:, n:]), self.lasting(x[:, :n])[..., 0].float() if self.aligned else None

    def _after(self, text, codes, durations):
        """What the layers make of a text and the codes after it, `[B, N + T + 1, dim]`."""
        units, frames = self.text(text), self.codes(F.pad(codes, (1, 0), value=self.edge))
        if self.aligned:
            frames = frames + self.frame_units(units, durations, frames.shape[1])
        return self.layers(torch.cat([units, frames], 1), self._seen(text, frames.shape[1]))

    def _any(self, codes):
        return torch.randint_like(codes, self.codebook_size)

    @torch.no_grad()
    def _own(self, text, codes, durations):
        """Codes `[B, T]`, each drawn from what is thought of it after the true ones."""
        x = self._after(text, codes, durations)[:, text.shape[1] : -1]
        chances = self.head(x)[..., : self.codebook_size].float().softmax(-1)
        return torch.multinomial(chances.flatten(0, 1), 1).view(codes.shape)

    def _seen(self, text, frames):
        """What each place may look at, `[B, N + frames, N + frames]`."""
        n = text.shape[1]
        seen = torch.ones(n + frames, n + frames, dtype=torch.bool, device=text.device).tril()
        seen[:n, :n] = True
        return seen & F.pad(text > 0, (0, frames), value=True)[:, None]

    def begin(self, text: Tensor, codes: Tensor, room: int) -> "Begun":
        """Of `text` `[B, N]` and the prompt's codes `[B, T]` (T may be 0; must be where it is aligned), neither of them
        padded: what `step` goes on from, with room for `room` codes in all."""
        units = self.text(text)
        cache = [Cache(len(text), text.shape[1] + 1 + room, units) for _ in self.layers.blocks]
        x = self.layers(units, None, cache)
        spread_units = None
        if self.aligned:
            durations = self.lasting(x)[..., 0].clamp(0, LASTING).exp().round().long()
            spread_units = self.frame_units(units, durations, int(durations.sum(1).max()) + 1)
        begun = Begun(cache, spread_units)
        shown = F.pad(codes, (1, 0), value=self.edge)
        seen = self._seen(text, shown.shape[1])[:, text.shape[1] :]
        begun.logits = self._go_on(begun, shown, seen)
        return begun

    def step(self, begun: "Begun", codes: Tensor) -> Tensor:
        """The codes `[B]` that were taken -> logits of the next ones `[B, S + 1]`."""
        begun.logits = self._go_on(begun, codes[:, None], None)
        return begun.logits

    def _go_on(self, begun, shown, seen):
        x = self.codes(shown, begun.place)
        if self.aligned:
            x = x + begun.units[:, begun.place : begun.place + 1]
        begun.place += shown.shape[1]
        return self.head(self.layers(x, seen, begun.cache)[:, -1])


class Begun:
    """A sequence that is being written: `cache` of what was, `place` of the frame to come, its `logits` `[B, S + 1]`;
    `units` `[B, T + 1, dim]` that its frames speak and thus its `frames`, where that is known beforehand."""

    def __init__(self, cache, units=None):
        self.cache, self.units, self.place, self.logits = cache, units, 0, None

    @property
    def frames(self):
        return None if self.units is None else self.units.shape[1] - 1


class FrameUnits(nn.Module):
    """What frames are told of the units that they speak: `units` `[B, N, dim]`, each `durations` `[B, N]` frames long
    -> `[B, frames, dim]`, zeros at the end. Each frame knows how many of its unit were before, and are to come."""

    def __init__(self, dim):
        super().__init__()
        self.before, self.to_come = (nn.Embedding(TOLD, dim) for _ in range(2))

    def forward(self, units, durations, frames):
        which, before, to_come = spread(durations, frames)
        there = which < units.shape[1]
        unit = units.gather(1, which.clamp(max=units.shape[1] - 1)[..., None].expand(-1, -1, units.shape[2]))
        place = self.before(before.clamp(max=TOLD - 1)) + self.to_come(to_come.clamp(max=TOLD - 1))
        return (unit + place) * there[..., None]


def spread(durations: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Units that last `durations` `[B, N]` -> of each of `frames` its unit (N: none), and how many frames of that unit
    come before and after it (0 where there is none), `[B, frames]` each."""
    ends = durations.cumsum(1)
    place = torch.arange(frames, device=ends.device).expand(len(ends), -1).contiguous()
    which = torch.searchsorted(ends, place, right=True)
    there, known = which < ends.shape[1], which.clamp(max=ends.shape[1] - 1)
    end, length = ends.gather(1, known), durations.gather(1, known)
    return which, (place - end + length) * there, (end - 1 - place) * there


def judged(logits: Tensor, targets: Tensor) -> Tensor:
    """Of logits `[B, T, S]` for targets `[B, T]`, -1 where there is none: nats, how many were thought the likeliest,
    and how many there are, `[3]`."""
    logits, targets = logits.float().flatten(0, 1), targets.flatten()
    nats = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return torch.stack([nats, (logits.argmax(1) == targets).sum().float(), (targets >= 0).sum().float()])


class NonAutoRegressive(nn.Module):
    """Text, and of each frame the codes of the codebooks before -> logits of the next codebook's, all frames at once.

    `n_q`: K; the stage that predicts codebook k is told by norms that are made of its embedding. `prefix_mode` (of
    lifeiteng's code): 1, the first frames show all their codebooks, as a prompt does; 0, they do not. What predicts a
    codebook has the weights that embed it ("share-embedding" there).
    """

    def __init__(
        self, n_units, codebook_size, n_q, dim=1024, n_layers=12, n_heads=16, hidden=4096, dropout=0.1, prefix_mode=1
    ):
        super().__init__()
        if prefix_mode not in (0, 1):
            raise ValueError(f"prefix_mode is 0 or 1, not {prefix_mode!r}")
        if n_q < 2:
            raise ValueError("codes of one codebook need no second model")
        self.n_q, self.prefix_mode = n_q, prefix_mode
        self.text = Embedded(n_units, dim, dropout)
        self.codes = nn.ModuleList(nn.Embedding(codebook_size, dim) for _ in range(n_q))
        self.place = Places(dim, dropout)
        self.stages = nn.Embedding(n_q, dim)  # the first is never asked for
        self.layers = Layers(dim, n_layers, n_heads, hidden, dropout, adaptive=True)
        for table in self.codes:
            nn.init.normal_(table.weight, std=dim**-0.5)  # they are heads, too

    def draw(self, rng, frames):
        """The stage of a step, and how many of the first `frames` of the shortest item are a prompt: 3 s at most."""
        # the stage first: several processes, whose batches differ in `frames`, must agree on it
        stage, prefix = int(torch.randint(1, self.n_q, (), generator=rng)), 0
        if self.prefix_mode == 1 and (low := frames // 4):
            prefix = min(int(torch.randint(low, 2 * low, (), generator=rng)), 225)
        return {"stage": stage, "prefix": prefix}

    def turns(self):
        """Keywords of `forward` that validation takes in turn."""
        return [{"stage": stage} for stage in range(1, self.n_q)]

    def forward(self, batch: dict[str, Tensor], stage: int = 1, prefix: int = 0) -> Tensor:
        """What `judged` says of codebook `stage` after the first `prefix` frames, which show all codebooks."""
        codes = batch["codes"]
        return judged(self.logits(batch["text"], codes, stage, prefix)[:, prefix:], codes[:, stage, prefix:])

    def logits(self, text: Tensor, codes: Tensor, stage: int, prefix: int = 0) -> Tensor:
        """Of codebook `stage`, `[B, T, S]`."""
        n, there = text.shape[1], codes[:, 0] >= 0
        shown = codes.clamp(min=0)
        y = sum(self.codes[k](shown[:, k]) for k in range(stage))
        if prefix:
            rest = sum(self.codes[k](shown[:, k, :prefix]) for k in range(stage, self.n_q))
            y = torch.cat([y[:, :prefix] + rest, y[:, prefix:]], 1)
        x = torch.cat([self.text(text), self.place(y)], 1)
        seen = torch.cat([text > 0, there], 1)
        x = self.layers(x, seen, told=(self.stages.weight[stage],))
        return F.linear(x[:, n:], self.codes[stage].weight)

    def fill(self, text: Tensor, first: Tensor, prompt: Tensor) -> Tensor:
        """The most likely codes `[1, K, T]` of frames whose `first` `[1, T]` is known, after a prompt's codes
        `[1, K, P]` (P may be 0)."""
        codes = F.pad(first[:, None], (0, 0, 0, self.n_q - 1))
        prefix = prompt.shape[2]
        for stage in range(1, self.n_q):
            shown = prefix if self.prefix_mode == 1 else 0
            logits = self.logits(text, torch.cat([prompt, codes], 2), stage, shown)
            codes[:, stage] = logits[:, prefix:].argmax(2)
        return codes


class Places(nn.Module):
    """Adds sines of the places, as strongly as is learned."""

    def __init__(self, dim, dropout):
        super().__init__()
        self.strength, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(dropout)

    def forward(self, x, first=0):
        """`x` `[B, n, dim]`, of places `first` and on."""
        n, dim = x.shape[1:]
        sines = positions(first + n, dim, x.device)[first:]
        return self.dropout(x + self.strength * sines)


class Embedded(nn.Module):
    """Integers `[B, n]` -> `[B, n, dim]`, with their places from `first` on."""

    def __init__(self, entries, dim, dropout):
        super().__init__()
        self.table, self.place = nn.Embedding(entries, dim), Places(dim, dropout)

    def forward(self, numbers, first=0):
        return self.place(self.table(numbers), first)


class Layers(nn.Module):
    """A Transformer whose norms come first. `adaptive`: a stage's embedding gives them scale and shift."""

    def __init__(self, dim, n_layers, n_heads, hidden, dropout, adaptive=False):
        super().__init__()
        if dim % n_heads or dim % 2:
            raise ValueError(f"{dim} channels: not even, or not divisible by {n_heads} heads")
        norm = AdaptiveNorm if adaptive else nn.LayerNorm
        self.blocks = nn.ModuleList(TransformerBlock(dim, n_heads, hidden, dropout, norm) for _ in range(n_layers))
        self.norm = norm(dim)

    def forward(self, x, mask, cache=None, told=()):
        """`x` `[B, n, dim]`; the others are those of `layers.transformer.TransformerBlock`."""
        for i, block in enumerate(self.blocks):
            x = block(x, mask, cache and cache[i], told)
        return self.norm(x, *told)


class AdaptiveNorm(nn.Module):
    """A layer norm whose scale and shift are made of a stage's embedding `[dim]`."""

    def __init__(self, dim):
        super().__init__()
        self.norm, self.told = nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, 2 * dim)

    def forward(self, x, stage):
        scale, shift = self.told(stage).chunk(2)
        return self.norm(x) * (1 + scale) + shift
