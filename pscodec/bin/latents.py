"""Figure 7 of the PSCodec paper: how alike the encoded features are, with and without DRL.

    python -m pscodec.bin.latents --exp exp/with exp/without --data data --split test --out exp/figure7

Computes eq. (3), SSIM(Z_i, Z_j), for each pair of z_q, z_vp and z_mel of every utterance of the split, with its normal
prompt and its whole length. Writes OUT.tsv (a row an utterance), OUT.md (means with 95 % intervals) and
OUT.light.png, OUT.dark.png. Lower is less redundant; below zero the features are opposed, which is no independence.
"""

import argparse
from itertools import combinations
from pathlib import Path

import torch

from pscodec.data.audio import load_audio
from pscodec.data.prompts import Prompts
from pscodec.inference import load_codec
from pscodec.losses.disentangle import ssim
from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.utils import plot
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

LATENTS = ("z_q", "z_vp", "z_mel")
PAIRS = {f"{a}_{b}": (a, b) for a, b in combinations(LATENTS, 2)}  # columns


@torch.inference_mode()
def latents(coder, wav, sample_rate, prompt):
    """`z_q` `[1, D, T]`, and `z_vp`, `z_mel` `[1, D, 1]` where the codec has them, of `wav` `[1, L]`."""
    model = coder.model
    stream = coder.encode(wav, sample_rate, None)
    z_q = model.quantizer.decode(torch.from_numpy(stream.codes)[None].to(coder.device))
    return {"z_q": z_q, **model.side(prompt.to(coder.device))}


def similarities(found):
    """SSIM (the paper's c1 and c2) of each pair in `PAIRS` whose two latents are in `found`."""
    return {name: ssim(found[a], found[b]).item() for name, (a, b) in PAIRS.items() if a in found and b in found}


def measure(exp, folder, checkpoint, allow_pipes, device):
    """`{utt: {pair: SSIM}}` of one experiment. Raises UserError for a codec without prompts."""
    coder = load_codec(exp, checkpoint, device)
    if not coder.model.takes_prompt:
        raise UserError(f"{exp}: this codec has no prompt features to compare")
    prompts, scores = Prompts(folder, coder.model.sees, coder.prompt, allow_pipes), {}
    for utt, u in progress(prompts.utterances.items(), f"latents of {exp.name}"):
        if prompts.source(utt) is None:
            print(f"left out: {utt}: its prompt has no features")
            continue
        wav, rate = load_audio(u.path, None, u.start, u.end)
        scores[utt] = similarities(latents(coder, wav, rate, prompts.of(utt)))
    if not any(scores.values()):
        raise UserError(f"{exp}: no two features to compare in {folder}")
    return scores


def write(out, found):
    """The table of utterances, the means, and the figure in its two themes."""
    lines = ["\t".join(("exp", "utt", *PAIRS))]
    for name, scores in found.items():
        for utt, row in scores.items():
            lines.append("\t".join((name, utt, *(f"{row[p]:.6f}" if p in row else "-" for p in PAIRS))))
    write_text(out.with_name(f"{out.name}.tsv"), "\n".join(lines) + "\n")
    means = {
        name: {pair: mean_ci([row[pair] for row in scores.values() if pair in row]) for pair in PAIRS}
        for name, scores in found.items()
    }
    titles = {pair: f"SSIM({a}, {b})" for pair, (a, b) in PAIRS.items()}
    table = ["| | n | " + " | ".join(titles.values()) + " |", "|---|--:|" + "--:|" * len(PAIRS)]
    for name, row in means.items():
        table.append(f"| {name} | {len(found[name])} | " + " | ".join(map(format_mean, row.values())) + " |")
    write_text(out.with_name(f"{out.name}.md"), "\n".join(table) + "\n")
    panel = {
        titles[pair]: {name: (row[pair]["mean"], row[pair]["ci95"]) for name, row in means.items() if row[pair]["n"]}
        for pair in PAIRS
    }
    for theme in plot.THEMES:
        plot.intervals(out.with_name(f"{out.name}.{theme}.png"), {"SSIM, eq. (3)": panel}, theme, bars=True)
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
