"""Every spectrogram of the project: STFT, log-Mel and Kaldi FBank."""

import functools

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
    flat = F.pad(wav.float().reshape(1, -1, wav.shape[-1]), (n_fft // 2, n_fft // 2), mode="reflect")[0]
    frames = RealFFT.apply(flat.unfold(-1, n_fft, hop_length) * _hann(n_fft, wav.device)).transpose(-1, -2)
    if normalized:
        frames = frames / n_fft**0.5
    return frames.reshape(*wav.shape[:-1], *frames.shape[-2:])


class RealFFT(torch.autograd.Function):
    """`torch.fft.rfft` over the last axis whose gradient is a real transform as well, where torch's own is complex.

    With it the Mel losses' backward pass takes about half as long. It cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.length = x.shape[-1]
        return torch.fft.rfft(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # irfft counts every bin twice but the first and, for even lengths, the last; rfft's adjoint none
        half = grad / 2
        half[..., 0] = grad[..., 0]
        if ctx.length % 2 == 0:
            half[..., -1] = grad[..., -1]
        return torch.fft.irfft(half, ctx.length, norm="forward")


def decibels(wav, n_fft=1024, hop_length=240):
    """Level in dB of `wav` `[L]`, for figures: a numpy array `[n_fft // 2 + 1, F]`, not below -100."""
    return (20 * stft(wav, n_fft, hop_length).abs().clamp(min=1e-5).log10()).numpy()


@functools.lru_cache(maxsize=64)
def _hann(n_fft, device):
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
        with torch.autocast(wav.device.type, enabled=False):
            magnitude = stft(wav, self.n_fft, self.hop_length).abs()
            mel = torch.einsum("...ft,fm->...mt", magnitude, self.filters)
            return mel.clamp(min=self.floor).log()


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
        return torchaudio.compliance.kaldi.fbank(
            wav.float(), num_mel_bins=self.n_mels, sample_frequency=self.sample_rate, dither=0.0
        ).T.contiguous()
