"""Many recordings scored, in several processes, each row noted when it is done: of stage 6 and of `pscodec score`."""

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pscodec.coders import open_coder
from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.metrics import ge2e, words
from pscodec.metrics.align import aligned
from pscodec.metrics.scorer import METRICS, Scorer, Weights, columns
from pscodec.utils import lines, ranks
from pscodec.utils.errors import UserError
from pscodec.utils.processes import in_processes
from pscodec.utils.progress import progress

LONGEST_GAP = 0.5  # seconds that a signal may be longer or shorter than its reference where it need not be as long


@dataclass
class Job:
    """One recording to score, in a condition of a split: `ref`, its stretch `start` to `end` in seconds, against the
    file `hyp`, or what `codec` makes of it (a `coders.open_coder` name), or itself, by the metrics `names`. `text` and
    `language`: what is said, where known.

    `rate`: Hz to score at, None for that of `hyp`, or 24 kHz without one. `lag`: None for a signal that must have the
    reference's length; else seconds by which it may be late, which are searched for, its length then being made equal.
    `other`: `ref` is another recording of the voice, and what is compared is not samples.
    `rates` are bit/s, for the row. What `codec` decodes to is written to the file `keep`.
    """

    split: str
    condition: str
    utt: str
    spk: str
    ref: str
    start: float
    end: float | None
    hyp: str | None
    names: list[str]
    text: str | None = None
    language: str | None = None
    rate: int | None = None
    lag: float | None = None
    rates: dict[str, float] = field(default_factory=dict)
    codec: str | None = None
    codec_stamp: str = ""
    keep: Path | None = None
    other: bool = False

    @property
    def key(self):
        return (self.split, self.condition, self.utt)

    @property
    def stamp(self):
        """Changes when the files do, or how they are compared."""
        files = [_stamp(self.ref), str(self.start), str(self.end), *([_stamp(self.hyp)] if self.hyp else [])]
        how = [self.rate, self.lag, self.codec, self.codec_stamp]
        return " ".join([*files, *(map(str, how) if any(x is not None for x in how[:3]) else ())])


@dataclass(frozen=True)
class How:
    """How to score: the processes, and what metrics need: a checkpoint of CAM++, a model of UTMOS, one of Whisper."""

    nj: int = 1
    campplus: Path | None = None
    utmos: Path | None = None
    whisper: str = "base"

    def missing(self, name):
        """Why metric `name` cannot be computed, in one line, or None. Raises UserError for a path that is no file."""
        for metric, path, option in (("secs", self.campplus, "--campplus"), ("utmos", self.utmos, "--utmos")):
            if name == metric and path is None:
                return f"no weights at hand ({option} PATH)"
            if name == metric and not path.is_file():
                raise UserError(f"{path}: no such file ({option})")
        if name == "secs_ge2e":
            return ge2e.missing()
        return words.missing(self.whisper) if name in words.WORDS else None


def choose(asked, how, texts):
    """The metrics that `asked`, words of an option, names, in their order. Raises UserError in one line.

    `all` compares words with the text where there are `texts`, else with what is heard in the recording; what has no
    weights or no package at hand is left out with a word.
    """
    names, everything = asked.replace(",", " ").split(), asked.strip() == "all"
    if everything:
        names = [name for name in METRICS if name not in (("dwer", "dcer") if texts else ("wer", "cer"))]
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"unknown metric {unknown[0]}; there are: {' '.join(METRICS)}")
    chosen = []
    for name in (name for name in METRICS if name in names):
        why = how.missing(name)
        if why and not everything:
            raise UserError(f"{name}: {why}")
        if why:
            print(f"{name} is left out: {why}")
        else:
            chosen.append(name)
    return chosen


def spread(items, most):
    """At most `most` (None: all) of `items`, spread evenly over them in order."""
    items = list(items)
    n = len(items) if most is None else min(len(items), most)
    return [items[i * len(items) // n] for i in range(n)]


def score_all(jobs, cache, how, rescore=False):
    """Rows of all jobs, from file `cache` where they are up to date; mean CPU seconds a metric of those scored now.

    Under torchrun each process scores its share; only the first one has the rows of the cache."""
    rows, todo = _up_to_date(jobs, cache, how, rescore) if ranks.first() else ([], [])
    scored = _score_share(ranks.share(todo), lines.own(cache), how)
    spent, count = Counter(), Counter()
    for job, result, times in itertools.chain(*ranks.gather(scored)):
        rows.append(_row(job, result))
        spent.update(times)
        count.update(times.keys())
    if ranks.first():
        lines.collect(cache)
    return rows, {name: spent[name] / count[name] for name in METRICS if count[name]}


def _up_to_date(jobs, cache, how, rescore):
    """`(rows, todo)`: rows that the cache has, and `(job, missing metrics, what the cache has)` of the others."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    lines.collect(cache)
    if rescore:
        cache.unlink(missing_ok=True)
    done = {tuple(row["key"]): row for row in lines.read(cache)}
    rows, todo = [], []
    for job in jobs:
        old = done.get(job.key, {})
        if old.get("stamp") != job.stamp:
            old = {"stamp": job.stamp, "scores": {}, "failures": {}}
        if old.get("said") != _said(job, how):  # another text or recogniser: all but the words holds
            for name in words.WORDS:
                old["failures"].pop(name, None)
                for column in columns([name]):
                    old["scores"].pop(column, None)
        missing = [n for n in job.names if n not in old["failures"] and columns([n])[0] not in old["scores"]]
        if missing or "seconds" not in old:
            todo.append((job, missing, old))
        else:
            rows.append(_row(job, old))
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} rows are as before, {len(todo)} to score")
    return rows, todo


def _said(job, how):
    """Changes with what scores of words depend on beside the files; None for a job without them."""
    if not set(job.names) & set(words.WORDS):
        return None
    return hashlib.sha1(json.dumps([how.whisper, job.language, job.text]).encode()).hexdigest()


def _score_share(todo, cache, how):
    """Score what is to do and note it in `cache`: `[(job, row of the cache, seconds a metric)]`."""
    scored = []
    with lines.appending(cache) as write:
        names = sorted({name for _, missing, _ in todo for name in missing})
        done = in_processes(_score, todo, how.nj, _start_worker, (names, how))
        for (job, _, old), result in progress(done, "scoring", total=len(todo), disable=not todo):
            seconds, rates, found, failures, times = result
            new = {
                "key": job.key,
                "stamp": job.stamp,
                "said": _said(job, how) or old.get("said"),
                "seconds": seconds,
                "rates": rates,
                "scores": {**old["scores"], **found},
                "failures": {**old["failures"], **failures},
            }
            write(new)
            scored.append((job, new, times))
    return scored


def _row(job, result):
    failures = {name: why for name, why in result["failures"].items() if name in job.names}
    found = {c: result["scores"][c] for c in columns(job.names) if c in result["scores"]}
    keys = {"split": job.split, "condition": job.condition, "utt": job.utt, "spk": job.spk}
    rates = {**result.get("rates", {}), **job.rates}
    return {**keys, "seconds": result["seconds"], **found, **rates, "failures": failures, "names": job.names}


_work = ()  # of this process: the metrics, and How


def _start_worker(names, how):
    global _work
    _work = (tuple(names), how)


@functools.lru_cache(maxsize=1)
def _scorer(names, how):
    """This process's scorer, made with its first job, so that what is wrong with weights is told in one line."""
    embed = None
    if "secs" in names:
        from pscodec.prompts.campplus import load_campplus

        embed = load_campplus(how.campplus)
    return Scorer(names, Weights(how.utmos, how.whisper, embed))


def _score(task):
    """`(seconds, rates, scores, failures, times)` of one job and the metrics that it lacks."""
    job, names, _ = task
    ref, hyp, rate, rates = load_pair(job)
    return len(ref) / rate, rates, *_scorer(*_work)(ref, hyp, rate, names, job.text, job.language)


def load_pair(job):
    """`(ref, hyp, sample_rate, rates)` of a job: tensors `[L]` of one length, and the bit/s of what was coded here.

    Raises UserError where they cannot be had.
    """
    stretch, rates = (job.start, job.end), {}
    if job.codec is not None:
        source, source_rate = load_audio(job.ref, None, *stretch)
        hyp, rate, rates = _coder(job.codec)(source, source_rate)
        if job.keep is not None:
            save_audio(job.keep, hyp, rate)
        hyp, rate = resample(hyp, rate, job.rate or rate), job.rate or rate
    elif job.hyp is not None:
        hyp, rate = load_audio(job.hyp, job.rate)
    else:
        ref, rate = load_audio(job.ref, job.rate or 24000, *stretch)
        return ref[0], ref[0], rate, rates
    ref, _ = load_audio(job.ref, rate, *stretch)
    n, m = ref.shape[-1], hyp.shape[-1]
    if job.other:
        return ref[0], hyp[0], rate, rates
    if job.lag is None and n != m:
        raise UserError(f"{job.split}.{job.condition}: {job.utt} has {n} samples at {rate} Hz, decoded {m}")
    if job.lag is not None:
        if abs(n - m) > (LONGEST_GAP + job.lag) * rate:
            theirs = job.hyp or job.codec
            raise UserError(f"{theirs}: {m / rate:.2f} s long, its reference {job.ref} {n / rate:.2f} s")
        hyp = aligned(ref[0], hyp[0], round(job.lag * rate), rate)[None]
    return ref[0], hyp[0], rate, rates


@functools.lru_cache(maxsize=16)
def _coder(name):
    """This process's codec `name`."""
    return open_coder(name)


def _stamp(path):
    """Changes when the file does."""
    if getattr(path, "is_pipe", False) or not os.path.exists(path):
        return str(path).replace(" ", "_")
    status = os.stat(path)
    return f"{status.st_size}:{status.st_mtime_ns}"
