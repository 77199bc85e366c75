"""All metrics behind one call, so that heavy ones are loaded once a process."""

import time

from pscodec.metrics.base import MetricError, reference
from pscodec.metrics.mcd import mcd, mcd_linear
from pscodec.metrics.pesq import pesq
from pscodec.metrics.secs import secs
from pscodec.metrics.si_snr import si_snr
from pscodec.metrics.stoi import stoi
from pscodec.utils.errors import UserError

METRICS = ("pesq", "stoi", "visqol", "dnsmos", "utmos", "si_snr", "mcd", "mcd_linear", "secs")
WITHOUT_REFERENCE = ("dnsmos", "utmos")
DNSMOS_PARTS = ("ovrl", "sig", "bak", "p808")


def columns(names):
    """Columns of a score table for metric `names`: one each, four for DNSMOS."""
    return [c for n in names for c in ([f"dnsmos_{p}" for p in DNSMOS_PARTS] if n == "dnsmos" else [n])]


class Scorer:
    """The metrics in `names`. `embed` (FBank `[B, 80, F]` -> `[B, D]`) is for SECS, `utmos` a path for UTMOS.

    Raises UserError for a metric whose package or model is missing.
    """

    def __init__(self, names, embed=None, utmos=None):
        plain = {"pesq": pesq, "stoi": stoi, "si_snr": si_snr, "mcd": mcd, "mcd_linear": mcd_linear}
        self.functions = {name: plain[name] for name in names if name in plain}
        try:
            if "visqol" in names:
                from pscodec.metrics.visqol import Visqol

                self.functions["visqol"] = Visqol()
            if "dnsmos" in names:
                from pscodec.metrics.dnsmos import Dnsmos

                dnsmos = Dnsmos()
                self.functions["dnsmos"] = lambda ref, hyp, rate: dnsmos(hyp, rate)
        except (ImportError, OSError) as error:
            raise UserError(f"a metric cannot be loaded: {error}; leave it out with --metrics") from None
        if "utmos" in names:
            from pscodec.metrics.utmos import Utmos

            model = Utmos(utmos)
            self.functions["utmos"] = lambda ref, hyp, rate: model(hyp, rate)
        if "secs" in names:
            self.functions["secs"] = lambda ref, hyp, rate: secs(ref, hyp, rate, embed)

    def __call__(self, ref, hyp, sample_rate, names=None):
        """Score `hyp` `[L]` against `ref` `[L]`.

        Returns `(scores, failures, seconds)`: `{column: float}`, `{metric: reason}` for those that are undefined
        here, `{metric: CPU seconds it took}`.
        """
        scores, failures, seconds = {}, {}, {}
        for name in self.functions if names is None else names:
            begin = time.process_time()
            try:
                if name in WITHOUT_REFERENCE:
                    reference(ref)  # of a silent recording no metric speaks
                value = self.functions[name](ref, hyp, sample_rate)
                if name == "dnsmos":
                    scores.update({f"dnsmos_{part}": value[part] for part in DNSMOS_PARTS})
                else:
                    scores[name] = value
            except MetricError as error:
                failures[name] = str(error)
            seconds[name] = time.process_time() - begin
        return scores, failures, seconds
