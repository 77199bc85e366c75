"""Score tables and their means: one row an utterance in, means with 95 % intervals out."""

import math
from collections import defaultdict

import numpy as np

from pscodec.metrics.scorer import COUNTS, METRICS, columns, scores
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

CODEC, REFERENCE = "codec", "reference"  # conditions: as it is; the recording itself, for scores without a reference
KEYS = ("split", "condition", "utt", "spk", "seconds")
BITS = ("bitrate_codes", "bitrate_total")


def write_scores(path, rows, names):
    """One row an utterance; `nan` where a metric failed, `-` where it was not asked for."""
    header = [*KEYS, *columns(names), *BITS]
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write("\t".join(header) + "\n")
        for row in rows:
            failed = set(columns(row["failures"]))
            cells = [row[c] if c in row else ("nan" if c in failed else "-") for c in header]
            file.write("\t".join(f"{c:.6g}" if isinstance(c, float) else str(c) for c in cells) + "\n")


def summarise(rows, names):
    """`{split: {condition: {column: {mean, ci95, n, failed}, "utterances": n}}}`.

    `ci95` is the half width of the 95 % interval of the mean over utterances (Student's t), null for one utterance.
    Rates of errors are pooled: all errors over all words. The bit rates also hold `pooled`, all bits over all seconds.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row["split"], row["condition"]].append(row)
    summary = defaultdict(dict)
    for (split, condition), group in groups.items():
        entry = summary[split][condition] = {"utterances": len(group)}
        for column in [*scores(names), *BITS]:
            values = [row[column] for row in group if column in row]
            counts = [row[count] for count, name in COUNTS.items() if name == column for row in group if column in row]
            failed = sum(column in columns(row["failures"]) for row in group)
            if values or failed:
                entry[column] = {**mean_ci(values, counts or None), "failed": failed}
            if values and column in BITS:
                seconds = [row["seconds"] for row in group if column in row]
                entry[column]["pooled"] = sum(v * s for v, s in zip(values, seconds, strict=True)) / sum(seconds)
    return summary


def read_scores(path):
    """Rows of a scores.tsv, as `{column: text or float}`; what is `-` or `nan` is left out of its row.

    Raises UserError for a file that is not such a table.
    """
    header, *lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()] or [[]]
    if header[: len(KEYS)] != list(KEYS) or any(len(line) != len(header) for line in lines):
        raise UserError(f"{path}: not a table that stage 6 (evaluate) wrote")
    rows = []
    for line in lines:
        row = dict(zip(header, line, strict=True))
        keys = {k: row.pop(k) for k in KEYS[:-1]}
        rows.append({**keys, **{k: float(v) for k, v in row.items() if v not in ("-", "nan")}})
    return rows


def mean_ci(values, counts=None):
    """`{mean, ci95, n}` of a list of numbers; null where there is none.

    With `counts`, what each of `values` is a rate of, the mean is sum(counts * values) / sum(counts), and its interval
    that of a ratio of means: of count * (value - mean) over the mean count (Cochran, Sampling Techniques, 1977,
    eq. 6.13). Equal counts give the plain mean and its interval.
    """
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return {"mean": None, "ci95": None, "n": 0}
    weights = [count * n / math.fsum(counts) for count in counts] if counts else [1.0] * n
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / n
    if n == 1:
        return {"mean": mean, "ci95": None, "n": 1}
    squares = math.fsum((w * (v - mean)) ** 2 for w, v in zip(weights, values, strict=True))
    return {"mean": mean, "ci95": float(t.ppf(0.975, n - 1)) * math.sqrt(squares / (n - 1) / n), "n": n}


def codebook_usage(streams):
    """For each codebook `{size, frames, used, usage, perplexity}` over `streams`, pairs of codes `[K, T]` and size.

    `usage` is the share of entries that occur at all, `perplexity` e^entropy of their distribution (at most the size).
    """
    counts = []
    for codes, size in streams:
        for k, book in enumerate(np.asarray(codes)):
            if k == len(counts):
                counts.append(np.zeros(size, dtype=np.int64))
            counts[k] += np.bincount(book, minlength=size)
    result = []
    for count in counts:
        share = count[count > 0] / count.sum()
        result.append(
            {
                "size": len(count),
                "frames": int(count.sum()),
                "used": int((count > 0).sum()),
                "usage": float((count > 0).mean()),
                "perplexity": float(np.exp(-(share * np.log(share)).sum())),
            }
        )
    return result


def own_n(entry, of):
    """`n 20` where `entry`, of `mean_ci`, is of another number of items than `of`, its row's; else empty."""
    return f"n {entry['n']}" if entry and entry["n"] not in (0, of) else ""


def format_mean(entry, of=None):
    """`mean ± half width` with digits that fit its size; `-` where there is nothing.

    With `of`, the n of its row, it says of how many it is where it is not of so many: `0.50 ± 0.19 (n 20)`.
    """
    if not entry or entry["mean"] is None:
        return "-"
    digits = 0 if abs(entry["mean"]) >= 100 else 2 if abs(entry["mean"]) >= 10 else 3
    ci = "" if entry["ci95"] is None else f" ± {entry['ci95']:.{digits}f}"
    n = own_n(entry, of) if of is not None else ""
    return f"{entry['mean']:.{digits}f}{ci}" + (f" ({n})" if n else "")


def format_table(title, entries):
    """Lines of a table of `summarise`'s `entries` (of one split): a line a metric, a column a condition."""
    names = [c for c in [*scores(METRICS), *BITS] if any(c in entry for entry in entries.values())]
    table = [[title, *entries], ["utterances", *(str(entry["utterances"]) for entry in entries.values())]]
    for name in names:
        table.append([name, *(format_mean(entry.get(name), entry["utterances"]) for entry in entries.values())])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in table
    ]
