"""All metrics behind one call, so that heavy ones are loaded once a process."""

import time
from dataclasses import dataclass

from pscodec.metrics.base import MetricError, reference
from pscodec.metrics.mcd import mcd, mcd_linear
from pscodec.metrics.pesq import pesq
from pscodec.metrics.secs import secs
from pscodec.metrics.si_snr import si_snr
from pscodec.metrics.stoi import stoi
from pscodec.metrics.words import WORDS, Words
from pscodec.utils.errors import UserError

METRICS = ("pesq", "stoi", "visqol", "dnsmos", "utmos", *WORDS, "si_snr", "mcd", "mcd_linear", "secs", "secs_ge2e")
WITHOUT_REFERENCE = ("dnsmos", "utmos", "wer", "cer")  # the recording itself has such a score, too
OF_ANOTHER = (*WITHOUT_REFERENCE, "secs", "secs_ge2e")  # the reference may be another recording of the voice
DNSMOS_PARTS = ("ovrl", "sig", "bak", "p808")
COUNTS = {f"{name}_{unit}": name for name, unit in WORDS.items()}  # column -> the rate that it is the denominator of


def columns(names):
    """Columns of a score table for metric `names`: one each, four for DNSMOS; rates of errors bring their counts."""
    table = {"dnsmos": [f"dnsmos_{part}" for part in DNSMOS_PARTS]}
    table |= {name: [name, column] for column, name in COUNTS.items()}
    return [column for name in names for column in table.get(name, [name])]


def scores(names):
    """Those columns that are scores, not counts."""
    return [column for column in columns(names) if column not in COUNTS]


@dataclass(frozen=True)
class Weights:
    """What metrics need that does not come with them: `utmos`, a path; `whisper`, for words, as `whisper.Whisper` takes
    it; `embed`, for SECS, maps FBanks `[B, 80, F]` to `[B, D]`."""

    utmos: str | None = None
    whisper: str = "base"
    embed: object = None


class Scorer:
    """The metrics in `names`. Raises UserError for a metric whose package or model is missing."""

    def __init__(self, names, weights=Weights()):
        plain = {"pesq": pesq, "stoi": stoi, "si_snr": si_snr, "mcd": mcd, "mcd_linear": mcd_linear}
        self.functions = {name: plain[name] for name in names if name in plain}
        self.names, self.words = names, None
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

            model = Utmos(weights.utmos)
            self.functions["utmos"] = lambda ref, hyp, rate: model(hyp, rate)
        if "secs" in names:
            self.functions["secs"] = lambda ref, hyp, rate: secs(ref, hyp, rate, weights.embed)
        if "secs_ge2e" in names:
            from pscodec.metrics.ge2e import Ge2e

            self.functions["secs_ge2e"] = Ge2e().similarity
        if any(name in WORDS for name in names):
            self.words = Words(weights.whisper)

    def __call__(self, ref, hyp, sample_rate, names=None, text=None, language=None):
        """Score `hyp` `[L]` against `ref` `[L]`. `text`: what is said, `language`: in which, `en` ..., where known.

        Returns `(scores, failures, seconds)`: `{column: float}`, `{metric: reason}` for those that are undefined
        here, `{metric: CPU seconds it took}`.
        """
        found, failures, seconds = {}, {}, {}
        for name in self.names if names is None else names:
            begin = time.process_time()
            try:
                if name in WITHOUT_REFERENCE or name in WORDS:
                    reference(ref)  # of a silent recording no metric speaks
                if name in WORDS:
                    values = self.words(name, ref, hyp, sample_rate, text, language)
                elif name == "dnsmos":
                    parts = self.functions[name](ref, hyp, sample_rate)
                    values = [parts[part] for part in DNSMOS_PARTS]
                else:
                    values = [self.functions[name](ref, hyp, sample_rate)]
                found.update(zip(columns([name]), values, strict=True))
            except MetricError as error:
                failures[name] = str(error)
            seconds[name] = time.process_time() - begin
        return found, failures, seconds
