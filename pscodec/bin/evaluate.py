"""Stage 6: score decoded speech against its references.

    python -m pscodec.bin.evaluate --exp exp/NAME --data data --splits "test test_unseen" --campplus PATH

For every split, and every condition found in exp/NAME/decode (`test`, `test.shuffled_codes` ...), each utterance
gets one row in exp/NAME/scores.tsv; exp/NAME/summary.json holds means with 95 % intervals and the codebooks' usage.
Finished rows are kept in exp/NAME/scores.cache.jsonl: a rerun scores only what is new or has changed. Started by
torchrun, its processes share the rows, and --nj counts for each of them.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
from collections import Counter, defaultdict
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from pscodec.metrics.scorer import METRICS, WITHOUT_REFERENCE, Scorer, columns
from pscodec.metrics.summary import BITS, CODEC, REFERENCE, codebook_usage, format_mean, summarise, write_scores
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress


@dataclass
class Job:
    """One utterance to score: the recording's stretch and the decoded file. `rates` are bit/s, `names` what to do."""

    split: str
    condition: str
    utt: str
    spk: str
    ref: str
    start: float
    end: float | None
    hyp: str | None
    names: list[str]
    rates: dict[str, float] = field(default_factory=dict)
    stamp: str = ""

    @property
    def key(self):
        return (self.split, self.condition, self.utt)


@ranks.together
@one_line_errors
def main(argv=None):
    args = parse(argv)
    names, control_names = choose_metrics(args)
    folders = find_conditions(args.exp / "decode", args.splits.split())
    jobs = []
    for split, condition, folder in folders:
        wanted = names if condition == CODEC else control_names
        jobs += list_jobs(split, condition, folder, args, wanted)
        if condition == CODEC and (blind := [n for n in names if n in WITHOUT_REFERENCE]):
            jobs += [reference_job(job, blind) for job in jobs if job.key[:2] == (split, CODEC)]
    rows, seconds = score_all(jobs, args.exp / "scores.cache.jsonl", args, set(names) | set(control_names))
    if not ranks.first():
        return
    table = sorted(rows, key=lambda row: [row["split"], row["condition"] != CODEC, row["condition"], row["utt"]])
    write_scores(args.exp / "scores.tsv", table, names)
    summary = summarise(table, names)
    for split, condition, folder in folders:
        scored = {row["utt"] for row in table if (row["split"], row["condition"]) == (split, condition)}
        summary[split][condition]["codebooks"] = codebook_usage(read_codes(folder / "psc", scored))
    write_text(args.exp / "summary.json", json.dumps(summary, indent=1) + "\n")
    print_failures(table)
    if seconds:
        print("CPU seconds an utterance: " + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items()))
    print_summary(summary)
    print(f"wrote {args.exp / 'scores.tsv'} and {args.exp / 'summary.json'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder, with decode/ in it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--splits", default="test", help="splits to score, separated by spaces (%(default)s)")
    parser.add_argument("--metrics", default="all", help=f"all, or some of: {' '.join(METRICS)}")
    parser.add_argument(
        "--controls-metrics",
        default="pesq stoi si_snr mcd mcd_linear secs",
        help="metrics of the control conditions, where they are among --metrics (%(default)s)",
    )
    parser.add_argument("--campplus", type=Path, help="CAM++ checkpoint, for SECS")
    parser.add_argument("--utmos", type=Path, help="TorchScript model for UTMOS: [1, L] at 16 kHz -> score")
    parser.add_argument("--nj", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--max-utts", type=int, help="score at most so many utterances a split, spread evenly")
    parser.add_argument("--allow-pipes", action="store_true", help="let a wav.scp hold commands")
    parser.add_argument("--rescore", action="store_true", help="forget the rows of earlier runs")
    args = parser.parse_args(argv)
    if args.nj < 1 or (args.max_utts is not None and args.max_utts < 1):
        raise UserError("--nj and --max-utts must be at least 1")
    return args


def choose_metrics(args):
    """Metrics of the codec and of the controls. With `all`, what has no model at hand is left out with a word."""
    asked = args.metrics.replace(",", " ").split()
    names = list(METRICS) if asked == ["all"] else asked
    controls = args.controls_metrics.replace(",", " ").split()
    for name in names + controls:
        if name not in METRICS:
            raise UserError(f"unknown metric {name}; there are: {' '.join(METRICS)}")
    for name, path, option in (("secs", args.campplus, "--campplus"), ("utmos", args.utmos, "--utmos")):
        if name in names and path is None:
            if asked != ["all"]:
                raise UserError(f"{name} needs its weights: give {option} PATH")
            print(f"{name} is left out: no weights at hand ({option} PATH)")
            names.remove(name)
        elif name in names and not path.is_file():
            raise UserError(f"{path}: no such file ({option})")
    names = [name for name in METRICS if name in names]
    return names, [name for name in names if name in controls]


def find_conditions(decode, splits):
    """`[(split, condition, folder)]` under `decode`. Raises UserError when a split was not decoded."""
    found = []
    for split in splits:
        folders = sorted(decode.glob(f"{split}.*")) if decode.is_dir() else []
        if not (decode / split / "wav.scp").is_file():
            raise UserError(f"{decode / split}/wav.scp: no such file; stage 5 (decode) writes it")
        found.append((split, CODEC, decode / split))
        found += [(split, f.name[len(split) + 1 :], f) for f in folders if (f / "wav.scp").is_file()]
    return found


def list_jobs(split, condition, folder, args, names):
    from pscodec.data.kaldi import read_data_dir, read_table

    utterances = read_data_dir(args.data / split, allow_pipes=args.allow_pipes)
    decoded = read_table(folder / "wav.scp")
    for utt in decoded:
        if utt not in utterances:
            raise UserError(f"{folder / 'wav.scp'}: {utt} is not in {args.data / split}")
    if not decoded:
        raise UserError(f"{folder / 'wav.scp'}: no utterances")
    if args.max_utts and len(decoded) > args.max_utts:
        ids = sorted(decoded)
        decoded = {utt: decoded[utt] for utt in (ids[i * len(ids) // args.max_utts] for i in range(args.max_utts))}
    rates = read_bits(folder / "bits.tsv")
    jobs = []
    for utt, path in decoded.items():
        if not os.path.exists(path):  # the experiment was moved
            path = str(folder / "wav" / Path(path).name)
        u = utterances[utt]
        job = Job(split, condition, utt, u.spk, u.path, u.start, u.end, path, names, rates.get(utt, {}))
        job.stamp = " ".join([_stamp(u.path), str(u.start), str(u.end), _stamp(path)])
        jobs.append(job)
    return jobs


def reference_job(job, names):
    stamp = job.stamp.rsplit(" ", 1)[0]
    return Job(job.split, REFERENCE, job.utt, job.spk, job.ref, job.start, job.end, None, names, {}, stamp)


def _stamp(path):
    """Changes when the file does."""
    if getattr(path, "is_pipe", False) or not os.path.exists(path):
        return str(path).replace(" ", "_")
    status = os.stat(path)
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_bits(path):
    """`{utt: {bitrate_codes, bitrate_total}}` in bit/s, from the bytes that stage 5 counted; empty without the file."""
    if not path.is_file():
        return {}
    header, *lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    rates = {}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        seconds = float(row["seconds"])
        rates[row["utt"]] = {
            "bitrate_codes": float(row["codes_bytes"]) * 8 / seconds,
            "bitrate_total": float(row["total_bytes"]) * 8 / seconds,
        }
    return rates


def score_all(jobs, cache, args, names):
    """Rows of all jobs, from the cache where they are up to date; mean seconds a metric of those scored now.

    Under torchrun each process scores its share; only the first one has the rows of the cache."""
    rows, todo = _up_to_date(jobs, cache, args.rescore) if ranks.first() else ([], [])
    scored = _score_share(ranks.share(todo), _part(cache), args, names)
    spent, count = Counter(), Counter()
    for job, result, times in itertools.chain(*ranks.gather(scored)):
        rows.append(_row(job, result))
        spent.update(times)
        count.update(times.keys())
    if ranks.first():
        _collect(cache)
    return rows, {name: spent[name] / count[name] for name in METRICS if count[name]}


def _up_to_date(jobs, cache, rescore):
    """`(rows, todo)`: rows that the cache has, and `(job, missing metrics, what the cache has)` of the others."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    _collect(cache)
    if rescore:
        cache.unlink(missing_ok=True)
    done = _read_cache(cache)
    rows, todo = [], []
    for job in jobs:
        old = done.get(job.key, {})
        old = old if old.get("stamp") == job.stamp else {"stamp": job.stamp, "scores": {}, "failures": {}}
        missing = [n for n in job.names if n not in old["failures"] and columns([n])[0] not in old["scores"]]
        if missing or "seconds" not in old:
            todo.append((job, missing, old))
        else:
            rows.append(_row(job, old))
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} rows are as before, {len(todo)} to score")
    return rows, todo


def _score_share(todo, cache, args, names):
    """Score what is to do and note it in `cache`: `[(job, row of the cache, seconds a metric)]`."""
    scored = []
    with open(cache, "a", encoding="utf-8") as log:
        if _cut_off(cache):
            log.write("\n")
        for job, old, result in progress(_run(todo, args, names), "scoring", total=len(todo), disable=not todo):
            seconds, scores, failures, times = result
            new = {
                "key": job.key,
                "stamp": job.stamp,
                "seconds": seconds,
                "scores": {**old["scores"], **scores},
                "failures": {**old["failures"], **failures},
            }
            log.write(json.dumps(new) + "\n")
            log.flush()
            scored.append((job, new, times))
    return scored


def _part(cache):
    """Where this process notes its rows: lines of several processes in one file would get into each other."""
    return cache if ranks.first() else cache.with_suffix(f".{ranks.rank()}.jsonl")


def _collect(cache):
    """Move what the other processes of this run, or of one that was broken off, noted into `cache`."""
    for part in cache.parent.glob(f"{cache.stem}.*.jsonl"):
        with open(cache, "a", encoding="utf-8") as log:
            log.write("\n" * _cut_off(cache) + part.read_text(encoding="utf-8"))
        part.unlink()


def _read_cache(path):
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            done[tuple(row["key"])] = row
        except (ValueError, KeyError, TypeError):
            continue  # the line that a killed run was writing
    return done


def _cut_off(path):
    """Whether a killed run left half a line at the end."""
    data = path.read_bytes()
    return bool(data) and data[-1:] != b"\n"


def _row(job, result):
    failures = {name: why for name, why in result["failures"].items() if name in job.names}
    scores = {c: result["scores"][c] for c in columns(job.names) if c in result["scores"]}
    keys = {"split": job.split, "condition": job.condition, "utt": job.utt, "spk": job.spk}
    return {**keys, "seconds": result["seconds"], **scores, **job.rates, "failures": failures, "names": job.names}


def _run(todo, args, names):
    """Yield `(job, old, result)` as they are done."""
    if args.nj == 1 or len(todo) < 2:
        if todo:
            _start_worker(sorted(names), args.campplus, args.utmos)
        for job, missing, old in todo:
            yield job, old, _score(job, missing)
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they start: one thread each
    try:
        with concurrent.futures.ProcessPoolExecutor(
            min(args.nj, len(todo)),
            multiprocessing.get_context("spawn"),
            _start_worker,
            (sorted(names), args.campplus, args.utmos, 1),
        ) as pool:
            futures = {pool.submit(_score, job, missing): (job, old) for job, missing, old in todo}
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield *futures[future], future.result()
            except BrokenProcessPool:
                raise UserError("a scoring process died (out of memory?); rows that are done are kept, rerun") from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


_scorer = None  # of this process


def _start_worker(names, campplus, utmos, threads=None):
    global _scorer
    import torch

    if threads:
        torch.set_num_threads(threads)
    embed = None
    if "secs" in names:
        from pscodec.prompts.campplus import load_campplus

        embed = load_campplus(campplus)
    _scorer = Scorer(names, embed, utmos)


def _score(job, names):
    """`(seconds, scores, failures, times)` of one job."""
    from pscodec.data.audio import load_audio

    if job.hyp is None:
        ref, rate = load_audio(job.ref, 24000, job.start, job.end)
        hyp = ref
    else:
        hyp, rate = load_audio(job.hyp)
        ref, _ = load_audio(job.ref, rate, job.start, job.end)
    if ref.shape != hyp.shape:
        raise UserError(
            f"{job.split}.{job.condition}: {job.utt} has {ref.shape[-1]} samples at {rate} Hz, decoded {hyp.shape[-1]}"
        )
    return ref.shape[-1] / rate, *_scorer(ref[0], hyp[0], rate, names)


def read_codes(folder, utts):
    """Codes `[K, T]` and codebook size of the .psc files of `utts` in EXP/decode/SPLIT/psc, one after the other."""
    from pscodec import bitstream
    from pscodec.entropy.find import Languages

    languages = Languages(folder.parents[2])
    for path in sorted(folder.glob("*.psc")):
        if path.stem in utts:
            stream = bitstream.read(path, languages.coder)
            yield stream.codes, 1 << stream.header.bits


def print_failures(rows):
    reasons = defaultdict(list)
    for row in rows:
        for name, why in row["failures"].items():
            reasons[name].append(f"{row['split']}/{row['utt']}: {why}")
    for name, whys in reasons.items():
        print(f"{name} failed on {len(whys)} of {sum(name in r['names'] for r in rows)} utterances, first {whys[0]}")


def print_summary(summary):
    """A small table a split: a line a metric, a column a condition; mean and half width of the 95 % interval."""
    for split, conditions in summary.items():
        names = [n for n in [*columns(METRICS), *BITS] if any(n in entry for entry in conditions.values())]
        table = [[split, *conditions]]
        table.append(["utterances", *(str(entry["utterances"]) for entry in conditions.values())])
        table += [[name, *(format_mean(entry.get(name)) for entry in conditions.values())] for name in names]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        for first, *rest in table:
            print("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]))
        for k, book in enumerate(conditions[CODEC].get("codebooks", [])):
            print(f"codebook {k}: {book['used']} of {book['size']} used, perplexity {book['perplexity']:.1f}")
        print()


if __name__ == "__main__":
    main()
