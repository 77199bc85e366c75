#!/usr/bin/env python3
"""Codecs of this project beside Codec2 and Opus, on the same recordings, all bitrates from bytes.

  apt-get install codec2 opus-tools
  python tools/bench/anchors.py --data DIR [--exp EXP ...] [--n-q 1 2] [--max-utts N]

DIR is a data dir (wav.scp ...). Prints a table with the mean over utterances and its 95 % interval. Each decoded signal
is moved by the lag at which its envelope fits the recording's best, for STOI knows nothing of delays. A codec of
this project takes its prompt from the utterance itself, and the bytes of that count.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.signal import correlate

from pscodec.bitstream import write
from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.inference import load_codec
from pscodec.metrics.scorer import Scorer
from pscodec.metrics.summary import mean_ci
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress

RATE = 16000  # of all scores, Hz
METRICS = ("pesq", "stoi", "visqol")
LAG = 0.1  # seconds, the most that a codec may be late


def codec2(mode):
    def code(wav, folder):
        write_raw(folder / "in.raw", resample(wav, RATE, 8000))
        tool("c2enc", mode, folder / "in.raw", folder / "coded.c2")
        tool("c2dec", mode, folder / "coded.c2", folder / "out.raw")
        return resample(read_raw(folder / "out.raw"), 8000, RATE), (folder / "coded.c2").stat().st_size

    return code


def opus(kbps):
    def code(wav, folder):
        write_raw(folder / "in.raw", wav)
        raw = ("--raw", "--raw-rate", RATE, "--raw-chan", 1)
        tool("opusenc", "--quiet", "--speech", "--bitrate", kbps, *raw, folder / "in.raw", folder / "coded.opus")
        tool("opusdec", "--quiet", "--rate", RATE, folder / "coded.opus", folder / "out.raw")
        return read_raw(folder / "out.raw"), (folder / "coded.opus").stat().st_size

    return code


def ours(exp, n_q):
    coder = load_codec(exp, n_q=n_q, precision="auto")

    def code(wav, folder):
        stream = coder.encode(wav, RATE)
        write(folder / "coded.psc", stream)
        return resample(coder.decode(stream), coder.model.sample_rate, RATE), (folder / "coded.psc").stat().st_size

    return f"{coder.name}, {coder.model.n_q} codebook{'s' * (coder.model.n_q > 1)}", code


def tool(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def write_raw(path, wav):
    path.write_bytes((wav[0].numpy() * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())


def read_raw(path):
    return torch.from_numpy(np.frombuffer(path.read_bytes(), "<i2").astype(np.float32) / 32768)[None]


def aligned(ref, hyp):
    """`hyp` `[L']` as long as `ref` `[L]`, moved to where the two envelopes agree best."""
    hyp = np.pad(hyp, (0, max(0, len(ref) - len(hyp))))
    width = RATE // 200  # 5 ms
    envelopes = [np.convolve(np.abs(x), np.ones(width) / width, "same") for x in (ref, hyp)]
    fit = correlate(*(e - e.mean() for e in envelopes[::-1]), method="fft")
    most, zero = round(LAG * RATE), len(ref) - 1
    lag = int(np.argmax(fit[zero - most : zero + most + 1])) - most
    return np.pad(hyp, (max(0, -lag), len(ref)))[max(0, lag) :][: len(ref)]


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data dir")
    parser.add_argument("--exp", nargs="*", default=[], help="experiments, or released codecs by name")
    parser.add_argument("--n-q", type=int, nargs="+", default=[None], help="for each of them (default: all)")
    parser.add_argument("--max-utts", type=int, help="so many utterances, spread evenly")
    args = parser.parse_args(argv)
    systems = {
        "Codec2 700C": codec2("700C"),
        "Codec2 3200": codec2("3200"),
        "Opus 6 kbit/s": opus(6),
        **dict(ours(exp, n) for exp in args.exp for n in args.n_q),
    }
    utterances = list(read_data_dir(args.data).values())
    if args.max_utts and args.max_utts < len(utterances):
        utterances = [utterances[i * len(utterances) // args.max_utts] for i in range(args.max_utts)]
    scorer = Scorer(METRICS)
    values = {name: {metric: [] for metric in METRICS} for name in systems}
    bits, seconds = dict.fromkeys(systems, 0), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for u in progress(utterances, "anchors"):
            wav, _ = load_audio(u.path, RATE, u.start, u.end)
            seconds += wav.shape[-1] / RATE
            for name, code in systems.items():
                decoded, size = code(wav, Path(folder))
                bits[name] += 8 * size
                ref = wav[0].numpy()
                scores, _, _ = scorer(ref, aligned(ref, decoded[0].numpy()).astype(np.float32), RATE)
                for metric, score in scores.items():
                    values[name][metric].append(score)
    print(f"{args.data}: {len(utterances)} utterances, {seconds / 60:.1f} min, scored at {RATE} Hz")
    print("| codec | kbit/s | PESQ | STOI | ViSQOL |\n|---|--:|--:|--:|--:|")
    for name in systems:
        means = [mean_ci(values[name][metric]) for metric in METRICS]
        cells = " | ".join(f"{m['mean']:.3f} ± {m['ci95']:.3f}" for m in means)
        print(f"| {name} | {bits[name] / seconds / 1000:.2f} | {cells} |")


if __name__ == "__main__":
    main()
