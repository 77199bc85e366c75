"""What listeners hear: excerpts of recordings, the same place of each system's, and low-passed anchors."""

import numpy as np
import torch
from scipy.signal import firwin, kaiserord

from pscodec.data.audio import load_audio
from pscodec.utils.errors import UserError

FADE = 0.01  # seconds in and out of an excerpt
SLACK = 0.1  # seconds by which two systems' recordings of an utterance may differ in length
TRANSITION, ATTENUATION = 500.0, 60.0  # of an anchor's filter: Hz from its cutoff on, dB beyond


def excerpts(utterances, seconds, sample_rate, rng, whole=False):
    """One stretch of each of `utterances`, recordings of the same: float32 `[L]` at `sample_rate` Hz (None: that of the
    first), and the rate. Its place is drawn by `rng`; `seconds` None, or more than there is, means all.

    Raises UserError for lengths that differ, and what `load_audio` raises. `whole`: each is heard from end to end,
    however long: speech from text is as long as it comes out.
    """
    wavs = []
    for u in utterances:
        wav, sample_rate = load_audio(u.path, sample_rate, u.start, u.end)
        wavs.append(wav[0])
    if whole:
        return [faded(wav, sample_rate) for wav in wavs], sample_rate
    lengths = [len(wav) for wav in wavs]
    if max(lengths) - min(lengths) > SLACK * sample_rate:
        longest, shortest = (utterances[lengths.index(most(lengths))] for most in (max, min))
        difference = (max(lengths) - min(lengths)) / sample_rate
        raise UserError(f"{shortest.path}: {difference:.2f} s shorter than {longest.path}")
    length = min(lengths) if seconds is None else min(min(lengths), round(seconds * sample_rate))
    start = int(rng.integers(min(lengths) - length + 1))
    return [faded(wav[start : start + length], sample_rate) for wav in wavs], sample_rate


def faded(wav, sample_rate):
    """`wav` `[L]`, rising from and falling to silence, so that its ends do not click."""
    n = min(round(FADE * sample_rate), len(wav) // 2)
    slope = torch.linspace(0, 1, n + 2)[1:-1]
    return torch.cat([wav[:n] * slope, wav[n : len(wav) - n], wav[len(wav) - n :] * slope.flip(0)])


def anchor(wav, sample_rate, cutoff):
    """`wav` `[L]` without what lies above `cutoff` Hz: a linear-phase filter, its delay taken out.

    At 3.5 kHz it keeps to BS.1534-3, section 5.1: within 0.1 dB up to 3.5 kHz, 25 dB down at 4 kHz, 50 at 4.5 kHz.
    Raises UserError for a cutoff that the signal's own band does not reach.
    """
    if not 0 < cutoff < sample_rate / 2 - TRANSITION:
        raise UserError(f"an anchor of {cutoff:g} Hz needs more than {sample_rate} samples a second")
    n_taps, beta = kaiserord(ATTENUATION, TRANSITION / (sample_rate / 2))
    taps = firwin(n_taps | 1, cutoff + TRANSITION / 2, window=("kaiser", beta), fs=sample_rate)
    low = np.convolve(wav.numpy().astype(np.float64), taps, "full")[len(taps) // 2 :][: len(wav)]
    return torch.from_numpy(low.astype(np.float32))
