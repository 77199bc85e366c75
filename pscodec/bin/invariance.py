"""Figure 2 of the TiCodec paper: whether the parts of an utterance have one time-invariant code.

    python -m pscodec.bin.invariance --exp exp/ticodec exp/ticodec_consistency --split test --out exp/figure2

Takes m, and its tokens, of every utterance of the split, of its first and of its last half. Writes OUT.tsv (a row an
utterance: cosines of the m of two parts, shares of tokens that they have in common), OUT.md (means with 95 % intervals)
and OUT.light.png, OUT.dark.png.
"""

import argparse
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F

from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.inference import load_codec
from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.utils import plot
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

PAIRS = list(combinations(("whole", "first", "last"), 2))
MEASURES = ("cosine", "tokens")
COLUMNS = [f"{measure}_{a}_{b}" for measure in MEASURES for a, b in PAIRS]


@torch.inference_mode()
def agreement(codec, wav):
    """`{column: number}` of an utterance `wav` `[1, 1, L]` at the codec's rate."""
    half = wav.shape[2] // 2
    parts = {"whole": wav, "first": wav[:, :, :half], "last": wav[:, :, half:]}
    m = {name: codec.tire(codec.encoder.tap(codec.pad(part))) for name, part in parts.items()}
    tokens = {name: codec.group_quantizer(vector).codes for name, vector in m.items()}
    row = {f"cosine_{a}_{b}": F.cosine_similarity(m[a], m[b], dim=1).item() for a, b in PAIRS}
    return row | {f"tokens_{a}_{b}": (tokens[a] == tokens[b]).float().mean().item() for a, b in PAIRS}


def measure(exp, folder, checkpoint, allow_pipes, device):
    """`{utt: row}` of one experiment. Raises UserError for a codec without time-invariant codes."""
    coder = load_codec(exp, checkpoint, device, precision=None)
    if not hasattr(coder.model, "tire"):
        raise UserError(f"{exp}: this codec has no time-invariant code")
    rows = {}
    for utt, u in progress(read_data_dir(folder, allow_pipes).items(), f"parts of {folder}"):
        wav, rate = load_audio(u.path, None, u.start, u.end)
        rows[utt] = agreement(coder.model, resample(wav, rate, coder.model.sample_rate)[None].to(coder.device))
    return rows


def write(out, found):
    """The table of utterances, the means, and the figure in its two themes."""
    lines = ["\t".join(("exp", "utt", *COLUMNS))]
    for name, rows in found.items():
        lines += ["\t".join((name, utt, *(f"{row[c]:.6f}" for c in COLUMNS))) for utt, row in rows.items()]
    write_text(out.with_name(f"{out.name}.tsv"), "\n".join(lines) + "\n")
    means = {name: {c: mean_ci([row[c] for row in rows.values()]) for c in COLUMNS} for name, rows in found.items()}
    table = ["| | n | " + " | ".join(COLUMNS) + " |", "|---|--:|" + "--:|" * len(COLUMNS)]
    for name, row in means.items():
        table.append(f"| {name} | {len(found[name])} | " + " | ".join(map(format_mean, row.values())) + " |")
    write_text(out.with_name(f"{out.name}.md"), "\n".join(table) + "\n")
    panels = {}
    for kind, title in zip(MEASURES, ("cosine of m", "share of equal tokens"), strict=True):
        points = {pair: {name: row[f"{kind}_{'_'.join(pair)}"] for name, row in means.items()} for pair in PAIRS}
        panels[title] = {
            " and ".join(pair): {name: (point["mean"], point["ci95"]) for name, point in line.items()}
            for pair, line in points.items()
        }
    for theme in plot.THEMES:
        plot.intervals(out.with_name(f"{out.name}.{theme}.png"), panels, theme, bars=True)
    print("\n".join(table))


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    folder = args.data / args.split
    found = {e.name: measure(e, folder, args.checkpoint, args.allow_pipes, args.device) for e in args.exp}
    write(args.out, found)
    print(f"wrote {args.out}.tsv, {args.out}.md, {args.out}.light.png and {args.out}.dark.png")


if __name__ == "__main__":
    main()
