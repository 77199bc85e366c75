"""Learn in how few bits a prompt can be sent: codebooks of a trained codec's side information, beside its weights.

    python -m pscodec.bin.learn_side --exp exp/pscodec_frames_mini --data-dir data/mini/train

Writes EXP/side.safetensors (pscodec/side_tokens.py), which `pscodec encode` uses from then on: `.psc` files written
before are read as ever, those written with it need it. Tells how much of the vectors' variance is lost in tokens, and
in the 8-bit numbers that they replace, on the utterances of --held-out, which should be of other speakers.
"""

import argparse
from pathlib import Path

import numpy as np

from pscodec import released
from pscodec.data.prompts import Prompts
from pscodec.inference import load_codec
from pscodec.profile import Vector
from pscodec.side_tokens import FILE, Codebook, SideTokens
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress


def vectors(coder, folder, most, allow_pipes):
    """What `coder` sends of utterances of a data dir, speakers taking turns, `most` of them: name -> `[N, D]`."""
    prompts, found = Prompts(folder, coder.model.sees, coder.prompt, allow_pipes), {}
    there = [u for u in prompts.utterances.values() if prompts.source(u.utt, "own_prompt")]
    for u in progress(turns(there)[:most], f"prompts of {folder}"):
        for name, z in coder.sent(prompts.of(u.utt, "own_prompt")).items():
            found.setdefault(name, []).append(z.numpy())
    return {name: np.stack(rows) for name, rows in found.items()}


def turns(utterances):
    """The utterances, speakers taking turns."""
    seen, order = {}, []
    for u in utterances:
        seen[u.spk] = seen.get(u.spk, 0) + 1
        order.append((seen[u.spk], u))
    return [u for _, u in sorted(order, key=lambda turn: turn[0])]


def lost(rows, restored, mean):
    """The share of the variance of `rows` `[N, D]` that `restored` lacks."""
    return ((rows - restored) ** 2).sum() / ((rows - mean) ** 2).sum()


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="the codec: an experiment, or a released one's name")
    parser.add_argument("--data-dir", type=Path, required=True, help="utterances to learn from")
    parser.add_argument("--held-out", type=Path, help="utterances to tell the loss on")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--numbers", type=int, default=24, help="tokens a vector (24)")
    parser.add_argument("--bits", type=int, default=4, help="of each (4)")
    parser.add_argument("--max-utts", type=int, default=3000, help="utterances at most, speakers taking turns (3000)")
    parser.add_argument("--allow-pipes", action="store_true", help="accept commands in wav.scp")
    args = parser.parse_args(argv)
    coder = load_codec(args.exp, args.checkpoint)
    if not coder.model.takes_prompt or any(coder.model.side_sizes.values()):
        raise UserError(f"{args.exp}: this codec sends no vectors of a prompt")
    rows = vectors(coder, args.data_dir, args.max_utts, args.allow_pipes)
    try:
        books = {name: Codebook.fit(x, args.numbers, 2**args.bits) for name, x in rows.items()}
    except ValueError as error:
        raise UserError(f"{args.data_dir}: {error}") from None
    path = released.folder(args.exp) / FILE
    SideTokens(books).save(path)
    n = len(next(iter(rows.values())))
    print(
        f"{path}: learned from {n} utterances, {args.numbers} tokens of {args.bits} bit for each of {', '.join(books)}"
    )
    shown = vectors(coder, args.held_out, args.max_utts, args.allow_pipes) if args.held_out else rows
    for name, x in shown.items():
        book = books[name]
        told = lost(x, np.stack([book.vector(book.tokens(z)) for z in x]), book.mean)
        plain = lost(x, np.stack([Vector.of(z).floats() for z in x]), book.mean)
        print(f"  {name}: of the variance of {len(x)} utterances {told:.2%} are lost, in 8-bit numbers {plain:.2%}")


if __name__ == "__main__":
    main()
