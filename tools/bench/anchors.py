#!/usr/bin/env python3
"""Codecs of this project beside Codec2, Lyra and Opus (NoLACE, too), on the same recordings, all bitrates from bytes.

  apt-get install codec2 opus-tools
  python tools/bench/anchors.py --data DIR [--exp EXP ...] [--n-q 1 2] [--search 0 10] [--max-utts N] [--by-speaker]

`pscodec score DIR --codec ...` at 16 kHz, printed in Markdown: the mean over utterances and its 95 % interval; then
what each of ours has more or less than each of the others, utterance by utterance. DIR is a data dir (wav.scp ...), or
a folder of recordings. What is not at hand of the others has a row of `-`. With --by-speaker what is averaged, and
compared, are speakers' means, for utterances of one speaker are alike.
"""

import argparse
import tempfile
from pathlib import Path

from pscodec.coders import open_coder
from pscodec.commands import score
from pscodec.metrics.summary import format_mean, mean_ci, read_scores
from pscodec.utils.errors import UserError, one_line_errors

METRICS = {"pesq": "PESQ", "stoi": "STOI", "visqol": "ViSQOL"}
ANCHORS = ("codec2:700C", "codec2:3200", "lyra:3.2", "opus:6", "nolace:6")


def at_hand():
    """Those of ANCHORS that can be run here; why not is said of the others."""
    found = []
    for name in ANCHORS:
        try:
            open_coder(name)
            found.append(name)
        except UserError as error:
            print(f"{name} is left out: {error}")
    return found


def by_speaker(rows):
    """Each speaker's mean in each system as one row, in the place of those of his utterances."""
    found = {}
    for row in rows:
        found.setdefault((row["condition"], row["spk"]), []).append(row)
    return [
        {"condition": condition, "utt": spk, **{metric: mean_ci(known(group, metric))["mean"] for metric in METRICS}}
        for (condition, spk), group in found.items()
    ]


def known(rows, metric):
    return [row[metric] for row in rows if row.get(metric) is not None]


def differences(rows, ours, other):
    """What system `ours` has more than `other`, a row: means over `rows`, a star where 0 is out of the interval."""
    by_system = {}
    for row in rows:
        by_system.setdefault(row["condition"], {})[row["utt"]] = row
    cells = []
    for metric in METRICS:
        pairs = [(by_system[ours][utt].get(metric), row.get(metric)) for utt, row in by_system[other].items()]
        found = mean_ci([a - b for a, b in pairs if a is not None and b is not None])
        sure = found["n"] > 1 and abs(found["mean"]) > found["ci95"]
        sign = "+" if found["n"] and found["mean"] >= 0 else ""
        cells.append(f"{sign}{format_mean(found)}{' *' if sure else ''}")
    return f"| {ours} less {other} | " + " | ".join(cells) + " |"


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data dir")
    parser.add_argument("--exp", nargs="*", default=[], help="experiments, or released codecs by name")
    parser.add_argument("--n-q", type=int, nargs="+", default=[], help="for each of them (default: all)")
    parser.add_argument("--search", type=int, nargs="+", default=[0], help="steps of a search for codes (%(default)s)")
    parser.add_argument("--max-utts", type=int, help="so many utterances, spread evenly")
    parser.add_argument("--by-speaker", action="store_true", help="means over speakers, of a data dir that names them")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    args = parser.parse_args(argv)
    ours = [f"{exp}:{n}" for exp in args.exp for n in args.n_q] if args.n_q else args.exp
    ours = [f"{name}+{steps}" if steps else name for name in ours for steps in args.search]
    others = at_hand()
    if not [*others, *ours]:
        raise UserError("nothing to score: none of the others is at hand, and no --exp is named")
    words = [args.data, "--codec", *others, *ours, "--sample-rate", "16000", "--jobs", str(args.jobs)]
    words += ["--metrics", " ".join(METRICS)]
    words += ["--max-files", str(args.max_utts)] if args.max_utts else []
    options = argparse.ArgumentParser()
    score.add_arguments(options)
    with tempfile.TemporaryDirectory() as folder:
        found = score.score(options.parse_args([*words, "--out", folder]), Path(folder))
        rows = read_scores(Path(folder) / "scores.tsv")
    if args.by_speaker:
        if not all(row.get("spk") for row in rows):
            raise UserError(f"{args.data}: names no speakers (utt2spk)")
        rows = by_speaker(rows)
    what = f", {len({row['utt'] for row in rows})} speakers" if args.by_speaker else ""
    systems = found["systems"]
    n = systems[[*others, *ours][0]]["utterances"]
    head = " | ".join(METRICS.values()) + " |\n|---|"
    print(f"{args.data}: {n} utterances{what}, {found['minutes']:.1f} min, scored at {found['sample_rate']} Hz")
    print(f"| codec | kbit/s | {head}--:|" + "--:|" * len(METRICS))
    for name in [*ANCHORS, *ours]:
        cells = ["-"] * (1 + len(METRICS))
        if name in systems:
            entry, own = systems[name], [row for row in rows if row["condition"] == name]
            cells = [
                f"{entry['bitrate_total']['pooled'] / 1000:.2f}",
                *(format_mean(mean_ci(known(own, metric))) for metric in METRICS),
            ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if ours and others:
        pairs = "speaker by speaker" if args.by_speaker else "utterance by utterance"
        print(f"\n{pairs}; *: 0 is not in the 95 % interval\n| | {head}" + "--:|" * len(METRICS))
        for name in ours:
            for other in others:
                print(differences(rows, name, other))


if __name__ == "__main__":
    main()
