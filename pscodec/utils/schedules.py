"""Learning rates that follow from how far a training is."""


class Schedule:
    """A factor of the optimizer's own rates, a function of the place in the training alone: there is nothing to save,
    and a resumed run goes on with the same rates."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]

    def factor(self, step, done):
        """Of the rate of step `step` (from 0 on), before which the share `done` of the training is over."""
        raise NotImplementedError

    def set(self, step, done):
        """Give the optimizer the rates of the step to come."""
        # asked for each time: a checkpoint that is loaded brings groups of its own
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor(step, done)


class Trapezoid(Schedule):
    """Linearly up in `warmup` steps to the optimizer's own rates, level, and over the last `decay` (a share of the
    training, 0 to 1) linearly down to 0. A training that is made longer goes on at the level.
    """

    def __init__(self, optimizer, warmup=0, decay=0.0):
        super().__init__(optimizer)
        self.warmup, self.decay = warmup, decay

    def factor(self, step, done):
        up = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        down = min(1.0, (1.0 - done) / self.decay) if self.decay else 1.0
        return min(up, max(0.0, down))


class Eden(Schedule):
    """ScaledAdam's (Yao et al., Zipformer, ICLR 2024, section 3.5): down with steps and with passes over the data.

    ((step / steps)^2 + 1)^(-1/4) ((pass / passes)^2 + 1)^(-1/4), and in the first `warmup` steps linearly up to that
    from its half. `steps_per_pass`: after how many steps a pass over the data is over.
    """

    def __init__(self, optimizer, steps_per_pass, steps=5000, passes=4, warmup=200):
        super().__init__(optimizer)
        self.steps_per_pass, self.steps, self.passes, self.warmup = steps_per_pass, steps, passes, warmup

    def factor(self, step, done):
        over = step // self.steps_per_pass
        up = min(1.0, 0.5 + 0.5 * step / self.warmup) if self.warmup else 1.0
        return up * ((step / self.steps) ** 2 + 1) ** -0.25 * ((over / self.passes) ** 2 + 1) ** -0.25
