"""PESQ, wideband (ITU-T P.862.2)."""

from pscodec.metrics.base import MetricError, pair


def pesq(ref, hyp, sample_rate):
    """MOS-LQO of `hyp` `[L]` against `ref` `[L]`, about 1.0 to 4.64, higher is better.

    Computed at 16 kHz in wideband mode by the PyPI package `pesq` (the ITU's C code); it levels and aligns the two
    by itself. Raises MetricError below 0.25 s, for silence, and where PESQ finds no utterance.
    """
    import pesq as itu

    ref, hyp = pair(ref, hyp, sample_rate, 16000, min_seconds=0.25)
    try:
        score = float(itu.pesq(16000, ref, hyp, "wb"))
    except itu.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise MetricError(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    if score != score:
        raise MetricError("PESQ returned no number")
    return score
