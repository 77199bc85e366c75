"""Multi-resolution STFT discriminators.

Sources: Kumar et al., DAC (2023), section 3.3, and its public code, for the one in bands; Jang et al., UnivNet (2021),
section 2.3, as APCodec's public code has it, for the one of magnitudes.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pscodec.discriminators.base import Parallel
from pscodec.features import stft

BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # edges, shares of the spectrum


class BandDiscriminator(nn.Module):
    """Real and imaginary parts of one STFT, each band through convolutions of its own, a last one over all.

    `wav` `[B, 1, L]` -> logits `[B, 1, N, F']` and the feature maps `[B, C, N, F'']` of every band in turn.
    """

    def __init__(self, n_fft, width=32, bands=BANDS):
        super().__init__()
        self.n_fft = n_fft
        edges = [int(edge * (n_fft // 2 + 1)) for edge in bands]
        self.bands = list(zip(edges[:-1], edges[1:], strict=True))
        self.stacks = nn.ModuleList(self._stack(width) for _ in self.bands)
        self.last = weight_norm(nn.Conv2d(width, 1, (3, 3), padding=1))

    @staticmethod
    def _stack(width):
        def conv2d(i, kernel, stride=(1, 1)):
            padding = tuple(k // 2 for k in kernel)
            return weight_norm(nn.Conv2d(i, width, kernel, stride, padding))

        # kernels are (time, frequency)
        halving = [conv2d(width, (3, 9), (1, 2)) for _ in range(3)]
        return nn.ModuleList([conv2d(2, (3, 9)), *halving, conv2d(width, (3, 3))])

    def forward(self, wav):
        spectrum = stft(wav, self.n_fft, self.n_fft // 4)
        spectrum = torch.cat([spectrum.real, spectrum.imag], 1).transpose(2, 3)
        fmaps, ends = [], []
        for (low, high), stack in zip(self.bands, self.stacks, strict=True):
            x = spectrum[..., low:high].contiguous(memory_format=torch.channels_last)
            for layer in stack:
                x = F.leaky_relu(layer(x), 0.1)
                fmaps.append(x)
            ends.append(x)
        return self.last(torch.cat(ends, 3)), fmaps


class MultiResolutionDiscriminator(Parallel):
    """One `BandDiscriminator` a window length in samples, hop a quarter of it."""

    def __init__(self, n_ffts=(2048, 1024, 512), width=32):
        super().__init__(BandDiscriminator(n_fft, width) for n_fft in n_ffts)


class MagnitudeDiscriminator(nn.Module):
    """The magnitudes of one STFT (`n_fft`, `hop_length`, `win_length` samples, a rectangular window).

    `wav` `[B, 1, L]` -> logits and five feature maps `[B, C, F, N]`.
    """

    def __init__(self, n_fft, hop_length, win_length, width=64):
        super().__init__()
        self.sizes = n_fft, hop_length, win_length
        kernels = [((7, 5), (2, 2)), ((5, 3), (2, 1)), ((5, 3), (2, 2)), ((3, 3), (2, 1)), ((3, 3), (2, 2))]
        inputs = [1] + 4 * [width]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(i, width, kernel, stride, tuple(k // 2 for k in kernel)))
            for i, (kernel, stride) in zip(inputs, kernels, strict=True)
        )
        self.last = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, wav):
        window = torch.ones(self.sizes[2], device=wav.device)
        x = torch.stft(wav.float()[:, 0], *self.sizes, window, return_complex=True).abs().unsqueeze(1)
        fmaps = []
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.1)
            fmaps.append(x)
        return self.last(x), fmaps


class MultiMagnitudeDiscriminator(Parallel):
    """One `MagnitudeDiscriminator` a resolution: FFT, hop, window in samples."""

    def __init__(self, resolutions=((512, 20, 160), (1024, 40, 320), (2048, 80, 640)), width=64):
        super().__init__(MagnitudeDiscriminator(*sizes, width) for sizes in resolutions)
