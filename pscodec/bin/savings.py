"""What entropy coding saves: the codes of `.psc` files, plain and coded, in packets of several lengths.

    python -m pscodec.bin.savings --exp exp/encodec_mini --psc exp/encodec_mini/decode/test/psc

`--entropy` names the language model (auto: the experiment's own), `--packets` the seconds. Every file is packed anew in
memory with and without it, so that container and side information count, and read back; codes that differ end the
program. `--max-files` takes so many, evenly. Writes a row for each file and length to --out (PSC/../entropy.tsv): bytes
of codes and of the whole file.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pscodec import bitstream
from pscodec.inference import load_codec
from pscodec.metrics.summary import mean_ci
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

COLUMNS = ("utt", "packet", "seconds", "plain_codes", "coded_codes", "plain_total", "coded_total")


def savings(coder, paths, packet):
    """Rows (COLUMNS) of files `paths` in packets of so many seconds, and what CPU time coding and decoding took, s."""
    rows, took = [], np.zeros(2)
    for path in progress(paths, f"packets of {packet:g} s"):
        stream = coder.read(path)
        frames = max(1, round(packet * coder.model.frame_rate))
        if coder.model.chunk:
            frames = stream.header.frames_per_packet
        plain = replace(stream.header, entropy=None, frames_per_packet=frames)
        coded = replace(plain, entropy=coder.languages.chosen.fingerprint)
        before = bitstream.pack(replace(stream, header=plain))
        began = time.process_time()
        after = bitstream.pack(replace(stream, header=coded), coder.entropy(coded))
        took[0] += time.process_time() - began
        began = time.process_time()
        back = bitstream.unpack(after, coder.entropy)
        took[1] += time.process_time() - began
        if not np.array_equal(back.codes, stream.codes):
            raise UserError(f"{path}: entropy coded, it comes back as other codes")
        sizes = (back.header.sizes(stream.codes.shape[1])["codes"], back.coded, len(before), len(after))
        rows.append((path.stem, packet, stream.seconds, *sizes))
    return rows, took


def codebooks(path):
    """How many a file's frames have: what the language model must know, which need not be all of the codec's."""
    try:
        return bitstream.Header.unpack(path.read_bytes())[0].n_q
    except (ValueError, AttributeError) as error:  # not a .psc file, or its beginning alone
        raise UserError(f"{path}: {error}") from None


def report(rows, took):
    """One line on the `savings` of a packet length."""
    bits = np.array([row[3:] for row in rows], float) * 8
    seconds = np.array([row[2] for row in rows])
    rates = [mean_ci(column / seconds) for column in bits.T]
    gains = [mean_ci(100 * (1 - bits[:, i + 1] / bits[:, i])) for i in (0, 2)]
    words = []
    for name, i in (("codes", 0), ("whole files", 2)):
        gain = gains[i // 2]
        told = f"{rates[i]['mean']:.0f} -> {rates[i + 1]['mean']:.0f} bit/s"
        words.append(f"{name} {told}, saved {gain['mean']:.1f} ± {gain['ci95'] or 0:.1f} %")
    speed = " and ".join(f"{seconds.sum() / t:.1f}" for t in took)
    return f"packets of {rows[0][1]:g} s: {'; '.join(words)}; by CPU time {speed} x real time each way"


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="experiment folder, or a released codec's name")
    parser.add_argument("--psc", type=Path, nargs="+", required=True, help="folders of .psc files")
    parser.add_argument("--entropy", default="auto", help="the language model's folder (default: auto)")
    parser.add_argument("--packets", type=float, nargs="+", default=[1.0, 5.0], help="seconds (1 5)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--max-files", type=int, default=0, help="0: all")
    parser.add_argument("--out", type=Path, help="table to write (default: beside the first folder, entropy.tsv)")
    args = parser.parse_args(argv)
    paths = sorted(path for folder in args.psc for path in folder.rglob("*.psc"))
    if not paths:
        raise UserError(f"{args.psc[0]}: no .psc files")
    if args.max_files and len(paths) > args.max_files:
        paths = [paths[i * len(paths) // args.max_files] for i in range(args.max_files)]
    coder = load_codec(args.exp, args.checkpoint, precision=None, n_q=codebooks(paths[0]), entropy=args.entropy)
    rows = []
    chunk = coder.model.chunk / coder.model.sample_rate  # s; such a codec's packets are its chunks
    packets, most = [chunk] if chunk else args.packets, coder.languages.chosen.shape.longest / coder.model.frame_rate
    if wrong := [packet for packet in packets if not 0 < packet <= most]:
        raise UserError(f"packets of {wrong[0]:g} s; this language model has learned {most:g} s at most")
    for packet in packets:
        found, took = savings(coder, paths, packet)
        print(f"{args.psc[0]}: {len(paths)} files, {report(found, took)}", flush=True)
        rows += found
    lines = ["\t".join(COLUMNS), *("\t".join(f"{c:g}" if isinstance(c, float) else str(c) for c in r) for r in rows)]
    out = args.out or args.psc[0].parent / "entropy.tsv"
    write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
