"""Active speech level: how loud speech is while somebody speaks (ITU-T P.56, method B)."""

import math

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import cheby2, lfilter, sosfilt

TIME_CONSTANT = 0.03  # seconds, of each of the two averagers of the envelope
HANGOVER = 0.2  # seconds that count as active after the envelope has fallen below the threshold
MARGIN = 15.9  # dB from the threshold up to the active level
THRESHOLDS = 20  # 3 dB apart, from the envelope's peak down
PASSBAND = (200.0, 5500.0)  # Hz, -0.25 dB; the upper edge only where the sampling rate leaves room for it
TAIL = 0.35  # seconds of silence appended, for the hangover of a recording that is cut close


def active_level(wav, sample_rate):
    """Active level of `wav` `[L]` (array or tensor), a power (mean square), and the share of time that is active.

    As the published WSJ0-2mix was levelled (activlev of the VOICEBOX toolbox): P.56's input filter, an envelope of two
    averagers, a hangover, and the threshold 15.9 dB below the active level that it defines itself. Silence: (0, 0).
    """
    filtered = _bandpass(np.asarray(wav, dtype=np.float64).ravel(), sample_rate)
    energy = np.sum(filtered**2)
    g = math.exp(-1.0 / (TIME_CONSTANT * sample_rate))
    envelope = lfilter([(1 - g) ** 2], [1, -2 * g, g * g], np.abs(filtered))
    if not energy > 0.0 or not np.any(envelope**2 > 0.0):
        return 0.0, 0.0
    _, exponent = np.frexp(envelope**2)  # 2^(exponent - 1) <= envelope^2 < 2^exponent
    exponent[envelope**2 == 0.0] = np.iinfo(np.int32).min
    window = math.ceil(HANGOVER * sample_rate) + 1
    held = maximum_filter1d(exponent, window, mode="nearest", origin=(window - 1) // 2)
    steps = np.arange(1, THRESHOLDS + 1)
    active = np.array([np.count_nonzero(held > held.max() - step) for step in steps])  # samples above each threshold
    level = 10 * np.log10(energy / active)
    excess = level - 10 * math.log10(2) * (held.max() - steps) - MARGIN
    crossings = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if len(crossings):
        j = crossings[0]
        level = level[j] + (level[j + 1] - level[j]) / (1 - excess[j + 1] / excess[j])
    else:
        level = level[-1] if excess[-1] <= 0 else level[0]
    power = 10 ** (level / 10)
    return float(power), float(energy / (len(filtered) * power))


def _bandpass(wav, sample_rate):
    """P.56's input filter, then TAIL of its decay: Chebyshev II of order 5, 50 dB down in the stop band."""
    low, high = PASSBAND
    # Chebyshev's polynomial tells how far the stop band's edge lies from the passband's: a factor of 2.51
    depth = math.sqrt((10**5.0 - 1) / (10**0.025 - 1))
    ratio = math.cosh(math.acosh(depth) / 5)
    wav = np.concatenate([wav, np.zeros(math.ceil(TAIL * sample_rate))])
    wav = sosfilt(cheby2(5, 50, _warp(low, 1 / ratio, sample_rate), "high", output="sos", fs=sample_rate), wav)
    if sample_rate >= 2.2 * high:
        wav = sosfilt(cheby2(5, 50, _warp(high, ratio, sample_rate), "low", output="sos", fs=sample_rate), wav)
    return wav


def _warp(frequency, factor, sample_rate):
    """The frequency that the bilinear transform puts at `factor` times the analog place of `frequency`."""
    return math.atan(factor * math.tan(math.pi * frequency / sample_rate)) * sample_rate / math.pi
