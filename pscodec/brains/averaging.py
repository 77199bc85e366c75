"""The running mean of a network's weights: better than any of them, above all at a high learning rate."""

import copy

import torch


class WeightMean:
    """Of `model`, a Module, with `decay` (0 to 1) of what was there kept a step; less at first.

    `average`: the Module that has the mean, in eval mode; its weights that are not trained and its buffers are always
    the model's own. `shared`: parts of the model that it does not copy, because they never change.
    """

    def __init__(self, model, decay, shared=()):
        self.model, self.decay = model, decay
        self.average = copy.deepcopy(model, {id(part): part for part in shared}).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step):
        """Take in the weights after step `step`, from 1 on."""
        new = 1 - min(self.decay, step / (10 + step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        average, now = zip(*[(a, p) for a, p in pairs if p.requires_grad], strict=True)
        torch._foreach_lerp_(average, now, new)
        for mine, theirs in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)
