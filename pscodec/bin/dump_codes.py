"""The codes of data dirs, for those who model speech as language.

    python -m pscodec.bin.dump_codes --exp exp/pscodec_base --data-dir data/train --out codes/train

Writes OUT/codes.scp, a line `utt path` for every utterance, and OUT/npz/UTT.npz with `codes` (integers `[K, T]`, the
smallest type that holds them) and `n_samples` (at the codec's rate); beside them, by name, what a codec sends of each
recording itself, but nothing of a prompt. OUT/codec.json says which codec they are of. `--n-q` codes with fewer
codebooks, where training has left that open. A file an utterance, so that a stopped run goes on where it was, and
loaders read what they need:

    codes = numpy.load(path)["codes"]

Codes of several groups stand group by group, in each its layers one after another, as in `.psc` files; `--order layer`
writes them layer by layer, as HifiCodec's public code does, and says so in codec.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from pscodec.data.audio import load_audio
from pscodec.data.kaldi import read_data_dir, read_table, write_table
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import atomic_path, write_text
from pscodec.utils.progress import progress


def dump(coder, folder, out, allow_pipes=False, order="group"):
    """Code data dir `folder` into `out`; returns `{utt: reason}` of those that could not be read.

    `order` (group | layer): of the rows of codes. Raises UserError if `out` has codes of another codec, or if no
    utterance at all could be read.
    """
    m, note = coder.model, out / "codec.json"
    what = {"model": coder.name, "fingerprint": coder.fingerprint.hex(), "sample_rate": m.sample_rate}
    what |= {"hop_length": m.hop_length, "n_q": m.n_q, "codebook_size": m.codebook_size}
    what |= {"groups": m.quantizer.n_groups, "n_q_trained": m.quantizer.n_q_trained, "order": order}
    known = {"order": "group"} | json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if any(known[key] != value for key, value in what.items() if key in known):  # older notes have fewer
        raise UserError(f"{out}: has codes of another codec; move them away")
    write_text(note, json.dumps(what, indent=1) + "\n")
    places, failed = {}, {}
    for utt, u in progress(read_data_dir(folder, allow_pipes).items(), f"codes of {folder}"):
        path = out / "npz" / f"{utt}.npz"
        try:
            if not path.exists():
                wav, rate = load_audio(u.path, None, u.start, u.end, m.channels)
                stream = coder.encode(wav, rate, None)
                codes = stream.codes if order == "group" else by_layer(stream.codes, m.quantizer)
                codes = codes.astype(np.min_scalar_type(m.codebook_size - 1))
                with atomic_path(path) as partial:
                    np.savez(partial, codes=codes, n_samples=stream.n_samples, **_own_side(stream.header))
            places[utt] = str(path)
        except UserError as error:
            failed[utt] = str(error)
    if not places:
        why = next(iter(failed.values()), "it has none")
        raise UserError(f"{folder}: no utterance could be coded ({why})")
    write_table(out / "codes.scp", places)
    return failed


def by_layer(codes, quantizer):
    """Codes `[K, T]` as `quantizer` gives them, group by group -> the first layer of every group, the second ..."""
    return codes.reshape(quantizer.n_groups, -1, codes.shape[1]).swapaxes(0, 1).reshape(codes.shape)


def _own_side(header):
    """What a recording itself is sent with (of a prompt nothing is), name -> numbers or tokens."""
    return {name: sent.numbers() for name, sent in header.side.items()}


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder")
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder, data/train ...")
    parser.add_argument("--out", type=Path, required=True, help="folder for codes.scp and npz/")
    parser.add_argument("--n-q", type=int, help="code with so many, where training has left that open")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--order", choices=("group", "layer"), default="group", help="of the rows of codes (group)")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    coder = load_codec(args.exp, args.checkpoint, args.device, n_q=args.n_q)
    failed = dump(coder, args.data_dir, args.out, args.allow_pipes, args.order)
    for utt, reason in failed.items():
        print(f"left out: {utt}: {reason}")
    print(f"{args.out / 'codes.scp'}: {len(read_table(args.out / 'codes.scp'))} utterances, {len(failed)} left out")


if __name__ == "__main__":
    main()
