"""ViSQOL v3 in speech mode (Chinen et al., QoMEX 2020)."""

import math

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
