"""A decoder at the rate of the frames that shapes pulses and noise.

In the order of its signals: pitch, excitation, filters, inverse STFT. Ours; layers/source names the papers.
"""

import math

import torch
from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.convnext import ConvNeXt
from pscodec.layers.hifigan import LayerNorm
from pscodec.layers.source import HIGHEST, LOWEST, Excitation, SourceFilter, Spectra
from pscodec.layers.spectrum import InverseParts
from pscodec.models.vocos import PIECE


class PitchHead(nn.Module):
    """`[B, latent_dim, T]` -> `log_f0` (of Hz) and `voicing` (logits), `[B, 1, T]` each."""

    def __init__(self, latent_dim, width=192, n_blocks=2):
        super().__init__()
        self.first = conv(latent_dim, width, 7, weight_norm=False, gain=0.7)
        self.blocks = nn.Sequential(*(ConvNeXt(width, 2 * width) for _ in range(n_blocks)))
        self.norm = LayerNorm(width)
        self.pitch = conv(width, 1, 1, weight_norm=False, gain=0.3)
        self.voicing = conv(width, 1, 1, weight_norm=False, gain=0.3)

    def forward(self, z):
        x = self.norm(self.blocks(self.first(z)))
        place = torch.sigmoid(self.pitch(x).float())
        return place * math.log(HIGHEST / LOWEST) + math.log(LOWEST), self.voicing(x).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * hop_length]`.

    The pitch that it reads from `z` makes the excitation, and is shown to its blocks; it learns from a loss of its own
    (losses/pitch) alone.
    """

    piece = PIECE

    def __init__(
        self, latent_dim=256, width=320, n_blocks=8, hidden=960, hop_length=320, n_fft=1280, sample_rate=24000
    ):
        super().__init__()
        self.hop_length, self.n_bins = hop_length, n_fft // 2 + 1
        self.pitch = PitchHead(latent_dim)
        self.excitation = Excitation(hop_length, sample_rate)
        self.spectra = Spectra(hop_length, n_fft)
        self.first = conv(latent_dim, width, 7, weight_norm=False, gain=0.7)
        self.see_pitch = conv(1, width, 3, weight_norm=False, gain=0.3)
        self.see_voicing = conv(1, width, 3, weight_norm=False, gain=0.3)
        self.blocks = nn.Sequential(*(ConvNeXt(width, hidden) for _ in range(n_blocks)))
        self.norm = LayerNorm(width)
        self.last = conv(width, 3 * self.n_bins, 1, weight_norm=False, gain=0.3)
        with torch.no_grad():  # pulses and noise begin at the level of speech, 30 dB below full scale
            amplitudes = self.last.bias.view(3, self.n_bins)[::2]
            amplitudes.fill_(math.log(0.03))
        self.filter = SourceFilter()
        self.inverse = InverseParts(hop_length, n_fft)

    def forward(self, z):
        log_f0, voicing = self.pitch(z)
        log_f0, voicing = log_f0.detach(), voicing.detach()
        x = self.first(z) + self.see_pitch(log_f0 - math.log(180)) + self.see_voicing(voicing.tanh())
        filters = self.last(self.norm(self.blocks(x)))
        return self.inverse(self.filter(filters, self.spectra(self.excitation(log_f0))))
