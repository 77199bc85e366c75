"""What all metrics share: the error, and the checks on a pair of signals."""

import numpy as np
import torch
import torchaudio

SILENCE = 2.0**-15  # a signal whose peak is at most one step of 16-bit audio is silent
SILENT_REFERENCE = 1e-3  # a reference must hold more than -60 dBFS: below, a recording is its room, not speech


class MetricError(Exception):
    """The metric is undefined for this input (silence, too short ...). Its text says why, in a few words."""


class SilentError(MetricError):
    """There is nothing in the signal."""


def resample(wav, sample_rate, target_rate):
    """`wav` `[L]` (array) from `sample_rate` to `target_rate` Hz with torchaudio's default windowed sinc, float64 out.

    The resampler is part of a metric's definition: another one moves PESQ in the second decimal.
    """
    if sample_rate == target_rate:
        return wav
    return torchaudio.functional.resample(torch.from_numpy(wav), sample_rate, target_rate).numpy()


def signal(wav, name="the decoded signal", silence=SILENCE):
    """`wav` (tensor or array, `[L]` or `[1, L]`) as a float64 array `[L]`.

    Raises MetricError for an empty, non-finite or silent one (its peak at most `silence`), calling it `name`.
    """
    wav = wav.detach().cpu().numpy() if isinstance(wav, torch.Tensor) else np.asarray(wav)
    wav = np.ascontiguousarray(wav.reshape(-1) if wav.ndim == 2 and wav.shape[0] == 1 else wav, dtype=np.float64)
    if wav.ndim != 1:
        raise ValueError(f"a metric takes mono signals, got shape {wav.shape}")
    if wav.size == 0:
        raise MetricError(f"{name} is empty")
    if not np.isfinite(wav).all():
        raise MetricError(f"{name} holds NaN or infinity")
    if np.abs(wav).max() <= silence:
        raise SilentError(f"{name} is silent")
    return wav


def reference(wav):
    """`signal` for a reference: one that never passes -60 dBFS counts as silent."""
    return signal(wav, "the reference", SILENT_REFERENCE)


def pair(ref, hyp, sample_rate, target_rate=None, min_seconds=0.0):
    """The two signals, checked to be of one length and at least `min_seconds`, resampled to `target_rate`.

    Returns float64 arrays `[L']`. Raises MetricError as `signal` does, and ValueError when the lengths differ:
    a codec returns what it was given, so a difference is a mistake that no trimming should hide.
    """
    ref, hyp = reference(ref), signal(hyp)
    if len(ref) != len(hyp):
        raise ValueError(f"the reference has {len(ref)} samples, the decoded signal {len(hyp)}")
    if len(ref) < min_seconds * sample_rate:
        raise MetricError(f"shorter than {min_seconds:g} s")
    target_rate = target_rate or sample_rate
    return resample(ref, sample_rate, target_rate), resample(hyp, sample_rate, target_rate)


def voices(ref, hyp, sample_rate, target_rate, min_seconds=0.5):
    """Two signals whose speakers are compared, each checked by itself, at `target_rate`: float64 arrays. Their lengths
    may differ. Raises MetricError as `signal` does, and below `min_seconds`."""
    both = reference(ref), signal(hyp)
    if min(map(len, both)) < min_seconds * sample_rate:
        raise MetricError(f"shorter than {min_seconds:g} s")
    return [resample(wav, sample_rate, target_rate) for wav in both]
