"""Snake, an activation that keeps what is periodic. Source: Ziyin et al. (2020), as DAC (Kumar et al., 2023) has it."""

import torch
from torch import nn


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, with an alpha for each channel: `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x):
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)
