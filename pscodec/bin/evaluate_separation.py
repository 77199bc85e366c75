"""Stage 6 of separation: score estimates against their sources.

    python -m pscodec.bin.evaluate_separation --exp exp/NAME --data data --splits test --nj 4

For every split, and every condition found in exp/NAME/separated (`test.none_continuous` ...), each mixture gets one
row in exp/NAME/scores.tsv, its sources averaged. --order says which estimate is whose: `embedding` keeps the order
that stage 5 found in the embeddings, before anything was decoded (separators of waveforms have none: SI-SDR); `si_sdr`,
the papers', and `stoi` take the order with the largest score, which favours the score that was asked. Codecs that keep
no phases leave nothing for SI-SDR to tell one talker from another by. The codec's ceiling is coded sources, in their
places. Two more
conditions tell where the scores begin and end: `mixture`, the mixture itself for every source, and `reference`, the
sources themselves (DNSMOS only). exp/NAME/summary.json holds means with 95 % intervals. A condition is scored once:
its rows stay in its folder until stage 5 writes it again. Processes of torchrun share the mixtures.
"""

import argparse
import json
from pathlib import Path

import torch

from pscodec.metrics.separation import METRICS, ORDERS, SeparationScorer, columns, pesq_mode
from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.scoring import spread
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.processes import in_processes
from pscodec.utils.progress import progress

KEYS = ("split", "condition", "utt", "seconds")
MIXTURE, REFERENCE = "mixture", "reference"
CEILING = "ceiling_"  # at the head of conditions without mixing


@ranks.together
@one_line_errors
def main(argv=None):
    args = parse(argv)
    names = args.metrics
    rows, rate = [], None
    for split in args.splits.split():
        rows += split_rows(args, split, names)
        rate = json.loads((args.data / split / "mixtures.json").read_text(encoding="utf-8"))["sample_rate"]
    if not ranks.first():
        return
    write_rows(args.exp / "scores.tsv", rows, names)
    summary = {"sample_rate": rate, "pesq": pesq_mode(rate), "order": args.order, "splits": summarise(rows, names)}
    write_text(args.exp / "summary.json", json.dumps(summary, indent=1) + "\n")
    print_summary(summary, names)
    print(f"wrote {args.exp / 'scores.tsv'} and {args.exp / 'summary.json'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder, with separated/ in it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--splits", default="test", help="splits to score, separated by spaces (%(default)s)")
    parser.add_argument("--metrics", default="all", help=f"all, or some of: {' '.join(METRICS)}")
    parser.add_argument(
        "--order", choices=("embedding", *ORDERS), default="embedding", help="who is whose (%(default)s)"
    )
    parser.add_argument("--nj", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--max-mixtures", type=int, help="score at most so many a split, spread evenly")
    parser.add_argument("--dnsmos", type=int, help="DNSMOS of at most so many mixtures a split, spread evenly")
    parser.add_argument("--rescore", action="store_true", help="forget the rows of earlier runs")
    args = parser.parse_args(argv)
    asked = args.metrics.replace(",", " ").split()
    if unknown := set(asked) - set(METRICS) - {"all"}:
        raise UserError(f"unknown metric {min(unknown)}; there are: {' '.join(METRICS)}")
    if not args.splits.split() or args.nj < 1 or (args.max_mixtures is not None and args.max_mixtures < 1):
        raise UserError("--splits names at least one split; --nj and --max-mixtures must be at least 1")
    if (args.dnsmos or 0) < 0:
        raise UserError("--dnsmos must be at least 0")
    args.metrics = [name for name in METRICS if name in asked or "all" in asked]
    return args


def in_order(folder, order):
    """Whether estimates in `folder`, `separated/SPLIT.CONDITION`, stand in their sources' order without a search.

    The mixture and the references always do, and the ceiling; what stage 5 has ordered does under `embedding`.
    """
    condition = folder.name.partition(".")[2]
    if condition in (MIXTURE, REFERENCE) or condition.startswith(CEILING):
        return True
    note = folder / "done.json"
    return order == "embedding" and json.loads(note.read_text(encoding="utf-8")).get("ordered", False)


def search(order):
    """What orders estimates that do not stand in order: a name in ORDERS."""
    return "si_sdr" if order == "embedding" else order


def conditions(separated, split):
    """`mixture`, `reference` and those that stage 5 left. Raises UserError where there is none."""
    found = sorted(f.parent.name[len(split) + 1 :] for f in separated.glob(f"{split}.*/done.json"))
    if not found:
        raise UserError(f"{separated}/{split}.*: no estimates; stage 5 (separate) writes them")
    return [MIXTURE, REFERENCE, *found]


def split_rows(args, split, names):
    """The rows of a split's conditions; those that were scored already, with these metrics and of these mixtures, from
    their folders. What has been scored is kept there when it breaks off, of the first process.

    All of them in the first process, none in the others.
    """
    from pscodec.data.mixture import read_mixtures

    folder, asked, rows = args.exp / "separated", {}, {}
    for condition in conditions(folder, split):
        asked[condition] = {
            "metrics": names,
            "order": args.order,
            "max_mixtures": args.max_mixtures,
            "dnsmos": args.dnsmos,
            "mixtures": _stamp(args.data / split / "mixtures.tsv"),
            "estimates": _stamp(folder / f"{split}.{condition}" / "done.json"),
        }
        rows[condition] = [] if args.rescore else _read(folder / f"{split}.{condition}/scores.json", asked[condition])
    mixtures = [mixture.mix for mixture in read_mixtures(args.data / split)[0]]
    places = {mix: place for place, mix in enumerate(mixtures)}
    jobs = _jobs(args, mixtures, rows, names)
    missing = {condition for _, by_condition in jobs for condition in by_condition}

    def keep(found):
        for row in found:
            rows[row["condition"]].append(row)
        for condition in missing:
            rows[condition].sort(key=lambda row: places[row["utt"]])
            note = json.dumps({"asked": asked[condition], "rows": rows[condition]}) + "\n"
            write_text(folder / f"{split}.{condition}/scores.json", note)

    found = []
    try:
        for more in score(args, split, ranks.share(jobs)):
            found += more
    except BaseException:
        if ranks.first():
            keep(found)
        raise
    found = [row for share in ranks.gather(found) for row in share]
    if not ranks.first():
        return []
    keep(found)
    return [row for condition in asked for row in rows[condition]]


def _read(kept, wanted):
    """The rows in file `kept`, none where they answer to something else than `wanted`."""
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    return old["rows"] if old.get("asked") == wanted else []


def _jobs(args, mixtures, rows, names):
    """`[(mixture's number, {condition: names of its metrics})]` of what is not among the `rows` of the conditions."""
    chosen = spread(range(len(mixtures)), args.max_mixtures)
    heard = set(spread(chosen, args.dnsmos)) if "dnsmos" in names else set()  # what takes longest may be of some alone
    done = {condition: {row["utt"] for row in found} for condition, found in rows.items()}
    jobs = []
    for index in chosen:
        mine = [name for name in names if name != "dnsmos" or index in heard]
        by_condition = {c: mine for c in rows if c != REFERENCE and mixtures[index] not in done[c]}
        if index in heard and mixtures[index] not in done[REFERENCE]:
            by_condition[REFERENCE] = ["dnsmos"]
        if by_condition:
            jobs.append((index, by_condition))
    return jobs


def _stamp(path):
    """Changes when the file does; None for a condition that needs no file."""
    return f"{path.stat().st_size}:{path.stat().st_mtime_ns}" if path.is_file() else None


def score(args, split, jobs):
    """Yields the rows of each of `jobs`, as they are done."""
    if not jobs:
        return
    names = {name for _, by_condition in jobs for found in by_condition.values() for name in found}
    separated, conditions = args.exp / "separated", {c for _, by_condition in jobs for c in by_condition}
    placed = {condition: in_order(separated / f"{split}.{condition}", args.order) for condition in conditions}
    start = (separated, split, args.data / split, names, args.order, placed)
    bar = {"desc": f"score {split}, {len(conditions)} conditions", "total": len(jobs)}
    yield from (rows for _, rows in progress(in_processes(_score, jobs, args.nj, _start_worker, start), **bar))


# of this process: scorer, dataset, folder of the estimates, name of the split, which conditions are in order
_work = None


def _start_worker(separated, split, data, names, order, placed):
    global _work
    from pscodec.data.mixture import MixtureDataset

    _work = SeparationScorer(names, search(order)), MixtureDataset(data), separated, split, placed


def _score(job):
    """The rows of one mixture: its own scores, which all others are compared with, are found once."""
    index, by_condition = job
    scorer, dataset, separated, split, placed = _work
    item, rate, floors, rows = dataset[index], dataset.sample_rate, {}, []
    mix, refs = item["mix"][0].double().numpy(), item["sources"].double().numpy()
    for condition, names in by_condition.items():
        hyps = None
        if condition != MIXTURE:
            hyps = _estimates(separated / f"{split}.{condition}", condition, item, rate).double().numpy()
        scores, failures = scorer(mix, refs, hyps, rate, placed[condition], names, floors)
        row = {"split": split, "condition": condition, "utt": item["utt"], "seconds": item["length"] / rate}
        rows.append({**row, **scores, "failures": failures})
    return rows


def _estimates(folder, condition, item, rate):
    """`[S, L]`. Raises UserError where they are of another length than the sources."""
    from pscodec.data.audio import load_audio

    refs = item["sources"]
    if condition == REFERENCE:
        return refs
    hyps = torch.cat([load_audio(folder / f"{item['utt']}.s{s}.wav", rate)[0] for s in range(1, len(refs) + 1)])
    if hyps.shape != refs.shape:
        raise UserError(
            f"{folder}: {item['utt']} has {hyps.shape[1]} samples, its sources {refs.shape[1]}; run stage 5"
        )
    return hyps


def write_rows(path, rows, names):
    """One row a mixture and condition; `nan` where a metric is undefined, `-` where it was not asked for."""
    header = [*KEYS, *columns(names)]
    lines = ["\t".join(header)]
    for row in rows:
        cells = [row[c] if c in row else ("nan" if c in row["failures"] else "-") for c in header]
        lines.append("\t".join(f"{c:.6g}" if isinstance(c, float) else str(c) for c in cells))
    write_text(path, "\n".join(lines) + "\n")


def summarise(rows, names):
    """`{split: {condition: {"mixtures": n, column: {mean, ci95, n, failed}}}}`."""
    summary = {}
    for row in rows:
        summary.setdefault(row["split"], {}).setdefault(row["condition"], []).append(row)
    for groups in summary.values():
        for condition, group in groups.items():
            entry = groups[condition] = {"mixtures": len(group)}
            for column in columns(names):
                values = [row[column] for row in group if column in row]
                failed = sum(column in row["failures"] for row in group)
                if values or failed:
                    entry[column] = {**mean_ci(values), "failed": failed}
    return summary


def print_summary(summary, names):
    """A table a split: a line a condition, means with the half width of the 95 % interval."""
    print(f"scores at {summary['sample_rate']} Hz, PESQ {summary['pesq']}")
    for split, entries in summary["splits"].items():
        shown = [c for c in columns(names) if any(c in entry for entry in entries.values())]
        table = [[split, "n", *shown]]
        for condition, entry in entries.items():
            n = entry["mixtures"]
            table.append([condition, str(n), *(format_mean(entry.get(c), n) for c in shown)])
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        for first, *rest in table:
            print("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]))


if __name__ == "__main__":
    main()
