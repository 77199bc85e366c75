#!/usr/bin/env python3
"""Does an entropy coded stream come back on another machine? Codes of real speech are coded by one process, with all
that this CPU has and two threads, and decoded by others as on older CPUs, with one.

    python tools/bench/entropy_machines.py --language EXP/entropy --codes EXP/codes/train --seconds 3600
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pscodec import bitstream
from pscodec.bitstream import Header, Stream
from pscodec.data.kaldi import read_table
from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.network import FILE, Network
from pscodec.utils.errors import UserError, one_line_errors

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# what torch, oneDNN, numpy and its BLAS make use of
MACHINES = {
    "AVX512": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
    "SSE41": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    },
}


def environment(machine, threads):
    return os.environ | MACHINES[machine] | dict.fromkeys(THREADS, str(threads))


def encode(folder, codes, seconds, packet, target):
    """Code so many seconds of the utterances that `codes` (dump_codes) has, one after another, to `target`."""
    network, found, frames = Network.load(folder / FILE), [], 0
    for path in read_table(codes / "codes.scp").values():
        found.append(np.load(path)["codes"].astype(np.int64))
        frames += found[-1].shape[1]
        if frames >= seconds * network.shape.frame_rate:
            break
    joined = np.concatenate(found, 1)
    bits = max(1, int(np.ceil(np.log2(network.shape.size))))
    rate = network.shape.frame_rate
    each = {"frames_per_packet": round(packet * rate), "entropy": network.fingerprint}
    header = Header(round(320 * rate), 320, len(joined), bits, bytes.fromhex(network.shape.codec), **each)
    coder = EntropyCoder(network, len(joined), header.frames_per_packet)
    bitstream.write(target, Stream(header, joined, 320 * joined.shape[1]), coder)
    plain = header.sizes(joined.shape[1])["codes"]
    return joined, f"{joined.shape[1] / rate:.0f} s, {plain} bytes of codes in a file of {target.stat().st_size}"


def decode(folder, source):
    network = Network.load(folder / FILE)
    return bitstream.read(source, lambda h: EntropyCoder(network, h.n_q, h.frames_per_packet)).codes, ""


def child(args):
    begin = time.perf_counter()
    codes, told = encode(*args) if len(args) > 2 else decode(*args)
    digest = hashlib.sha256(np.ascontiguousarray(codes, np.int64)).hexdigest()[:16]
    print(f"{digest} in {time.perf_counter() - begin:.0f} s {told}".strip())


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--codes", type=Path, help="folder that dump_codes wrote")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--packet", type=float, default=5.0, help="seconds")
    parser.add_argument("--machines", nargs="+", default=["AVX2", "SSE41"], choices=MACHINES, help="that decode")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--as", dest="role", choices=("encoder", "decoder"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.role == "encoder":
        return child((args.language, args.codes, args.seconds, args.packet, args.file))
    if args.role == "decoder":
        return child((args.language, args.file))
    with tempfile.TemporaryDirectory() as folder:
        own = [*(argv or sys.argv[1:]), "--file", f"{folder}/x.psc"]
        found = []
        for role, machine, threads in (("encoder", "AVX512", 2), *(("decoder", m, 1) for m in args.machines)):
            command = [sys.executable, __file__, *own, "--as", role]
            done = subprocess.run(command, env=environment(machine, threads), capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{role}, {machine}: {done.stderr.strip().splitlines()[-1]}")
            print(f"{role:<8} {machine:<7} {threads} threads: codes {done.stdout.strip()}", flush=True)
            found.append(done.stdout.split()[0])
    print("the same codes" if len(set(found)) == 1 else "OTHER CODES")
    sys.exit(len(set(found)) > 1)


if __name__ == "__main__":
    main()
