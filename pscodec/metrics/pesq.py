"""PESQ, wideband (ITU-T P.862.2) or narrowband (P.862 with the mapping of P.862.1)."""

from pscodec.metrics.base import MetricError, pair


def pesq(ref, hyp, sample_rate, mode="wb"):
    """MOS-LQO of `hyp` `[L]` against `ref` `[L]`, about 1.0 to 4.64, higher is better.

    Computed by the PyPI package `pesq` (the ITU's C code), in `mode` wb at 16 kHz or nb at 8 kHz; it levels and aligns
    the two by itself. Raises MetricError below 0.25 s, for silence, and where PESQ finds no utterance.
    """
    import pesq as itu

    rate = 16000 if mode == "wb" else 8000
    ref, hyp = pair(ref, hyp, sample_rate, rate, min_seconds=0.25)
    try:
        score = float(itu.pesq(rate, ref, hyp, mode))
    except itu.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise MetricError(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    if score != score:
        raise MetricError("PESQ returned no number")
    return score
