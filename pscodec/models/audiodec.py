"""AudioDec: a causal autoencoder trained by metric losses, and a vocoder that is then trained on its frozen codes.

Source: Wu et al., AudioDec (2023), figures 1 and 2, and the sizes of its public 24 kHz configuration. A convolution
here ends with the last sample that its output stands for, where the public code's ends with the first.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.hifigan import SLOPE
from pscodec.layers.push import PushPointwise
from pscodec.models.base import Codec


class AudioDec(Codec):
    """`Encoder`, a residual quantizer, and `Decoder` or, in the second training, `Vocoder`."""

    activation = "elu"


class ResidualUnit(nn.Module):
    """x + conv(elu(conv_dilated(elu(x)))), kernels of 7 and 1, causal. `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels, dilation):
        super().__init__()
        plain = {"bias": False, "weight_norm": False}
        self.dilated = conv(channels, channels, 7, dilation=dilation, pad="causal", **plain)
        self.narrow = conv(channels, channels, 1, gain=0.3, **plain)  # what units add up to begins as large as x

    def forward(self, x):
        return x + self.narrow(F.elu(self.dilated(F.elu(x))))


class Encoder(nn.Module):
    """`wav` `[B, 1, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of the product of `strides`.

    `width` channels after the first convolution, doubled at every stride, which no activation precedes.
    """

    def __init__(self, latent_dim=64, width=32, strides=(3, 4, 5, 5), dilations=(1, 3, 9)):
        super().__init__()
        self.hop_length = math.prod(strides)
        layers = [conv(1, width, 7, bias=False, pad="causal", weight_norm=False)]
        for stride in strides:
            layers += [ResidualUnit(width, dilation) for dilation in dilations]
            layers.append(conv(width, 2 * width, 2 * stride, stride, pad="causal", weight_norm=False, gain=0.7))
            width *= 2
        projector = conv(width, latent_dim, 3, bias=False, pad="causal", weight_norm=False, gain=0.7)
        self.layers = nn.Sequential(*layers, projector)

    def forward(self, wav):
        return self.layers(wav).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * product of strides]`: the encoder's mirror image."""

    def __init__(self, latent_dim=64, width=512, strides=(5, 5, 4, 3), dilations=(1, 3, 9)):
        super().__init__()
        self.hop_length = math.prod(strides)
        layers = [conv(latent_dim, width, 7, bias=False, pad="causal", weight_norm=False, gain=0.7)]
        for stride in strides:
            layers.append(upsample(width, width // 2, stride, pad="causal", weight_norm=False))
            width //= 2
            layers += [ResidualUnit(width, dilation) for dilation in dilations]
        last = conv(width, 1, 7, bias=False, pad="causal", weight_norm=False, gain=0.1)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, z):
        return self.layers(z).float()


class Repeat(nn.Module):
    """The channels `groups` times, one after another: `[B, C, T]` -> `[B, groups * C, T]`."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        return x.repeat(1, self.groups, 1)

    def push_form(self):
        return PushPointwise(self)


class MultiGroup(nn.Module):
    """HiFi-GAN's residual block of one kernel in `groups` copies side by side, and their sum by a 1x1 convolution.

    `[B, C, T]` -> `[B, C, T]`, causal (AudioDec, section 3.3).
    """

    def __init__(self, channels, kernel_size=11, dilations=(1, 3, 5), groups=3):
        super().__init__()
        self.repeat, wide = Repeat(groups), groups * channels
        options = {"groups": groups, "pad": "causal"}
        self.convs1 = nn.ModuleList(conv(wide, wide, kernel_size, dilation=d, **options) for d in dilations)
        self.convs2 = nn.ModuleList(conv(wide, wide, kernel_size, gain=0.2, **options) for _ in dilations)
        self.join = conv(wide, channels, 1, bias=False, gain=0.7)

    def forward(self, x):
        x = self.repeat(x)
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            x = x + conv2(F.leaky_relu(conv1(F.leaky_relu(x, SLOPE)), SLOPE))
        return self.join(x)


class Vocoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * product of strides]` in [-1, 1]: HiFi-GAN, causal, in groups.

    `width` channels after the first convolution, halved at every stride.
    """

    def __init__(self, latent_dim=64, width=512, strides=(5, 5, 4, 3), kernel_size=11, dilations=(1, 3, 5), groups=3):
        super().__init__()
        self.hop_length = math.prod(strides)
        self.first = conv(latent_dim, width, 7, pad="causal", gain=0.7)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for stride in strides:
            self.ups.append(upsample(width, width // 2, stride, pad="causal"))
            width //= 2
            self.blocks.append(MultiGroup(width, kernel_size, dilations, groups))
        self.last = conv(width, 1, 7, pad="causal", gain=0.1)

    def forward(self, z):
        x = self.first(z)
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = block(up(F.leaky_relu(x, SLOPE)))
        return torch.tanh(self.last(F.leaky_relu(x)).float())
