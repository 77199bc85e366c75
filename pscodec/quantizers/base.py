"""What a codec asks of its quantizer."""

import numpy as np
import torch
from torch import Tensor, nn

from pscodec.types import Quantized


class Quantizer(nn.Module):
    """Latents `z` `[B, D, T]` to codes `[B, K, T]` and back. A subclass gives

    - `codebook_size`: entries of each codebook,
    - `n_q_choices`: the numbers of codebooks that it can code with, ascending; the last is all that it has,
    - `forward(z) -> types.Quantized`: by the first `n_q` codebooks, in training too,
    - `decode(codes) -> z_q`: of codes of any such number of codebooks.

    `n_q`, the K of its codes, is the number in use. Set to a smaller one of the choices it codes with fewer, set back
    with all again; what the others have learned stays.
    """

    codebook_size: int
    n_q_choices: range | list[int]
    _n_q: int | None = None  # None: all
    frozen = False  # in a training that others learn in

    @property
    def n_groups(self) -> int:
        """In how many equal parts codes stand, one after another; with fewer codebooks each gives its first."""
        return 1

    @property
    def n_q_trained(self) -> list[int]:
        """Those of `n_q_choices` that training has prepared it for."""
        return list(self.n_q_choices)[-1:]

    @property
    def n_q(self) -> int:
        return self._n_q or self.n_q_choices[-1]

    @n_q.setter
    def n_q(self, n_q: int | None):
        if n_q is not None and n_q not in self.n_q_choices:
            raise ValueError(f"{n_q} codebooks; it can be {' '.join(map(str, self.n_q_choices))}")
        self._n_q = n_q

    def forward(self, z: Tensor) -> Quantized:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, T]`, K one of `n_q_choices` -> `z_q` `[B, D, T]`."""
        raise NotImplementedError


def draw_n_q(rng: np.random.Generator, n_items: int, choices, dropout: float) -> dict[str, Tensor]:
    """For a step's plan: the numbers of codebooks that its items are decoded from, `n_q` `[n_items]`: for the share
    `dropout` of them any smaller one of `choices`, for the others the largest. {} where there is nothing to draw."""
    if not dropout or len(choices) < 2:
        return {}
    fewer = rng.choice(choices[:-1], n_items)
    return {"n_q": torch.from_numpy(np.where(rng.random(n_items) < dropout, fewer, choices[-1]))}
