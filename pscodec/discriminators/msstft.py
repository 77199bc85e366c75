"""Multi-scale STFT discriminator. Source: Defossez et al., EnCodec (2022), section 3.4; kernels of the public code."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pscodec.discriminators.base import Parallel
from pscodec.features import stft


class STFTDiscriminator(nn.Module):
    """Real and imaginary parts of one STFT through dilated 2-D convolutions: logits and feature maps `[B, C, F, N]`.

    `by_window`: the STFT is divided by the norm of its window, as in EnCodec's public code, instead of by sqrt(n_fft).
    """

    def __init__(self, n_fft, width=32, by_window=False):
        super().__init__()
        self.n_fft, self.scale = n_fft, (8 / 3) ** 0.5 if by_window else 1.0  # a Hann window's power is 3/8 a sample

        def conv2d(i, o, kernel, stride=(1, 1), dilation=(1, 1)):
            padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
            return weight_norm(nn.Conv2d(i, o, kernel, stride, padding, dilation))

        # kernels are (time, frequency); the frequency axis is halved by the dilated layers
        self.convs = nn.ModuleList([conv2d(2, width, (3, 9))])
        self.convs += [conv2d(width, width, (3, 9), (1, 2), (d, 1)) for d in (1, 2, 4)]
        self.convs += [conv2d(width, width, (3, 3))]
        self.last = conv2d(width, 1, (3, 3))

    def forward(self, wav):
        spectrum = stft(wav, self.n_fft, self.n_fft // 4, normalized=True)
        x = self.scale * torch.cat([spectrum.real, spectrum.imag], 1).transpose(2, 3)
        x = x.contiguous(memory_format=torch.channels_last)
        fmaps = []
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.2)
            fmaps.append(x)
        return self.last(x), fmaps


class MultiScaleSTFTDiscriminator(Parallel):
    """One `STFTDiscriminator` a window length in samples, hop a quarter of it."""

    def __init__(self, n_ffts=(1024, 2048, 512, 256, 128), width=32, by_window=False):
        super().__init__(STFTDiscriminator(n_fft, width, by_window) for n_fft in n_ffts)
