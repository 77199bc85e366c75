"""Discriminators side by side."""

from torch import nn

from pscodec.types import Judged


class Parallel(nn.Module):
    """Parts of one kind on the same `wav` `[B, 1, L]`, each giving (logits, fmaps) -> `Judged`."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, wav):
        return Judged(*map(list, zip(*(part(wav) for part in self.parts), strict=True)))


class Discriminators(nn.ModuleDict):
    """Named discriminators, each `wav [B, 1, L]` -> `Judged`; their answers are strung together. Empty is allowed."""

    def forward(self, wav):
        answers = [discriminator(wav) for discriminator in self.values()]
        return Judged([x for a in answers for x in a.logits], [x for a in answers for x in a.fmaps])
