"""Two distances that are both called MCD: the mel-cepstral one, and the linear-Mel one that codec papers print."""

import functools
import math

import numpy as np
import torch

from pscodec.metrics.base import MetricError, pair
from pscodec.metrics.mel import slaney_mel

DB = 10.0 / math.log(10.0) * math.sqrt(2.0)  # 10 / ln 10 * sqrt(2) = 6.142
ALPHAS = {8000: 0.312, 16000: 0.42, 22050: 0.455, 24000: 0.466, 44100: 0.544, 48000: 0.554}  # warping close to Mel
ORDER = 24
FLOOR = 1e-10  # of the power spectrum, relative to a full-scale constant: -100 dB


def mcd(ref, hyp, sample_rate):
    """Mel-cepstral distortion in dB (Kubichek, 1993), at the rate the signals come in, lower is better.

    Mean over all frames of 10 / ln 10 * sqrt(2 * sum_{d=1..24} (c_d - c'_d)^2): order 24, c_0 (the level) left out,
    no alignment, because a codec keeps time. The mel-cepstrum comes from the plain STFT (Hann, 1024 samples at
    24 kHz, 42.7 ms, every 5 ms, power floored at -100 dB of full scale): log power -> cepstrum -> frequency warping
    with alpha 0.466 at 24 kHz (0.42 at 16 kHz), cut at the order, as SPTK's `mcep` does before it iterates (the tests
    compare it with diffsptk). There is no envelope estimation (WORLD, or those iterations), so figures compare only
    among themselves.
    Raises MetricError for silence, for less than one window, and for a sample rate without a known alpha.
    """
    ref, hyp = pair(ref, hyp, sample_rate, min_seconds=0.05)
    return cepstral_distance(mel_cepstrum(ref, sample_rate), mel_cepstrum(hyp, sample_rate))


def cepstral_distance(first, second):
    """Mean over frames of the MCD in dB between mel-cepstra `[F, order + 1]`; column 0 is left out."""
    return float(DB * np.sqrt(((first - second)[:, 1:] ** 2).sum(1)).mean())


def mel_cepstrum(wav, sample_rate, order=ORDER):
    """Mel-cepstra `[F, order + 1]` of `wav` `[L]` (float64), as natural-log amplitudes; see `mcd`."""
    if sample_rate not in ALPHAS:
        raise MetricError(f"no warping is known for {sample_rate} Hz")
    n_fft = 2 ** round(math.log2(sample_rate * 0.0427))
    if len(wav) <= n_fft // 2:
        raise MetricError("shorter than a window")
    window = torch.hann_window(n_fft, dtype=torch.float64)
    spectrum = torch.stft(torch.from_numpy(wav), n_fft, sample_rate // 200, window=window, return_complex=True)
    power = (spectrum.abs() / window.sum()).square().clamp(min=FLOOR).numpy().T  # [F, n_fft / 2 + 1]
    cepstrum = np.fft.irfft(np.log(power), axis=1)[:, : n_fft // 2 + 1]
    cepstrum[:, [0, -1]] /= 2  # one-sided: log power = 2 log amplitude, and the inner terms stand for two
    return cepstrum @ freqt(n_fft // 2 + 1, order, ALPHAS[sample_rate])


@functools.lru_cache(maxsize=8)
def freqt(n_in, order, alpha):
    """Matrix `[n_in, order + 1]` that warps a one-sided cepstrum by an all-pass of `alpha`.

    With w = (z^-1 - alpha) / (1 - alpha z^-1), z^-n is ((w + alpha) / (1 + alpha w))^n: row n holds its first
    coefficients as a power series in w, exact up to `order` (Oppenheim & Johnson, 1972).
    """
    step = np.zeros(order + 1)  # (w + alpha) / (1 + alpha w)
    step[0] = alpha
    step[1:] = (1 - alpha**2) * (-alpha) ** np.arange(order)
    rows = np.zeros((n_in, order + 1))
    rows[0, 0] = 1.0
    for n in range(1, n_in):
        rows[n] = np.convolve(rows[n - 1], step)[: order + 1]
    return rows


def mcd_linear(ref, hyp, sample_rate):
    """The "MCD" of codec papers: 10 / ln 10 * sqrt(2) * ||mel - mel'||_2, mean over frames, lower is better.

    There is no cepstrum and no logarithm in it. The Mel is a magnitude one (power 1) of 128 bands with Slaney's
    scale and area normalisation from 0 Hz to Nyquist, STFT of 1024 points with a Hann window of 512 and hop 128,
    centred with zeros, at the codec's rate: the parameters of TiCodec's evaluation, whose figures are in the range
    of the PSCodec paper's. It grows with the level of the signals, so it compares only on the same files.
    Raises MetricError for silence.
    """
    ref, hyp = pair(ref, hyp, sample_rate)
    difference = _linear_mel(ref, sample_rate) - _linear_mel(hyp, sample_rate)
    return float(DB * np.sqrt((difference**2).sum(0)).mean())


def _linear_mel(wav, sample_rate):
    return slaney_mel(wav, 1024, 128, 512, 128, sample_rate, power=1)
