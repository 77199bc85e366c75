"""Discriminators side by side."""

from torch import nn

from pscodec.types import Judged


class Discriminators(nn.ModuleDict):
    """Named discriminators, each `wav [B, 1, L]` -> `Judged`; their answers are strung together. Empty is allowed."""

    def forward(self, wav):
        answers = [discriminator(wav) for discriminator in self.values()]
        return Judged([x for a in answers for x in a.logits], [x for a in answers for x in a.fmaps])
