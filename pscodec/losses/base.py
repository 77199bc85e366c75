"""Named losses and their weights."""

import torch
from torch import nn


class WeightedSum(nn.Module):
    """`terms` (name -> loss over types.Evidence) and `weights` (name -> lambda).

    Called with the evidence it returns (total, terms): total is the sum of weight * term, terms the unweighted
    scalars by name. A weight of 0 means computed and logged, not trained. Losses marked `adversarial` wait until
    there are discriminators.
    """

    def __init__(self, terms, weights):
        super().__init__()
        if set(terms) != set(weights):
            raise ValueError(f"losses {sorted(terms)} and weights {sorted(weights)} do not match")
        self.terms, self.weights = nn.ModuleDict(terms), dict(weights)

    def forward(self, evidence):
        values = self.values(evidence)
        return self.total(values), {name: value.detach() for name, value in values.items()}

    def values(self, evidence):
        """The losses by name, of those with a weight with their gradients."""
        values = {}
        for name, loss in self.terms.items():
            if getattr(loss, "adversarial", False) and evidence.fake is None:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.weights[name])):
                values[name] = loss(evidence)
        return values

    def total(self, values):
        """The weighted sum of `values`, without those whose weight is 0."""
        return sum((self.weights[name] * value for name, value in values.items() if self.weights[name]), 0.0)


class ModelLoss(nn.Module):
    """A loss that the codec computes on its way: its quantizer's (`quant`), or what else its forward pass gives by
    `name` (types.CodecOutput.losses)."""

    def __init__(self, name="quant"):
        super().__init__()
        self.name = name

    def forward(self, evidence):
        return evidence.output.losses[self.name]
