"""ScaledAdam (Yao et al., Zipformer, ICLR 2024, section 3.5): Adam whose steps are as large as what they change."""

import torch

SMALLEST, LARGEST = 1e-5, 3.0  # root mean square of a tensor that its scale is learned to (icefall's)


class ScaledAdam(torch.optim.Optimizer):
    """Adam's step, times the root mean square of the tensor, and a step of the tensor's scale.

    With theta the tensor before the step, g its gradient, c = sqrt(1 - beta2^t) / (1 - beta1^t), and m, v and n, w the
    running means of g and g^2, and of h = sum(g theta) and h^2:

        theta <- theta - lr rms(theta) c m / (sqrt(v) + eps) - scale_lr lr c n / (sqrt(w) + eps) theta

    The steps do not change with the scale of the loss, nor, relatively, with that of the tensor. A tensor larger than
    LARGEST only shrinks, one smaller than SMALLEST only grows, and steps as if it were so large. A single number has
    no scale: it takes Adam's step by scale_lr lr, as in icefall. `lr` is some hundred times Adam's.
    """

    def __init__(self, params, lr=0.05, betas=(0.9, 0.98), eps=1e-8, scale_lr=0.1):
        if lr < 0 or scale_lr < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError("lr and scale_lr are at least 0, eps above 0, betas at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "scale_lr": scale_lr})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all tensors that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, p.grad, group)
        return loss

    def _step(self, p, grad, group):
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
            state["n"], state["w"] = p.new_zeros(()), p.new_zeros(())
        state["step"] += 1
        correction = (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])

        def direction(x, first, second):
            state[first].lerp_(x, 1 - beta1)
            state[second].lerp_(x * x, 1 - beta2)
            return correction * state[first] / (state[second].sqrt() + eps)

        towards = direction(grad, "m", "v")
        if p.numel() == 1:
            p.sub_(towards, alpha=group["scale_lr"] * lr)
            return
        size, growth = p.square().mean().sqrt(), -direction((grad * p).sum(), "n", "w")
        growth = torch.where(size < SMALLEST, growth.clamp(min=0), growth)
        growth = torch.where(size > LARGEST, -1.0, growth)
        p.mul_(1 + group["scale_lr"] * lr * growth).sub_(lr * size.clamp(min=SMALLEST) * towards)
