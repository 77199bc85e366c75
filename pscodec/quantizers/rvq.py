"""Residual vector quantization, plain and in groups (GRVQ).

Sources: Zeghidour et al., SoundStream (2021), algorithm 1; Yang et al., HiFi-Codec (2023), section 2.2, for the groups.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.quantizers.base import Quantizer, draw_n_q
from pscodec.quantizers.codebook import Codebook
from pscodec.types import Plan, Quantized


class ResidualVQ(nn.Module):
    """`n_residual` codebooks, each coding what the ones before left over. `z` `[B, D, T]`, codes `[B, n_residual, T]`.

    A part of `GroupResidualVQ`, which says with how many of its codebooks (`n_q`) each call is answered.

    `codebook_dim` below `dim` looks the entries up in a learned projection of that width (0: none).
    The loss is, averaged over the layers, |sg(r) - e|^2 + `commitment` * |r - sg(e)|^2, element means; with `ema`
    codebooks only the second term.
    `residual_grad`: `all` lets every layer's commitment reach the encoder; `first` is the public HifiCodec's
    behaviour, where the straight-through estimate cancels the gradient of every residual after the first.
    `start`: training steps (as `Codebook` counts them) that let `z` through as it is (codes 0, loss 0), so that the
    codebooks begin on latents that already mean something.
    `beam`: paths through the layers that are kept when codes are searched in use (training takes the nearest entry of
    each layer): the nearest of the first layer is not always the one that the others can complete best.
    """

    plan: Plan | None = None

    def __init__(
        self,
        dim,
        codebook_size=512,
        n_residual=1,
        codebook_dim=0,
        commitment=0.25,
        residual_grad="all",
        start=0,
        beam=1,
        **codebook,
    ):
        super().__init__()
        if residual_grad not in ("all", "first"):
            raise ValueError(f"residual_grad is all or first, not {residual_grad!r}")
        if start and codebook.get("kmeans_steps") == 0:
            # entries near zero in the place of latents of any size: the decoder would not survive it
            raise ValueError("a quantizer with a late start needs kmeans_steps")
        self.commitment, self.residual_grad, self.start, self.beam = commitment, residual_grad, start, beam
        self.register_buffer("steps", torch.tensor(0))
        width = codebook_dim or dim
        self.project_in = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.layers = nn.ModuleList(Codebook(codebook_size, width, **codebook) for _ in range(n_residual))

    def forward(self, z: Tensor, n_q: int | Tensor | None = None) -> Quantized:
        """`n_q`: a number codes with so many of the codebooks, the first; numbers `[B]` decode each item from so many,
        but code with, and teach, all; None is all."""
        layers = self.layers[:n_q] if isinstance(n_q, int) else self.layers
        decoded = n_q.to(z.device).view(-1, 1, 1) if isinstance(n_q, Tensor) else None
        if self.training and self.steps < self.start:
            self.steps += int((self.plan is None or self.plan.ends_step) and torch.is_grad_enabled())
            return Quantized(z, z.new_zeros(len(z), len(layers), z.shape[2], dtype=torch.long), z.new_zeros(()))
        x = residual = self.project_in(z.transpose(1, 2)).float()
        total, codes, loss = 0, [], 0
        searched = self._search(x.flatten(0, 1), layers) if self.beam > 1 < len(layers) and not self.training else None
        for k, layer in enumerate(layers):
            chosen = (layer(residual.flatten(0, 1)) if searched is None else searched[k]).view(residual.shape[:2])
            entry = layer.lookup(chosen)
            loss = loss + self.commitment * F.mse_loss(residual, entry.detach())
            if layer.update == "grad":
                loss = loss + F.mse_loss(entry, residual.detach())
            total = total + (entry.detach() if decoded is None else entry.detach() * (k < decoded))
            residual = residual - entry.detach()
            if self.residual_grad == "first":
                residual = residual.detach()
            codes.append(chosen)
        z_q = self.project_out(x + (total - x).detach()).transpose(1, 2)  # straight-through
        return Quantized(z_q, torch.stack(codes, 1), loss / len(layers))

    @torch.no_grad()
    def _search(self, x, layers):
        """Codes `[N]` of each of `layers` for `x` `[N, D]`: the best of the `beam` sums of entries kept so far."""
        residuals, paths = x.unsqueeze(1), []
        for layer in layers:
            distances, codes = layer.nearest_few(residuals, self.beam)  # [N, paths, few] each
            few, distances, codes = codes.shape[2], distances.flatten(1), codes.flatten(1)
            best = distances.topk(min(self.beam, distances.shape[1]), largest=False).indices
            origin, codes = best // few, codes.gather(1, best)
            residuals = residuals.gather(1, origin.unsqueeze(2).expand(-1, -1, x.shape[1])) - layer.lookup(codes)
            paths = [path.gather(1, origin) for path in paths] + [codes]
        return [path[:, 0] for path in paths]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of the first layers or all, `[B, <= n_residual, T]` -> `z_q` `[B, D, T]`."""
        total = sum(layer.lookup(chosen) for layer, chosen in zip(self.layers, codes.unbind(1), strict=False))
        return self.project_out(total).transpose(1, 2)


class GroupResidualVQ(Quantizer):
    """The channels in `n_groups` equal parts, a `ResidualVQ` each. Codes `[B, n_q, T]`, group by group.

    So that one model serves several bitrates, a training step draws the number of codebooks, `n_q` of its plan.
    `dropout`: share of the items that are decoded from fewer, any number of them; all go on learning (SoundStream,
    section III-D). `drawn`: numbers of which one is drawn for the whole batch; the others are as if they were not
    there (EnCodec, section 3.2).
    """

    plan: Plan | None = None

    def __init__(self, dim, n_groups=1, dropout=0.0, drawn=(), **residual):
        super().__init__()
        if dim % n_groups:
            raise ValueError(f"{dim} channels do not divide into {n_groups} groups")
        self.dropout, self.drawn = dropout, tuple(drawn)
        self.groups = nn.ModuleList(ResidualVQ(dim // n_groups, **residual) for _ in range(n_groups))
        if dropout and drawn or set(drawn) - set(self.n_q_choices):
            raise ValueError(f"codebooks drawn from {drawn}: not of {list(self.n_q_choices)}, or with dropout, too")

    @property
    def n_q_choices(self) -> range:
        return range(len(self.groups), len(self.codebooks) + 1, len(self.groups))

    @property
    def n_groups(self) -> int:
        return len(self.groups)

    @property
    def n_q_trained(self) -> list[int]:
        return list(self.drawn or (self.n_q_choices if self.dropout else self.n_q_choices[-1:]))

    @property
    def codebook_size(self) -> int:
        return self.groups[0].layers[0].size

    @property
    def codebooks(self) -> list[Codebook]:
        """Every `Codebook`, in the order of the codes."""
        return [layer for group in self.groups for layer in group.layers]

    def forward(self, z: Tensor) -> Quantized:
        # a codec may have another quantizer, of tokens, to which the plan says nothing
        planned = (self.training or self.frozen) and self.plan and (self.drawn or self.dropout)
        n_q = self.plan.drawn.get("n_q", self.n_q) if planned else self.n_q
        if isinstance(n_q, Tensor) and self.frozen:
            return self._as_in_use(z, n_q)
        return self._coded(z, n_q)

    def _coded(self, z, n_q):
        n_q = n_q // len(self.groups)
        parts = [group(part, n_q) for group, part in zip(self.groups, z.chunk(len(self.groups), 1), strict=True)]
        return Quantized(
            torch.cat([p.z_q for p in parts], 1),
            torch.cat([p.codes for p in parts], 1),
            sum(p.loss for p in parts) / len(parts),
        )

    def _as_in_use(self, z, n_q):
        """What a step that teaches others sees of codebooks that do not learn: each item's `n_q` [B] as in use, where a
        search over paths finds other first codes for fewer. Codes are those with all."""
        whole = self._coded(z, self.n_q)
        z_q = whole.z_q.clone()
        for fewer in set(n_q.tolist()) - {self.n_q}:
            z_q[n_q == fewer] = self._coded(z[n_q == fewer], fewer).z_q
        return Quantized(z_q, whole.codes, whole.loss)

    def draw(self, rng: np.random.Generator, n_items: int) -> dict[str, int | Tensor]:
        """For a step's plan: one number of codebooks, or those that each item is decoded from, `[n_items]`."""
        if self.drawn:
            return {"n_q": int(rng.choice(self.drawn))}
        return draw_n_q(rng, n_items, self.n_q_choices, self.dropout)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of all codebooks or of the first of each group, `[B, <= n_q, T]` -> `z_q` `[B, D, T]`."""
        parts = codes.chunk(len(self.groups), 1)
        return torch.cat([group.decode(part) for group, part in zip(self.groups, parts, strict=True)], 1)
