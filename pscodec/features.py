"""Every spectrogram of the project: STFT, log-Mel and Kaldi FBank."""

import functools

import torch
import torchaudio
from torch import nn


def stft(wav, n_fft, hop_length, win_length=None, normalized=False):
    """Complex STFT with a Hann window, centred with reflection.

    Arguments: `wav` `[..., L]` (any rank), sizes in samples. Returns complex `[..., n_fft // 2 + 1, F]`,
    F = 1 + L // hop_length. With `normalized` the frames are divided by sqrt(win_length).
    """
    win_length = win_length or n_fft
    window = _hann(win_length, wav.device)
    flat = torch.stft(
        wav.float().reshape(-1, wav.shape[-1]),
        n_fft,
        hop_length,
        win_length,
        window,
        return_complex=True,
        normalized=False,
    )
    if normalized:
        flat = flat / win_length**0.5
    return flat.reshape(*wav.shape[:-1], *flat.shape[-2:])


def decibels(wav, n_fft=1024, hop_length=240):
    """Level in dB of `wav` `[L]`, for figures: a numpy array `[n_fft // 2 + 1, F]`, not below -100."""
    return (20 * stft(wav, n_fft, hop_length).abs().clamp(min=1e-5).log10()).numpy()


@functools.lru_cache(maxsize=64)
def _hann(win_length, device):
    with torch.inference_mode(False):  # kept for training too, which cannot go through a tensor made for inference
        return torch.hann_window(win_length, device=device)


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
