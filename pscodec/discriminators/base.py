"""Discriminators side by side."""

from torch import nn

from pscodec.types import Judged, Plan


class Parallel(nn.Module):
    """Parts of one kind on the same `wav` `[B, 1, L]`, each giving (logits, fmaps) -> `Judged`."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, wav):
        return Judged(*map(list, zip(*(part(wav) for part in self.parts), strict=True)))


class Discriminators(nn.ModuleDict):
    """Named discriminators, each `wav [B, 1, L]` -> `Judged`; their answers are strung together. Empty is allowed.

    Of `wav` `[B, C, L]` each channel is judged as an item by itself (EnCodec, section 3.4). `weights`: name -> how much
    the codec listens to that one, 1 unless told.
    """

    def __init__(self, modules=None, weights=None):
        super().__init__(modules)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in self}

    def forward(self, wav):
        wav = wav.flatten(0, 1).unsqueeze(1)
        answers = {name: discriminator(wav) for name, discriminator in self.items()}
        weights = [self.weights[name] for name, answer in answers.items() for _ in answer.logits]
        answers = answers.values()
        return Judged([x for a in answers for x in a.logits], [x for a in answers for x in a.fmaps], weights)


class Levelled(nn.Module):
    """`part`, a discriminator, of signals without their mean and with a peak of 0.8, as DAC's: level is no clue."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, wav):
        wav = wav - wav.mean(-1, keepdim=True)
        return self.part(0.8 * wav / (wav.abs().amax(-1, keepdim=True) + 1e-9))


class ByBitrate(nn.Module):
    """A discriminator for each number `n_q` of codebooks that batches are coded with: `wav` `[B, 1, L]` -> `Judged`.

    `part()` makes one. The step's plan says which of them judges; where it does not, the last. Those that
    do not neither compute nor learn (EnCodec, section 3.4).
    """

    plan: Plan | None = None

    def __init__(self, part, n_q):
        super().__init__()
        self.parts = nn.ModuleDict({str(k): part() for k in n_q})

    def forward(self, wav):
        n_q = self.plan.drawn.get("n_q") if self.plan else None
        return self.parts[str(n_q or list(self.parts)[-1])](wav)
