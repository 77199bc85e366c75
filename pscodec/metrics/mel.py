"""Mel spectrograms in librosa's convention, which DNSMOS and the codec papers' MCD were made with."""

import functools

import numpy as np
import torch


def slaney_mel(wav, n_fft, hop_length, win_length, n_mels, sample_rate, power):
    """Mel spectrogram `[n_mels, F]` of `wav` `[L]` (float64): |STFT|^power, Hann, centred with zeros, Slaney bank."""
    window = torch.hann_window(win_length, dtype=torch.float64)
    frames = torch.stft(
        torch.from_numpy(wav), n_fft, hop_length, win_length, window, pad_mode="constant", return_complex=True
    )
    return slaney_bank(n_fft, n_mels, sample_rate) @ frames.abs().pow(power).numpy()


@functools.lru_cache(maxsize=8)
def slaney_bank(n_fft, n_mels, sample_rate):
    """Triangles `[n_mels, n_fft // 2 + 1]` from 0 Hz to Nyquist on Slaney's Mel scale, each of area 1.

    The scale: 3 Mel for 200 Hz up to 1 kHz, then 27 Mel for each factor of 6.4. Unlike torchaudio's, right for odd
    `n_fft`, whose last bin lies below Nyquist.
    """
    nyquist = sample_rate / 2
    top = 3 * nyquist / 200 if nyquist < 1000 else 15 + 27 * np.log(nyquist / 1000) / np.log(6.4)
    mels = np.linspace(0, top, n_mels + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    low, centre, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
