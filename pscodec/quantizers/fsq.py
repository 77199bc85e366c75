"""Finite scalar quantization: latents in a few dimensions, each rounded to one of a few levels. There is no codebook to
learn, and none that can collapse.

Source: Mentzer et al., Finite scalar quantization: VQ-VAE made simple, ICLR 2024, section 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.quantizers.base import Quantizer
from pscodec.types import Quantized

EDGE = 1e-3  # by how much of itself tanh reaches over the outermost levels, so that none is at infinity


class FSQ(Quantizer):
    """`n_groups` codes a frame, each of `prod(levels)`: projections of `dim` channels to `len(levels)` numbers a code,
    brought between -1 and 1 and rounded (straight-through) to so many levels, and back. Codes `[B, n_groups, T]`; all
    are sent. Nothing but the codec's other losses teaches it; its own is 0.
    """

    def __init__(self, dim, levels=(8, 8, 8), n_groups=1):
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(f"levels {list(levels)}: each dimension has 3 at least")
        self.groups, self.n_q_choices, self.codebook_size = n_groups, [n_groups], math.prod(levels)
        self.project_in = nn.Linear(dim, n_groups * len(levels))
        self.project_out = nn.Linear(n_groups * len(levels), dim)
        steps = [math.prod(levels[:i]) for i in range(len(levels))]  # the first level is the least digit
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    @property
    def n_groups(self) -> int:
        return self.groups

    def forward(self, z: Tensor) -> Quantized:
        x = self._bounded(self.project_in(z.transpose(1, 2)).float().unflatten(2, (self.groups, -1)))  # [B, T, G, d]
        rounded = x + (x.round() - x).detach()
        codes = ((rounded.detach().long() + self.levels // 2) * self.steps).sum(3)
        return Quantized(self._latents(rounded), codes.transpose(1, 2), z.new_zeros(()))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, n_groups, T]` -> `z_q` `[B, D, T]`."""
        digits = codes.transpose(1, 2).unsqueeze(3) // self.steps % self.levels
        return self._latents((digits - self.levels // 2).float())

    def _bounded(self, x):
        """Rounds to whole numbers from -(l // 2) on, l of them in a dimension of l levels."""
        half = (self.levels - 1) * (1 + EDGE) / 2
        offset = (self.levels % 2 == 0) / 2  # an even number of levels lies half a step lower
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset

    def _latents(self, rounded):
        return F.linear(
            (rounded / (self.levels // 2)).flatten(2), self.project_out.weight, self.project_out.bias
        ).transpose(1, 2)
