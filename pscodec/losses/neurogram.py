"""What ViSQOL hears, as a loss."""

import math

import torch
import torch.nn.functional as F
from torch import nn

BANDS, LOWEST, HIGHEST = 21, 50.0, 8000.0  # gammatone filters, Hz
WINDOW = 0.08  # seconds; they overlap by three quarters
EAR_Q, LEAST = 9.26449, 24.7  # equivalent rectangular bandwidths in Hz: frequency / EAR_Q + LEAST
FLOOR = 45.0  # dB below a window's loudest band, of either signal, that are heard
NEIGHBOURS = (0.0113033910, 0.0838251475, 0.6194857458)  # weights of a cell's diagonal and next neighbours, and its own
LEVEL, SHAPE = 1e-4, 4.5e-4  # what keeps quotients of two nothings at 1
QUIET = 1e-4  # power of a window that is a pause, beside the loudest: 40 dB


class NSIMLoss(nn.Module):
    """1 less NSIM: how alike the gammatone spectrograms are around every cell, in their level and in their shape.

    Sources: Hines and Harte, Speech intelligibility prediction using a neurogram similarity index measure, Speech
    Communication 2012; sizes as in ViSQOL v3 in speech mode (Chinen et al., QoMEX 2020). Nearly, for no score is made
    of it: filters are the squared responses of gammatones of the fourth order, levels are aligned, patches are not
    moved, and pauses do not count. At `sample_rate`; what lies above 8 kHz is not heard.
    """

    def __init__(self, sample_rate=24000):
        super().__init__()
        self.size = 4 * round(WINDOW * sample_rate / 4)
        frequencies = torch.arange(self.size // 2 + 1) * (sample_rate / self.size)
        low, high = math.log(LOWEST + EAR_Q * LEAST), math.log(HIGHEST + EAR_Q * LEAST)
        middles = torch.linspace(low, high, BANDS + 1)[:-1, None].exp() - EAR_Q * LEAST
        widths = 1.019 * (middles / EAR_Q + LEAST)
        self.register_buffer("bands", (1 + ((frequencies - middles) / widths).square()) ** -4.0, persistent=False)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        corner, side, middle = NEIGHBOURS
        kernel = torch.tensor([[corner, side, corner], [side, middle, side], [corner, side, corner]])
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, evidence):
        return self.distance(evidence.output.wav_hat, evidence.wav)

    def distance(self, made, wav):
        """Of `made` from `wav`, both `[..., L]`: a scalar. Silent signals do not count."""
        heard, clean = (self._powers(signal.float().flatten(0, -2)) for signal in (made, wav))
        power = clean.sum(1)  # [B, T]
        spoken = power > (QUIET * power.amax(-1, keepdim=True)).clamp(min=1e-6)
        heard = heard * ((power.mean(-1) + 1e-9) / (heard.sum(1).mean(-1) + 1e-9))[:, None, None]
        floor = torch.maximum(clean, heard).amax(1, keepdim=True).detach() * 10 ** (-2 * FLOOR / 10)
        clean, heard = (torch.maximum(p, floor.clamp(min=1e-9)) for p in (clean, heard))
        clean, heard = (5 * p.log10() for p in (clean, heard))  # ViSQOL's dB, half of what they are elsewhere
        least = torch.minimum(clean, heard).amin((1, 2), keepdim=True).detach()
        alike = self.similarity(clean - least, heard - least).mean(1)
        return 1 - (alike * spoken).sum() / spoken.sum().clamp(min=1)

    def similarity(self, clean, heard):
        """NSIM of every cell of spectrograms `[B, BANDS, T]`."""
        level, other = self._around(clean), self._around(heard)
        spread = self._around(clean * clean) - level * level
        theirs = self._around(heard * heard) - other * other
        shared = self._around(clean * heard) - level * other
        levels = (2 * level * other + LEVEL) / (level.square() + other.square() + LEVEL)
        return levels * (shared + SHAPE) / ((spread * theirs).clamp(min=0).add(1e-10).sqrt() + SHAPE)

    def _around(self, cells):
        return F.conv2d(F.pad(cells[:, None], (1, 1, 1, 1), mode="replicate"), self.kernel)[:, 0]

    def _powers(self, wav):
        """Mean power in bands and windows, `[B, L]` -> `[B, BANDS, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            spectra = torch.stft(wav, self.size, self.size // 4, window=self.window, return_complex=True)
            power = spectra.real.square() + spectra.imag.square()
            return self.bands @ power * (2 / self.size**2)
