#!/usr/bin/env python3
"""Codecs of this project beside Codec2 and Opus, on the same recordings, all bitrates from bytes.

  apt-get install codec2 opus-tools
  python tools/bench/anchors.py --data DIR [--exp EXP ...] [--n-q 1 2] [--max-utts N]

`pscodec score DIR --codec ...` at 16 kHz, printed in Markdown: the mean over utterances and its 95 % interval. DIR is a
data dir (wav.scp ...), or a folder of recordings.
"""

import argparse
import tempfile
from pathlib import Path

from pscodec.commands import score
from pscodec.metrics.summary import format_mean
from pscodec.utils.errors import one_line_errors

METRICS = {"pesq": "PESQ", "stoi": "STOI", "visqol": "ViSQOL"}
ANCHORS = ("codec2:700C", "codec2:3200", "opus:6")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data dir")
    parser.add_argument("--exp", nargs="*", default=[], help="experiments, or released codecs by name")
    parser.add_argument("--n-q", type=int, nargs="+", default=[], help="for each of them (default: all)")
    parser.add_argument("--max-utts", type=int, help="so many utterances, spread evenly")
    args = parser.parse_args(argv)
    ours = [f"{exp}:{n}" for exp in args.exp for n in args.n_q] if args.n_q else args.exp
    words = [args.data, "--codec", *ANCHORS, *ours, "--sample-rate", "16000", "--metrics", " ".join(METRICS)]
    words += ["--max-files", str(args.max_utts)] if args.max_utts else []
    options = argparse.ArgumentParser()
    score.add_arguments(options)
    with tempfile.TemporaryDirectory() as folder:
        found = score.score(options.parse_args(words), Path(folder))
    systems = found["systems"]
    n = systems[ANCHORS[0]]["utterances"]
    print(f"{args.data}: {n} utterances, {found['minutes']:.1f} min, scored at {found['sample_rate']} Hz")
    print("| codec | kbit/s | " + " | ".join(METRICS.values()) + " |\n|---|--:|" + "--:|" * len(METRICS))
    for name, entry in systems.items():
        cells = [f"{entry['bitrate_total']['pooled'] / 1000:.2f}", *(format_mean(entry[metric]) for metric in METRICS)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
