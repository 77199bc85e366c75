"""Learning rates that follow from how far a training is."""


class Trapezoid:
    """Linearly up in `warmup` steps to the optimizer's own rates, level, and over the last `decay` (a share of the
    training, 0 to 1) linearly down to 0. A function of the place alone: there is nothing to save, and a training that
    is made longer goes on at the level.
    """

    def __init__(self, optimizer, warmup=0, decay=0.0):
        self.optimizer, self.warmup, self.decay = optimizer, warmup, decay
        self.rates = [group["lr"] for group in optimizer.param_groups]

    def factor(self, step, done):
        """Of the rate of step `step` (from 0 on), before which the share `done` of the training is over."""
        up = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        down = min(1.0, (1.0 - done) / self.decay) if self.decay else 1.0
        return min(up, max(0.0, down))

    def set(self, step, done):
        """Give the optimizer the rates of the step to come."""
        # asked for each time: a checkpoint that is loaded brings groups of its own
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor(step, done)
