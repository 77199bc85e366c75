"""Which frames speak which unit of a text: durations, for models that are told (stage 2 of speech synthesis).

    python -m pscodec.bin.align --exp exp/aligner --data-dir data/train --codes codes/train --out durations/train

OUT has a line `utt frames frames ...` an utterance, a number for each unit of its text. The aligner is what train.py
makes of conf/aligner.yaml.
"""

import argparse
from pathlib import Path

from pscodec.data.kaldi import write_table
from pscodec.data.spoken import SpokenDataset
from pscodec.data.text import Units
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.hparams import build_only
from pscodec.utils.progress import progress
from pscodec.utils.weights import load_weights


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder of an aligner")
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder with a file `text`")
    parser.add_argument("--codes", type=Path, required=True, help="folder of its codes")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    args = parser.parse_args(argv)
    aligner = build_only((args.exp / "hyperparams.yaml").read_text(encoding="utf-8"), "valle")
    load_weights(args.exp, {"valle": aligner})
    aligner.eval()
    data = SpokenDataset(args.data_dir, args.codes, Units.load(args.exp / "units"), longest=float("inf"))
    found, left_out = {}, []
    for i in progress(range(len(data)), f"align {args.data_dir}"):
        item = data[0, i]
        durations = aligner.durations(item["text"].tolist(), item["codes"][: aligner.books])
        if durations is None:
            left_out.append(data.utterances[i].utt)
        else:
            found[data.utterances[i].utt] = " ".join(map(str, durations))
    if not found:
        raise UserError(f"{args.data_dir}: no text could be aligned with its codes")
    write_table(args.out, found)
    print(f"{args.out}: {len(found)} utterances; {len(left_out)} left out, whose texts are too long for them")


if __name__ == "__main__":
    main()
