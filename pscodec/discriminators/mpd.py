"""Multi-period discriminator. Source: Kong et al., HiFi-GAN (2020), section 2.3."""

import torch.nn.functional as F
from torch import nn

from pscodec.discriminators.base import Parallel
from pscodec.layers.conv import conv


class PeriodDiscriminator(nn.Module):
    """Sees every `period`-th sample: `wav` `[B, 1, L]` -> logits and five feature maps `[B * period, C, T]`.

    HiFi-GAN's 2-D kernels have height 5 and width 1, so the columns of its image never meet before the loss: they
    are `B * period` sequences here, with the same weights and the same arithmetic.
    """

    def __init__(self, period, width=32):
        super().__init__()
        self.period = period
        channels = [1, width, 4 * width, 16 * width, 32 * width]
        self.convs = nn.ModuleList(
            conv(i, o, 5, stride=3, padding=2) for i, o in zip(channels[:-1], channels[1:], strict=True)
        )
        self.convs.append(conv(32 * width, 32 * width, 5))
        self.last = conv(32 * width, 1, 3)

    def forward(self, wav):
        batch, _, length = wav.shape
        x = F.pad(wav, (0, -length % self.period), mode="reflect")
        x = x.view(batch, -1, self.period).transpose(1, 2).reshape(batch * self.period, 1, -1)
        fmaps = []
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.1)
            fmaps.append(x)
        return self.last(x), fmaps


class MultiPeriodDiscriminator(Parallel):
    """One `PeriodDiscriminator` a period; `width` 32 is HiFi-GAN's 41.1 M parameters, smaller ones scale all layers."""

    def __init__(self, periods=(2, 3, 5, 7, 11), width=32):
        super().__init__(PeriodDiscriminator(p, width) for p in periods)
