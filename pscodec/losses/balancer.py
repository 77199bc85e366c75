"""Losses weighed by the share of the gradient that each has, not by their scale."""

import torch

from pscodec.losses.base import WeightedSum


class Balancer(WeightedSum):
    """A `WeightedSum` whose losses over `wav_hat` reach the codec in the shares of their weights.

    Source: Defossez et al., EnCodec (2022), section 3.4, eq. (5): g_i, the gradient of loss i at `wav_hat`, arrives as
    `norm` (R) * weight_i / sum of the weights * g_i / the running mean of |g_i|, of decay `decay` (beta). g_i is an
    item's own gradient and |g_i| its norm, in the mean over the batch, so that neither depends on the batch's size;
    the mean begins with the first batch, unbiased. The weights that are summed are those of the losses at hand:
    adversarial ones may come later.

    A loss that `wav_hat` does not enter (the quantizer's) is added as it is, with its weight. One that it enters must
    depend on the codec through it alone: what else it says is not heard. The total is worth the plain weighted sum;
    only its gradient is another. In eval mode and without gradients it is that of `WeightedSum`.

    The running means are buffers, so they are in the checkpoints, and the same in all training processes. Of a step in
    several parts (gradient accumulation) each part counts as a batch.
    """

    def __init__(self, terms, weights, norm=1.0, decay=0.999):
        super().__init__(terms, weights)
        self.norm, self.decay = norm, decay
        self.order = [name for name in terms if weights[name]]
        self.register_buffer("sums", torch.zeros(len(self.order)))  # of norms, and of what each counts
        self.register_buffer("counts", torch.zeros(len(self.order)))

    def forward(self, evidence):
        values = self.values(evidence)
        total, wav_hat = self.total(values), evidence.output.wav_hat
        if self.training and torch.is_grad_enabled():
            balanced = self._balanced({n: v for n, v in values.items() if v.requires_grad}, wav_hat)
            total = balanced + (total - balanced).detach()
        return total, {name: value.detach() for name, value in values.items()}

    def _balanced(self, values, wav_hat):
        """A scalar with the gradient that is wanted."""
        with torch.autocast(wav_hat.device.type, enabled=False):  # as backward passes are, it is outside of it
            grads = {name: _gradient(value, wav_hat) for name, value in values.items()}
        plain = self.total({name: values[name] for name, grad in grads.items() if grad is None})
        grads = {name: len(wav_hat) * grad for name, grad in grads.items() if grad is not None}
        if not grads:
            return plain
        means = self._means({name: grad.flatten(1).norm(dim=1).mean() for name, grad in grads.items()})
        share = self.norm / sum(self.weights[name] for name in grads)
        grad = sum(share * self.weights[name] * grad / means[name] for name, grad in grads.items())
        return plain + (grad * wav_hat).sum() / len(wav_hat)

    def _means(self, norms):
        """The running means of `norms` with these among them, by name."""
        places = [self.order.index(name) for name in norms]
        now = torch.stack(list(norms.values())).to(self.sums)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(now)
            now /= torch.distributed.get_world_size()
        self.sums[places] = self.decay * self.sums[places] + (1 - self.decay) * now
        self.counts[places] = self.decay * self.counts[places] + (1 - self.decay)
        means = self.sums[places] / self.counts[places]
        return dict(zip(norms, means.clamp(min=1e-12), strict=True))


def _gradient(value, wav_hat):
    """Of `value` at `wav_hat`, which does not enter all of them: None."""
    return torch.autograd.grad(value, wav_hat, retain_graph=True, allow_unused=True)[0]
