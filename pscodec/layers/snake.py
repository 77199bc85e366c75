"""Snake, an activation that keeps what is periodic. Source: Ziyin et al. (2020), as DAC (Kumar et al., 2023) has it."""

import torch
from torch import nn


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, with an alpha for each channel: `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x):
        alpha = self.alpha + 1e-9
        if self.training and torch.is_grad_enabled():
            return _Snake.apply(x, alpha)
        return x + alpha.reciprocal() * torch.sin(alpha * x).pow(2)


class _Snake(torch.autograd.Function):
    """The same for training, in half of the passes over memory, of which a CPU's step of DAC otherwise mostly consists.

    sin^2(a x) / a = (1 - cos(2 a x)) / 2a, so dy/dx = 1 + sin(2 a x) and dy/da = (x dy/dx - y) / a.
    """

    @staticmethod
    def forward(ctx, x, alpha):
        x, half = x.to(alpha.dtype), 0.5 / alpha
        y = torch.addcmul(x + half, (2 * alpha * x).cos_(), half, value=-1)
        ctx.save_for_backward(x, y, alpha)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, y, alpha = ctx.saved_tensors
        grad_x = torch.addcmul(grad, grad, (2 * alpha * x).sin_())
        grad_alpha = (torch.linalg.vecdot(grad_x, x) - torch.linalg.vecdot(grad, y)).sum(0)
        return grad_x, grad_alpha[None, :, None] / alpha
