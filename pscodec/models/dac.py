"""DAC, the Descript audio codec: convolutions with Snake around factorised residual quantization.

Source: Kumar et al., High-fidelity audio compression with improved RVQGAN (2023), sections 3.1 and 3.2; the layout of
its public code. It is not causal, and has no norm over time.
"""

import math
import re

from torch import nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.snake import Snake
from pscodec.models.base import Codec
from pscodec.models.public import parametrized, take

GAIN = 0.6  # of the first weights: Snake lets all of a signal through, and He's initialisation counts on half of it


class DAC(Codec):
    """`Encoder`, `quantizers.factorised.FactorisedRVQ`, `Decoder`."""

    activation = "snake"

    def load_public(self, state):
        """Take the weights `state` of the authors' `DAC`, or of SpeechBrain's.

        Raises ValueError where they do not fit this configuration.
        """
        take(self, {_from_public(key): value for key, value in state.items()}, own=("idle", "started"))
        for book in self.quantizer.codebooks:
            book.started.fill_(True)


def _from_public(key):
    """Name of a public weight in this project."""
    key = re.sub(r"^(encoder\.block|decoder\.model)\.", lambda m: m[1].split(".")[0] + ".layers.", key)
    key = re.sub(r"^quantizer\.quantizers\.", "quantizer.layers.", key)
    key = key.replace(".codebook.weight", ".codebook.entries")
    return parametrized(key)


class ResidualUnit(nn.Module):
    """x + conv(snake(conv_dilated(snake(x)))), kernels of 7 and 1. `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels, dilation):
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            conv(channels, channels, 7, dilation=dilation, gain=GAIN),
            Snake(channels),
            conv(channels, channels, 1, gain=0.3),  # what many units add up to begins as large as x
        )

    def forward(self, x):
        return x + self.block(x)


class Block(nn.Module):
    """Layers one after another, as the public code groups them."""

    def __init__(self, *layers):
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return self.block(x)


class Encoder(nn.Module):
    """`wav` `[B, 1, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of the product of `strides`.

    `width` channels after the first convolution, doubled at every stride.
    """

    def __init__(self, latent_dim=1024, width=64, strides=(2, 4, 5, 8), dilations=(1, 3, 9)):
        super().__init__()
        self.hop_length = math.prod(strides)
        layers = [conv(1, width, 7, gain=GAIN)]
        for stride in strides:
            units = [ResidualUnit(width, dilation) for dilation in dilations]
            layers.append(Block(*units, Snake(width), conv(width, 2 * width, 2 * stride, stride, gain=GAIN)))
            width *= 2
        self.layers = nn.Sequential(*layers, Snake(width), conv(width, latent_dim, 3, gain=GAIN))

    def forward(self, wav):
        return self.layers(wav).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * product of strides]` in [-1, 1].

    `width` channels after the first convolution, halved at every stride.
    """

    def __init__(self, latent_dim=1024, width=1536, strides=(8, 5, 4, 2), dilations=(1, 3, 9)):
        super().__init__()
        self.hop_length = math.prod(strides)
        layers = [conv(latent_dim, width, 7, gain=GAIN)]
        for stride in strides:
            units = [ResidualUnit(width // 2, dilation) for dilation in dilations]
            layers.append(Block(Snake(width), upsample(width, width // 2, stride, gain=GAIN), *units))
            width //= 2
        self.layers = nn.Sequential(*layers, Snake(width), conv(width, 1, 7, gain=0.1), nn.Tanh())

    def forward(self, z):
        return self.layers(z).float()
