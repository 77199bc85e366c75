"""STOI, short-time objective intelligibility (Taal et al., ICASSP 2010)."""

import warnings

from pscodec.metrics.base import MetricError, pair


def stoi(ref, hyp, sample_rate):
    """Intelligibility of `hyp` `[L]` against `ref` `[L]`, up to 1, higher is better.

    By the PyPI package `pystoi`, not the extended variant. The signals go in at the codec's rate, 24 kHz, as in the
    paper, and pystoi itself resamples them to the 10 kHz of the definition: content above 5 kHz does not count.
    Raises MetricError when fewer than 30 frames (0.4 s) of speech are left after the reference's pauses.
    """
    from pystoi import stoi as taal

    ref, hyp = pair(ref, hyp, sample_rate, min_seconds=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns a made-up 1e-5
        try:
            return float(taal(ref, hyp, sample_rate, extended=False))
        except RuntimeWarning:
            raise MetricError("fewer than 30 frames of speech") from None
