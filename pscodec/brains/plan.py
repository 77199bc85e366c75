"""What a training step leaves to chance, drawn at one place before it begins."""

import numpy as np
import torch
from torch import nn

from pscodec.types import Plan


class Planner:
    """Draws a `types.Plan` for each step and tells it to the modules of `modules` that have an attribute `plan`.

    A plan is a function of (seed, step) alone: a resumed run draws what an unbroken one would have drawn, and several
    processes, of which each takes its share of the items, what a single one would have. Those modules that have a
    method `draw(rng, n_items) -> dict` draw what is theirs (types.Plan.drawn). The rest is here, by `hparams`: the
    stretch that discriminators judge, `adversarial_segment` seconds (0: all), the same of all items; and whether they
    learn, in `discriminator_share` of the steps.
    """

    def __init__(self, modules: nn.Module, hparams):
        self.told = [module for module in modules.modules() if hasattr(module, "plan")]
        self.seed, self.share = hparams.seed, hparams.discriminator_share
        self.judged = round(hparams.adversarial_segment * hparams.sample_rate)

    def draw(self, step: int, n_items: int, length: int) -> Plan:
        """The plan of `step` for the `n_items` of all processes, each `length` samples."""
        rng = np.random.default_rng([self.seed, step, 0])
        stretch, learn, drawn = slice(None), True, {}
        if 0 < self.judged < length:
            start = int(rng.integers(length - self.judged + 1))
            stretch = slice(start, start + self.judged)
        if self.share < 1:
            learn = bool(rng.random() < self.share)
        for module in self.told:
            if hasattr(module, "draw"):
                drawn |= module.draw(rng, n_items)
        rank, world = _place()
        if world > 1:
            drawn = {k: v.chunk(world)[rank] if isinstance(v, torch.Tensor) else v for k, v in drawn.items()}
        return Plan(drawn, stretch, learn)

    def tell(self, plan: Plan):
        """What the next pass is to go by."""
        for module in self.told:
            module.plan = plan

    def choices(self) -> list[str]:
        """What it leaves to chance, by name."""
        plan = self.draw(0, _place()[1], self.judged + 1)
        return [*(["stretch"] if self.judged else []), *(["learning"] if self.share < 1 else []), *plan.drawn]


def _place():
    """This process's rank and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
