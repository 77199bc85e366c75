"""Multi-scale discriminator. Source: Kumar et al., MelGAN (2019), as HiFi-GAN (2020), section 2.3, has it."""

import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pscodec.layers.conv import conv
from pscodec.types import Judged


class ScaleDiscriminator(nn.Module):
    """Grouped convolutions on the waveform: `wav` `[B, 1, L]` -> logits and seven feature maps `[B, C, T]`."""

    def __init__(self, width=128, spectral=False):
        super().__init__()

        def layer(i, o, kernel_size, stride=1, groups=1):
            plain = conv(i, o, kernel_size, stride, groups=groups, padding=kernel_size // 2, weight_norm=not spectral)
            return spectral_norm(plain) if spectral else plain

        groups = min(16, width // 8)
        self.convs = nn.ModuleList(
            [
                layer(1, width, 15),
                layer(width, width, 41, 2, groups // 4 or 1),
                layer(width, 2 * width, 41, 2, groups),
                layer(2 * width, 4 * width, 41, 4, groups),
                layer(4 * width, 8 * width, 41, 4, groups),
                layer(8 * width, 8 * width, 41, 1, groups),
                layer(8 * width, 8 * width, 5),
            ]
        )
        self.last = layer(8 * width, 1, 3)

    def forward(self, wav):
        x, fmaps = wav, []
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.1)
            fmaps.append(x)
        return self.last(x), fmaps


class MultiScaleDiscriminator(nn.Module):
    """The waveform as it is (spectral norm) and averaged down to a half and a quarter of its rate (weight norm).

    `width` 128 is HiFi-GAN's 29.6 M parameters; smaller ones (a multiple of 8) scale all layers.
    """

    def __init__(self, width=128):
        super().__init__()
        if width % 8:
            raise ValueError(f"the width of the multi-scale discriminator is a multiple of 8, not {width}")
        self.parts = nn.ModuleList(ScaleDiscriminator(width, spectral=scale == 0) for scale in range(3))

    def forward(self, wav):
        answers = []
        for scale, part in enumerate(self.parts):
            if scale:
                wav = F.avg_pool1d(wav, 4, 2, padding=2)
            answers.append(part(wav))
        return Judged(*map(list, zip(*answers, strict=True)))
