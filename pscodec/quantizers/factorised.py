"""Factorised residual vector quantization: entries are chosen by their direction, in a few dimensions a layer.

Source: Kumar et al., DAC (2023), section 3.2, after Yu et al., ViT-VQGAN (2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.conv import conv
from pscodec.quantizers.base import Quantizer, draw_n_q
from pscodec.quantizers.codebook import Codebook
from pscodec.types import Plan, Quantized


class FactorisedVQ(nn.Module):
    """One layer: a projection of `dim` channels to `codebook_dim`, the entry nearest by direction, and back.

    Called with a residual `[B, D, T]` it returns what the layer makes of it `[B, D, T]` (straight-through), codes
    `[B, T]`, and its losses `[B]`: |sg(r) - e|^2 + `commitment` * |r - sg(e)|^2, means over channels and frames.
    """

    def __init__(self, dim, codebook_size, codebook_dim, commitment, **codebook):
        super().__init__()
        self.commitment = commitment
        self.in_proj = conv(dim, codebook_dim, 1)
        self.out_proj = conv(codebook_dim, dim, 1, gain=0.04)  # as small as the public code begins: layers add up
        self.codebook = Codebook(codebook_size, codebook_dim, direction=True, **codebook)

    def forward(self, residual):
        x = self.in_proj(residual).float()
        codes = self.codebook(x.transpose(1, 2).flatten(0, 1)).view(len(x), -1)
        entry = self.codebook.lookup(codes).transpose(1, 2)
        loss = self.commitment * F.mse_loss(x, entry.detach(), reduction="none").mean((1, 2))
        if self.codebook.update == "grad":
            loss = loss + F.mse_loss(entry, x.detach(), reduction="none").mean((1, 2))
        return self.out_proj(x + (entry - x).detach()), codes, loss

    def decode(self, codes):
        """Codes `[B, T]` -> `[B, D, T]`, T >= 0."""
        return F.linear(self.codebook.lookup(codes), self.out_proj.weight[..., 0], self.out_proj.bias).transpose(1, 2)


class FactorisedRVQ(Quantizer):
    """`n_residual` layers, each coding what the ones before left over. Codes `[B, n_q, T]`; the loss is their sum.

    `dropout`: share of a step's items that are decoded from fewer layers, any number of them. The layers that an item
    is not decoded from learn nothing of it.
    """

    plan: Plan | None = None

    def __init__(
        self, dim, codebook_size=1024, n_residual=32, codebook_dim=8, commitment=0.25, dropout=0.0, **codebook
    ):
        super().__init__()
        self.dropout, self.codebook_size = dropout, codebook_size
        self.n_q_choices = range(1, n_residual + 1)
        self.layers = nn.ModuleList(
            FactorisedVQ(dim, codebook_size, codebook_dim, commitment, **codebook) for _ in range(n_residual)
        )

    @property
    def n_q_trained(self) -> list[int]:
        return list(self.n_q_choices if self.dropout else self.n_q_choices[-1:])

    @property
    def codebooks(self) -> list[Codebook]:
        """Every `Codebook`, in the order of the codes."""
        return [layer.codebook for layer in self.layers]

    def forward(self, z: Tensor) -> Quantized:
        n_q = self.plan.drawn.get("n_q", self.n_q) if self.training and self.plan else self.n_q
        items = n_q.to(z.device) if isinstance(n_q, Tensor) else None
        total, residual, codes, loss = 0, z, [], 0
        for k, layer in enumerate(self.layers if items is not None else self.layers[:n_q]):
            part, chosen, layer_loss = layer(residual)
            used = torch.ones_like(layer_loss) if items is None else (k < items).float()
            total = total + part * used.view(-1, 1, 1)
            residual = residual - part
            loss = loss + (layer_loss * used).mean()
            codes.append(chosen)
        return Quantized(total, torch.stack(codes, 1), loss)

    def draw(self, rng, n_items: int) -> dict[str, Tensor]:
        """For a step's plan: the numbers of layers that the items are decoded from, `[n_items]`."""
        return draw_n_q(rng, n_items, self.n_q_choices, self.dropout)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of the first layers or all, `[B, <= n_residual, T]` -> `z_q` `[B, D, T]`."""
        return sum(layer.decode(chosen) for layer, chosen in zip(self.layers, codes.unbind(1), strict=False))
