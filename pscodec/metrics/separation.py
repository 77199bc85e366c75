"""A mixture's scores: each metric averaged over its sources, all under one order of the estimates."""

from collections import defaultdict

import numpy as np

from pscodec.metrics.base import MetricError
from pscodec.metrics.pesq import pesq
from pscodec.metrics.sdr import best_order, sdr, si_sdr
from pscodec.metrics.stoi import stoi
from pscodec.utils.errors import UserError

METRICS = ("si_sdr", "sdr", "pesq", "stoi", "dnsmos")
IMPROVED = ("si_sdr", "sdr", "pesq", "stoi")  # also told as the improvement over the mixture, with an i at the end
ORDERS = {"si_sdr": si_sdr, "stoi": stoi}
DNSMOS_PARTS = ("ovrl", "sig", "bak", "p808")


def columns(names):
    """Columns of a score table for metric `names`."""
    table = {name: [name, f"{name}i"] if name in IMPROVED else [name] for name in METRICS}
    table["dnsmos"] = [f"dnsmos_{part}" for part in DNSMOS_PARTS]
    return [column for name in METRICS if name in names for column in table[name]]


def pesq_mode(sample_rate):
    """Narrowband below 16 kHz: a wideband score of what holds nothing above 4 kHz would judge the resampler."""
    return "wb" if sample_rate >= 16000 else "nb"


class SeparationScorer:
    """The metrics in `names`; `order`: what tells which estimate is whose, `si_sdr` or `stoi`, which does not look at
    phases. Raises UserError for a metric whose package is missing."""

    def __init__(self, names, order="si_sdr"):
        self.names, self.dnsmos, self.order = names, None, ORDERS[order]
        if "dnsmos" in names:
            from pscodec.metrics.dnsmos import Dnsmos

            try:
                self.dnsmos = Dnsmos()
            except (ImportError, OSError) as error:
                raise UserError(f"a metric cannot be loaded: {error}; leave it out with --metrics") from None

    def __call__(self, mix, refs, hyps, sample_rate, ordered=False, names=None, floors=None):
        """Score `hyps` `[S, L]` (None: the mixture itself, for every source) against `refs` `[S, L]`, whose mixture is
        `mix` `[L]` (arrays).

        The order is the one with the largest sum of SI-SDR, or STOI, unless they are `ordered` already; `names`: some
        of the metrics alone; `floors`: a dict that keeps the mixture's own scores from call to call with one mixture.
        Returns `(scores, failures)`: `{column: mean over the sources where it is defined}` and `{column: reason}` of
        those that are defined for no source.
        """
        names = self.names if names is None else names
        values, failures, floors = defaultdict(list), {}, {} if floors is None else floors
        if hyps is not None and not ordered:
            hyps = hyps[best_order(refs, hyps, self.order, sample_rate)]
        plain = {
            "si_sdr": si_sdr,
            "sdr": sdr,
            "pesq": lambda ref, hyp, rate: pesq(ref, hyp, rate, pesq_mode(rate)),
            "stoi": stoi,
        }
        for source, ref in enumerate(refs):
            for name in [name for name in plain if name in names]:
                try:
                    value = None if hyps is None else plain[name](ref, hyps[source], sample_rate)
                    if (name, source) not in floors:
                        floors[name, source] = plain[name](ref, mix, sample_rate)
                    value = floors[name, source] if value is None else value
                    values[name].append(value)
                    values[f"{name}i"].append(value - floors[name, source])
                except MetricError as error:
                    failures[name] = str(error)
        for hyp in ([mix] if hyps is None else hyps) if "dnsmos" in names else ():
            try:
                for part, value in self.dnsmos(hyp, sample_rate).items():
                    values[f"dnsmos_{part}"].append(value)
            except MetricError as error:
                failures["dnsmos"] = str(error)
        scores = {column: float(np.mean(values[column])) for column in columns(names) if values[column]}
        failed = {c: why for name, why in failures.items() for c in columns([name]) if c not in scores}
        return scores, failed
