"""ViSQOL v3 in speech mode (Chinen et al., QoMEX 2020)."""

import math

import numpy as np

from pscodec.metrics.base import MetricError, pair


class Visqol:
    """MOS-LQO by `visqol-python`, a port of Google's ViSQOL 3.3.3: 16 kHz, speech mode, lattice mapping.

    The lattice (Google's default; needs the extra `visqol-python[lattice]`) is asked for by name: without it the
    package would fall back to a polynomial that reads a point or two higher. A reference against itself gives
    about 4.4, not 5. Build one object a process, it holds the lattice; ImportError where the package is missing.
    """

    def __init__(self):
        from visqol import VisqolApi

        self.api = VisqolApi()
        self.api.create(mode="speech", use_lattice_model=True)
        manager = getattr(self.api, "_manager", None)
        if hasattr(getattr(manager, "spect_builder", None), "_build_scipy"):  # another version just takes its time
            manager.spect_builder._build_scipy = gammatone

    def __call__(self, ref, hyp, sample_rate):
        """Score of `hyp` `[L]` against `ref` `[L]`, 1 to 5, higher is better.

        Raises MetricError below 0.5 s (one patch is 0.4 s), for silence, and where ViSQOL finds no active patch.
        """
        ref, hyp = pair(ref, hyp, sample_rate, 16000, min_seconds=0.5)
        try:
            score = float(self.api.measure_from_arrays(ref, hyp, 16000).moslqo)
        except (ValueError, IndexError, ZeroDivisionError):
            raise MetricError("ViSQOL found no patch to compare") from None
        if not math.isfinite(score):
            raise MetricError("ViSQOL returned no number")
        return score


def gammatone(wav, window, coefficients, hop_size, num_cols, num_bands):
    """Gammatone spectrogram `[num_bands, num_cols]` of `wav` `[L]`, as the package's, frames all at once.

    The package filters frame by frame, with 84 calls for each, which is most of ViSQOL's time without numba.
    `coefficients` `[10, num_bands]` are its own: numerators of four stages in cascade, their common denominator, gain.
    """
    from scipy.signal import sosfilt

    frames = np.lib.stride_tricks.sliding_window_view(wav, window.size)[::hop_size][:num_cols] * window.hann_window
    rows = np.empty((num_bands, num_cols))
    for band in range(num_bands):
        a0, a11, a12, a13, a14, a2, b0, b1, b2, gain = coefficients[:, band]
        stages = [[a0, first, a2, b0, b1, b2] for first in (a11, a12, a13, a14)]
        stages[0][:3] = a0 / gain, a11 / gain, a2 / gain
        rows[band] = np.sqrt((sosfilt(stages, frames) ** 2).mean(1))
    return rows
