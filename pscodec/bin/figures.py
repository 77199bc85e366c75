"""What programs that draw a figure of the paper from experiments have in common: options, tables, means, pictures."""

import argparse
from pathlib import Path

import torch

from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.utils import plot
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text


def compare(about, argv, measure, columns, panels):
    """Measure every utterance of a split with each experiment that the command line names, and write what comes out.

    `about`: the program's docstring. `measure(exp, folder, checkpoint, allow_pipes, device)` gives `{utt: {column:
    number}}`, `columns` the title of each column, and `panels` what utils.plot.intervals draws of `{experiment:
    {column: mean_ci}}`. OUT.tsv has a row an utterance, OUT.md the means, OUT.light.png and OUT.dark.png the figure.
    """
    args = parse(about, argv)
    folder = args.data / args.split
    found = {e.name: measure(e, folder, args.checkpoint, args.allow_pipes, args.device) for e in args.exp}
    means = {
        name: {c: mean_ci([row[c] for row in rows.values() if c in row]) for c in columns}
        for name, rows in found.items()
    }
    lines = ["\t".join(("exp", "utt", *columns))]
    for name, rows in found.items():
        for utt, row in rows.items():
            lines.append("\t".join((name, utt, *(f"{row[c]:.6f}" if c in row else "-" for c in columns))))
    write_text(args.out.with_name(f"{args.out.name}.tsv"), "\n".join(lines) + "\n")
    table = ["| | n | " + " | ".join(columns.values()) + " |", "|---|--:|" + "--:|" * len(columns)]
    for name, row in means.items():
        n = len(found[name])
        table.append(f"| {name} | {n} | " + " | ".join(format_mean(entry, n) for entry in row.values()) + " |")
    write_text(args.out.with_name(f"{args.out.name}.md"), "\n".join(table) + "\n")
    for theme in plot.THEMES:
        plot.intervals(args.out.with_name(f"{args.out.name}.{theme}.png"), panels(means), theme, bars=True)
    print("\n".join(table))
    print(f"wrote {args.out}.tsv, {args.out}.md, {args.out}.light.png and {args.out}.dark.png")


def parse(about, argv):
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, nargs="+", required=True, help="experiments to compare")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--split", default="test", help="data dir to measure on (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="stem of the files to write")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    names = [exp.name for exp in args.exp]
    if len(set(names)) < len(names):
        raise UserError(f"two experiments of one name: {' '.join(names)}")
    return args
