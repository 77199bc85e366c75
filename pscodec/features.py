"""Every spectrogram of the project: STFT, log-Mel and Kaldi FBank."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import nn
from torch.autograd.function import once_differentiable


def stft(wav, n_fft, hop_length, normalized=False):
    """Complex STFT with a Hann window, centred with reflection.

    Arguments: `wav` `[..., L]` (any rank), sizes in samples. Returns complex `[..., n_fft // 2 + 1, F]`,
    F = 1 + L // hop_length. With `normalized` the frames are divided by sqrt(n_fft).
    """
    spectra = RealFFT.apply(_windows(wav, n_fft, hop_length)).transpose(-1, -2)
    return spectra / n_fft**0.5 if normalized else spectra


def magnitude(wav, n_fft, hop_length):
    """Magnitudes of `stft`: `[..., L]` -> `[..., F, n_fft // 2 + 1]`."""
    found = magnitudes(_reflected(wav, n_fft), n_fft, hop_length)
    return found.reshape(*wav.shape[:-1], *found.shape[-2:])


def _windows(wav, n_fft, hop_length):
    """`[..., L]` -> `[..., F, n_fft]`, the stretches that an STFT transforms."""
    windows = _reflected(wav, n_fft).unfold(-1, n_fft, hop_length) * hann(n_fft, wav.device)
    return windows.reshape(*wav.shape[:-1], *windows.shape[-2:])


def _reflected(wav, n_fft):
    """`[..., L]` -> float32 `[N, L + n_fft]`, half a window of its own mirror image at both ends."""
    return F.pad(wav.float().reshape(1, -1, wav.shape[-1]), (n_fft // 2, n_fft // 2), mode="reflect")[0]


class RealFFT(torch.autograd.Function):
    """`torch.fft.rfft` over the last axis whose gradient is a real transform as well, where torch's own is complex.

    With it the losses' backward pass takes about half as long. It cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.length = x.shape[-1]
        return torch.fft.rfft(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _adjoint(grad / 2, ctx.length)


class Magnitude(torch.autograd.Function):
    """`torch.fft.rfft(x).abs()`, with `RealFFT`'s gradient; a quarter faster than the two one after the other."""

    @staticmethod
    def forward(ctx, x):
        spectrum = torch.fft.rfft(x)
        magnitude = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).sqrt_()
        ctx.save_for_backward(spectrum, magnitude)
        ctx.length = x.shape[-1]
        return magnitude

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        spectrum, magnitude = ctx.saved_tensors
        return _adjoint(spectrum * (grad / (2 * magnitude).clamp(min=1e-20)), ctx.length)


def magnitudes(wav, n_fft, hop_length):
    """Of an STFT with a Hann window, without padding: `wav` `[B, L]` -> `[B, F, n_fft // 2 + 1]`."""
    if torch.onnx.is_in_onnx_export():  # whose format has no unfold and no complex numbers
        return power(wav, dft(n_fft), hop_length).sqrt()
    return Magnitude.apply(wav.unfold(-1, n_fft, hop_length) * hann(n_fft, wav.device))


def power(wav, basis, hop_length):
    """Squared magnitudes `[B, F, N]` of `wav` `[B, L]` by a real matrix `basis` `[2 * N, n_fft]` as `dft` gives it."""
    parts = F.conv1d(wav[:, None], basis[:, None], stride=hop_length).chunk(2, 1)
    return sum(part.square() for part in parts).transpose(1, 2)


def dft(n_fft, inverse=False):
    """The Hann-windowed transform as a matrix `[n_fft + 2, n_fft]`: real parts, then imaginary ones.

    By numpy, so that it is a constant to whoever records what torch does.
    """
    basis = np.fft.rfft(np.eye(n_fft)).T  # [n_fft // 2 + 1, n_fft]
    if inverse:
        basis *= 2 / n_fft
        basis[[0, -1]] /= 2
    basis = np.concatenate([basis.real, basis.imag]) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))
    return torch.from_numpy(basis.astype(np.float32))


def _adjoint(half, length):
    """`rfft`'s adjoint of twice `half`, which is changed: irfft counts every bin twice but the first and, for even
    lengths, the last."""
    half[..., 0] *= 2
    if length % 2 == 0:
        half[..., -1] *= 2
    return torch.fft.irfft(half, length, norm="forward")


def decibels(wav, n_fft=1024, hop_length=240):
    """Level in dB of `wav` `[L]`, for figures: a numpy array `[n_fft // 2 + 1, F]`, not below -100."""
    return (20 * stft(wav, n_fft, hop_length).abs().clamp(min=1e-5).log10()).numpy()


@functools.lru_cache(maxsize=64)
def hann(n_fft, device):
    """The Hann window `[n_fft]`, made once."""
    with torch.inference_mode(False):  # kept for training too, which cannot go through a tensor made for inference
        return torch.hann_window(n_fft, device=device)


class LogMel(nn.Module):
    """Log-Mel spectrogram: magnitude STFT, HTK triangles, natural log.

    Input `[..., L]` at `sample_rate`, output `[..., n_mels, F]` in float32; values below `floor` are clamped to it
    before the logarithm, so that silence is log(floor) and never -inf.
    """

    def __init__(self, sample_rate=24000, n_fft=1024, hop_length=240, n_mels=80, f_min=0.0, f_max=None, floor=1e-5):
        super().__init__()
        self.n_fft, self.hop_length, self.floor = n_fft, hop_length, floor
        bank = mel_filters(n_fft // 2 + 1, f_min, f_max or sample_rate / 2, n_mels, sample_rate)
        self.register_buffer("filters", bank, persistent=False)

    def forward(self, wav):
        return self.mel(wav).clamp(min=self.floor).log()

    def mel(self, wav):
        """The Mel spectrogram of magnitudes, `[..., n_mels, F]`, before floor and logarithm."""
        with torch.autocast(wav.device.type, enabled=False):
            return (magnitude(wav, self.n_fft, self.hop_length) @ self.filters).transpose(-1, -2)


def mel_filters(n_freqs, f_min, f_max, n_mels, sample_rate):
    """Triangular HTK Mel filters `[n_freqs, n_mels]`. Short FFTs leave some low filters empty; that is harmless."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mel filterbank has all zero values.*")
        return torchaudio.functional.melscale_fbanks(n_freqs, f_min, f_max, n_mels, sample_rate)


class FBank:
    """Kaldi filter banks for CAM++: 80 bins, 25 ms frames every 10 ms, no dither, waveform in [-1, 1].

    Input `[1, L]` at 16 kHz, at least 25 ms; output `[80, F]` (log energies, mean not subtracted: CAM++ does it for
    the stretch it sees). Source: 3D-Speaker's front end for its CAM++ checkpoints.
    """

    sample_rate = 16000
    n_mels = 80

    def __call__(self, wav):
        if wav.shape[-1] < 400:
            raise ValueError(f"FBank needs at least 400 samples (25 ms at 16 kHz), got {wav.shape[-1]}")
        if torch.onnx.is_in_onnx_export():
            return self._by_matrices(wav)
        return torchaudio.compliance.kaldi.fbank(
            wav.float(), num_mel_bins=self.n_mels, sample_frequency=self.sample_rate, dither=0.0
        ).T.contiguous()

    def _by_matrices(self, wav, size=400, hop_length=160, n_fft=512):
        """The same in operations that ONNX has: all that Kaldi does to a frame before its powers is linear."""
        frames = np.eye(size) - 1 / size  # less the mean
        frames = frames - 0.97 * np.concatenate([frames[:1], frames[:-1]])  # pre-emphasis, by the sample before
        frames *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1)))[:, None] ** 0.85  # Povey's window
        basis = np.fft.rfft(frames, n_fft, axis=0)[:-1]  # the filters end below the last bin
        basis = torch.from_numpy(np.concatenate([basis.real, basis.imag]).astype(np.float32))
        banks, _ = torchaudio.compliance.kaldi.get_mel_banks(
            self.n_mels, n_fft, self.sample_rate, 20.0, 0.0, 100.0, -500.0, 1.0
        )
        energies = power(wav.float(), basis, hop_length) @ banks.T
        return energies.clamp(min=torch.finfo(torch.float32).eps).log()[0].T
