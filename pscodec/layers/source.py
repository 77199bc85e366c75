"""What a voice is made of, for decoders that shape it: a pulse train of a given pitch, and noise.

A network of frames alone that sees the same latents frame after frame repeats itself at the rate of the frames, which
is heard as a buzz. What is made here goes on from frame to frame by itself. Sources: Wang et al., neural source-filter
models (2019); Liu et al., Neural homomorphic vocoder (2020), for both shaped by filters in the STFT domain.
"""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pscodec.features import RealFFT, dft, hann
from pscodec.layers.push import PushFrames
from pscodec.layers.spectrum import amplitude_of, margin_of

LOWEST, HIGHEST = 50.0, 600.0  # pitches that are told, and learned, Hz
NOISE = 1 << 16  # samples after which the noise comes again
NOISE_FRAMES = 256  # frames after which its phases do


class Excitation(nn.Module):
    """Pitch `[B, 1, T]`, natural logarithms of Hz -> `[B, 2, T * hop_length]`: pulses and noise, each of unit power.

    The pulses hold all harmonics of the pitch below half the sample rate, at equal amplitudes; phases go on from frame
    to frame, from zero at the beginning of a signal. The noise is the same for every signal.
    """

    def __init__(self, hop_length, sample_rate):
        super().__init__()
        self.hop_length, self.sample_rate = hop_length, sample_rate

    def forward(self, log_f0):
        return self.after(log_f0)[0]

    def after(self, log_f0, cycles=0.0, n_samples=0):
        """The same of a signal that goes on after `n_samples`, its phase at `cycles` (`[B]`); and both at its end."""
        f0 = log_f0[:, 0].double().exp()
        step = f0 / self.sample_rate  # cycles a sample
        ends = torch.cumsum(step * self.hop_length, 1) + torch.as_tensor(cycles, device=f0.device).view(-1, 1)
        within = torch.arange(1 - self.hop_length, 1, device=f0.device)
        phases = ends[..., None] + step[..., None] * within
        pulses = _pulses(2 * math.pi * (phases - phases.round()), f0, self.sample_rate).float().flatten(1)
        at = (torch.arange(pulses.shape[1], device=f0.device) + n_samples) % NOISE
        noise = _noise(f0.device)[at].expand_as(pulses)
        last = ends[:, -1] - ends[:, -1].floor() if f0.shape[1] else cycles
        return torch.stack([pulses, noise], 1), last, (n_samples + pulses.shape[1]) % NOISE

    def push_form(self):
        return PushAfter(self.after, self.hop_length)


class Spectra(nn.Module):
    """Signals `[B, C, T * hop_length]` -> `[B, C * (n_fft + 2), T]`: of each the real parts of its STFT (Hann, zeros
    around), then the imaginary ones. In float32."""

    def __init__(self, hop_length, n_fft):
        super().__init__()
        self.hop_length, self.n_fft, self.margin = hop_length, n_fft, margin_of(n_fft, hop_length)

    def forward(self, x):
        return self.frames(F.pad(x, (self.margin, self.margin)))

    def frames(self, x):
        """`[B, C, (T - 1) * hop_length + n_fft]`, without padding."""
        with torch.autocast(x.device.type, enabled=False):
            if torch.onnx.is_in_onnx_export():  # whose format has no unfold and no complex numbers
                parts = [F.conv1d(part, dft(self.n_fft)[:, None], stride=self.hop_length) for part in x.split(1, 1)]
                return torch.cat(parts, 1)
            windows = x.float().unfold(-1, self.n_fft, self.hop_length) * hann(self.n_fft, x.device)
            parts = torch.view_as_real(RealFFT.apply(windows))  # [B, C, T, n_fft // 2 + 1, 2]
            return parts.permute(0, 1, 4, 3, 2).flatten(1, 3)

    def push_form(self):
        # the two signals of an excitation
        return PushFrames(self.frames, 2 * (self.n_fft + 2), self.hop_length, self.margin, self.n_fft)


class SourceFilter(nn.Module):
    """Filters `[B, 3 * N, T]` and the `Spectra` `[B, 4 * N, T]` of pulses and noise, N bins -> `[B, 2 * N, T]`.

    Filters are, of each bin, the pulses' log amplitude and phase, and the noise's log amplitude. Amplitudes end
    where InverseSTFT's do. It works on each frame by itself.
    """

    def forward(self, filters, spectra):
        pulses, phase, noise = filters.float().chunk(3, 1)
        pulses, noise = amplitude_of(pulses), amplitude_of(noise)
        real, imag, noise_real, noise_imag = spectra.chunk(4, 1)
        cos, sin = pulses * phase.cos(), pulses * phase.sin()
        return torch.cat(
            [cos * real - sin * imag + noise * noise_real, cos * imag + sin * real + noise * noise_imag], 1
        )


class NoisePhases(nn.Module):
    """`[B, n_fft + 2, T]`, log amplitude and phase of each bin -> its real parts `[B, n_fft // 2 + 1, T]`, then the
    imaginary ones, with phases of noise where voices have no others.

    Between `low` and `high` (Hz) the phases that are given fade into those of a noise that goes on from frame to frame
    and is the same for every signal; amplitudes stay, in the mean over the noise.
    """

    def __init__(self, hop_length, n_fft, sample_rate, low, high):
        super().__init__()
        if not 0 <= low < high:
            raise ValueError(f"noise that begins at {low} Hz and is alone from {high} Hz on")
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal(NOISE_FRAMES * hop_length))
        around = torch.cat([noise, noise[: n_fft - hop_length]])  # the last frame goes on into the first
        spectra = torch.fft.rfft(around.unfold(0, n_fft, hop_length) * torch.hann_window(n_fft).double())
        frequencies = torch.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
        angle = math.pi / 2 * ((frequencies - low) / (high - low)).clamp(0, 1)
        parts = torch.view_as_real(spectra / spectra.abs()).permute(2, 1, 0)  # [2, N, NOISE_FRAMES]
        self.register_buffer("noise", (parts * angle.sin()[:, None]).flatten(0, 1).float(), persistent=False)
        self.register_buffer("kept", angle.cos().repeat(2)[:, None].float(), persistent=False)

    def forward(self, x):
        return self.after(x)[0]

    def after(self, x, n_frames=0):
        """The same of a signal that goes on after `n_frames`; and how many it has then."""
        amplitude, phase = x.float().chunk(2, 1)
        amplitude = amplitude_of(amplitude)
        at = (torch.arange(x.shape[-1], device=x.device) + n_frames) % NOISE_FRAMES
        spectrum = torch.cat([phase.cos(), phase.sin()], 1) * self.kept + self.noise[:, at]
        return torch.cat([amplitude, amplitude], 1) * spectrum, (n_frames + x.shape[-1]) % NOISE_FRAMES

    def push_form(self):
        return PushAfter(self.after)


class PushAfter:
    """The push form of what tells how a signal goes on: `after(x, *memory)` -> what `x` gives, and its memory then.

    `samples`: how many it gives for one.
    """

    def __init__(self, after, samples=1):
        self.after, self.samples = after, samples
        self.reset()

    def reset(self):
        self.memory = ()

    def push(self, x, last=False):
        y, *self.memory = self.after(x, *self.memory)
        return y

    def ready(self, n):
        return n * self.samples


def _pulses(phase, f0, sample_rate):
    """`phase` `[B, T, N]` in -pi ... pi of pitches `[B, T]` in Hz: the sum of cos(k * phase) for all k * f0 below half
    the sample rate, which is a Dirichlet kernel, with unit power. In float64, for it is steep."""
    n = torch.floor(sample_rate / 2 / f0)[..., None]
    half = (phase / 2).sin()
    small = half.abs() < 1e-7
    kernel = torch.where(small, n, ((n + 0.5) * phase).sin() / (2 * torch.where(small, 1.0, half)) - 0.5)
    return kernel * (2 / n).sqrt()


@functools.lru_cache(maxsize=8)
def _noise(device):
    with torch.inference_mode(False):  # kept for training too
        # by numpy, whose numbers are the same on every CPU
        return torch.from_numpy(np.random.default_rng(0).standard_normal(NOISE, np.float32)).to(device)
