"""What sending the speaker's vectors in few bits costs: their error, and the speech decoded with them.

    python tools/bench/side_precision.py --exp EXP --data-dir data/mini/test data/mini/test_unseen --n 24

Every utterance is decoded from the same codes with its prompt's vectors as 32-bit floats and quantized. Printed for
each width: the vectors' signal-to-error ratio, PESQ, STOI and ViSQOL of the one decoding against the other, and by how
much the scores against the recording itself differ.
"""

import argparse
from pathlib import Path

import torch

from pscodec.data.audio import load_audio, resample
from pscodec.data.prompts import Prompts
from pscodec.inference import load_codec
from pscodec.metrics.base import MetricError
from pscodec.metrics.pesq import pesq
from pscodec.metrics.stoi import stoi
from pscodec.metrics.summary import mean_ci
from pscodec.metrics.visqol import Visqol
from pscodec.profile import Vector
from pscodec.utils.errors import one_line_errors
from pscodec.utils.progress import progress


def quantized(side, bits):
    """`side` as it is after one step a vector, `bits` a number; 8 is what is sent."""
    most = 2 ** (bits - 1) - 1
    if bits == 8:
        return {k: torch.from_numpy(Vector.of(z.flatten().numpy()).floats()).view_as(z) for k, z in side.items()}
    return {k: (z / (z.abs().max() / most)).round() * (z.abs().max() / most) for k, z in side.items()}


def decibels(side, coarse):
    error = sum((coarse[k] - z).pow(2).sum() for k, z in side.items())
    return 10 * torch.log10(sum(z.pow(2).sum() for z in side.values()) / error).item()


@torch.inference_mode()
def measure(coder, prompts, utt, bits, metrics):
    """Rows {column: number} of one utterance, one for each of `bits`."""
    u, rate = prompts.utterances[utt], coder.model.sample_rate
    wav, native = load_audio(u.path, None, u.start, u.end)
    wav = resample(wav, native, rate)
    codes, side = coder.model.encode(wav[None]), coder.model.side(prompts.of(utt))
    fine = coder.model.decode(codes, side, wav.shape[-1])[0]
    rows = []
    for b in bits:
        coarse_side = quantized(side, b)
        coarse = coder.model.decode(codes, coarse_side, wav.shape[-1])[0]
        row = {"error, dB": decibels(side, coarse_side)}
        for name, metric in metrics.items():
            row[name] = metric(fine, coarse, rate)
            row[f"{name} difference"] = metric(wav, coarse, rate) - metric(wav, fine, rate)
        rows.append(row)
    return rows


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder")
    parser.add_argument("--data-dir", type=Path, nargs="+", required=True, help="data folders with features")
    parser.add_argument("--n", type=int, default=24, help="utterances, evenly taken from the folders")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4])
    args = parser.parse_args(argv)

    coder, rows = load_codec(args.exp), []
    metrics = {"pesq": pesq, "stoi": stoi, "visqol": Visqol()}
    chosen = []
    for folder in args.data_dir:
        prompts, n = Prompts(folder, coder.model.sees, coder.prompt), -(-args.n // len(args.data_dir))
        utts = [utt for utt in prompts.utterances if prompts.source(utt)]
        chosen += [(prompts, utt) for utt in utts[:: max(1, len(utts) // n)][:n]]
    for prompts, utt in progress(chosen, "measure"):
        try:
            rows.append(measure(coder, prompts, utt, args.bits, metrics))
        except MetricError as error:
            print(f"left out: {utt}: {error}")
    print(f"{len(rows)} utterances, mean and 95 % interval, worst")
    for i, bits in enumerate(args.bits):
        for name in rows[0][i]:
            values = [row[i][name] for row in rows]
            mean = mean_ci(values)
            print(f"{bits} bits\t{name}\t{mean['mean']:.4f} ± {mean['ci95']:.4f}\t{min(values):.4f}")


if __name__ == "__main__":
    main()
