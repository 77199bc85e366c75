#!/usr/bin/env python3
"""How much a codec buzzes at the rate of its frames, beside the recordings.

  python tools/bench/buzz.py --data DIR --codec pscodec_small_24k:2 opus:6 [--above 3000 6000] [--max-utts N]

The envelope of what lies above a frequency has a line at `--rate` Hz where every frame begins alike. Printed in
Markdown, means over utterances and their 95 % intervals: by how many dB that line (its highest bin within 1 Hz) stands
above the median of its neighbours (3 to 12 Hz away). What does not buzz has some dB, too, for a maximum is taken.
Codecs as in `pscodec score`.
"""

import argparse

import numpy as np

from pscodec.coders import open_coder
from pscodec.data.audio import load_audio
from pscodec.data.kaldi import read_data_dir
from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.scoring import spread
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress

NEAR, AROUND = 1.0, (3.0, 12.0)  # Hz


def line(wav, sample_rate, rate, above):
    """`wav` `[L]`: dB by which the line at `rate` of the envelope above `above` (both Hz) leads its neighbours."""
    spectrum = np.fft.rfft(wav)
    spectrum[np.fft.rfftfreq(len(wav), 1 / sample_rate) < above] = 0
    envelope = np.abs(np.fft.irfft(spectrum, len(wav)))
    levels = np.abs(np.fft.rfft(envelope - envelope.mean()))
    distance = np.abs(np.fft.rfftfreq(len(wav), 1 / sample_rate) - rate)
    around = levels[(distance > AROUND[0]) & (distance < AROUND[1])]
    return 20 * np.log10(levels[distance < NEAR].max() / np.median(around))


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data dir")
    parser.add_argument("--codec", nargs="+", required=True, help="as in pscodec score")
    parser.add_argument("--rate", type=float, default=75.0, help="frames a second (%(default)s)")
    parser.add_argument("--above", type=float, nargs="+", default=[3000.0, 6000.0], help="Hz (%(default)s)")
    parser.add_argument("--max-utts", type=int, help="so many utterances, spread evenly")
    args = parser.parse_args(argv)
    codecs = {name: open_coder(name) for name in args.codec}
    utterances = spread(read_data_dir(args.data).values(), args.max_utts)
    found = {name: {above: [] for above in args.above} for name in ("recordings", *codecs)}
    for u in progress(utterances, "utterances"):
        wav, rate = load_audio(u.path, None, u.start, u.end)
        if rate <= 2 * max(args.above):
            raise UserError(f"{u.path}: nothing above {max(args.above):g} Hz at {rate} Hz")
        decoded = {name: codec(wav, rate)[:2] for name, codec in codecs.items()}
        for name, (signal, its_rate) in {"recordings": (wav, rate), **decoded}.items():
            for above in args.above:
                if its_rate > 2 * above:
                    found[name][above].append(line(np.asarray(signal)[0], its_rate, args.rate, above))
    print(f"{args.data}: {len(utterances)} utterances, the line at {args.rate:g} Hz, dB above its neighbours")
    print("| | " + " | ".join(f"above {above:g} Hz" for above in args.above) + " |\n|---|" + "--:|" * len(args.above))
    for name, levels in found.items():
        print(f"| {name} | " + " | ".join(format_mean(mean_ci(levels[above])) for above in args.above) + " |")


if __name__ == "__main__":
    main()
