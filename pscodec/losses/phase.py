"""Losses on amplitude and phase spectra. Source: Ai et al., APCodec (2024), section III-D, after Ai and Ling (2023).

They read `log_amplitude` and `phase` of the codec's latents, `[B, n_fft // 2 + 1, F]`, and compare them with the STFT
of the reference with the same sizes: hop `shift`, FFT `n_fft`, window `win_length`, in samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.spectrum import ComplexFrames, amplitude_of, log_amplitude


class _OfSpectra(nn.Module):
    def __init__(self, shift=40, n_fft=1024, win_length=320):
        super().__init__()
        self.frames = ComplexFrames(shift, n_fft, win_length)


class AmplitudeL2(_OfSpectra):
    """The mean squared difference of log amplitudes."""

    def forward(self, evidence):
        return F.mse_loss(evidence.output.latents["log_amplitude"], log_amplitude(self.frames(evidence.wav)))


class AntiWrappedPhase(_OfSpectra):
    """The mean distances, around the circle, of phases, of their differences from bin to bin (group delay) and from
    frame to frame (their derivative along time), added up."""

    def forward(self, evidence):
        phase, phase_hat = self.frames(evidence.wav).angle(), evidence.output.latents["phase"]
        error = phase - phase_hat
        along = (error, torch.diff(error, dim=1), torch.diff(error, dim=2))
        return sum(anti_wrap(x).mean() for x in along)


def anti_wrap(x):
    """|x| around the circle, in radians: at most pi."""
    return (x - 2 * math.pi * torch.round(x / (2 * math.pi))).abs()


class Consistency(_OfSpectra):
    """The mean squared distance of the spectrum that the decoder made and that of its waveform, which may differ."""

    def forward(self, evidence):
        made, found = _spectrum(evidence.output.latents), self.frames(evidence.output.wav_hat)
        return (made - found).abs().square().mean()


class RealImaginary(_OfSpectra):
    """The mean absolute differences of the spectra's real and of their imaginary parts, added up."""

    def forward(self, evidence):
        made, wanted = _spectrum(evidence.output.latents), self.frames(evidence.wav)
        return F.l1_loss(made.real, wanted.real) + F.l1_loss(made.imag, wanted.imag)


def _spectrum(latents):
    return torch.polar(amplitude_of(latents["log_amplitude"]), latents["phase"])
