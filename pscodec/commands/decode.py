""".psc files to recordings"""

import sys
from dataclasses import replace

from pscodec import released
from pscodec.commands import many

MOST_HEADER = 2**16  # bytes: its length has 16 bits

DETAILS = """
  pscodec decode speech.psc -o speech.wav --exp EXP
  pscodec decode coded/ -o decoded/ --exp EXP --profiles profiles/
  pscodec decode speech.psc speech.wav --exp LADIFFCODEC --steps 20     a diffusion's, of the codec that wrote the file
  pscodec decode - --raw --exp EXP < x.psc | aplay -t raw -f S16_LE -r 24000

Writes 16-bit WAV at the codec's rate, to a pipe as it is decoded, of as many channels as the codec has. Without --exp
a file of a released codec is decoded by that one. Of a damaged file, what was lost is silent, what comes after keeps
its place, and a warning says so.
"""


def add_arguments(parser):
    many.add_inputs(parser, ".psc files")
    many.add_codec(parser)
    if released.DEFAULT in released.names():
        parser.set_defaults(exp=None)  # what the file says
    many.add_jobs(parser)
    parser.add_argument("--profile", action="append", default=[], help="the speaker's .psp file; may come again")
    parser.add_argument("--profiles", action="append", default=[], help="a folder with .psp files; may come again")
    parser.add_argument("--entropy", help="the language model that coded them, where it is not the codec's own")
    many.add_sampling(parser)
    parser.add_argument("--raw", action="store_true", help="output is signed 16-bit little endian samples, no header")


def run(args):
    from pscodec.bitstream import SUFFIX

    more = {"raw": int(args.raw), "entropy": args.entropy, "sampling": many.sampling(args)}
    settings = many.settings(args, profiles=(*args.profile, *args.profiles), **more)
    pairs, wrong = many.tasks(args.inputs, args.output, {SUFFIX}, ".raw" if args.raw else ".wav")
    load = many.codec if args.exp else lambda settings: None  # each file says by which
    results = many.run(work, pairs, wrong, settings, args.jobs, "decode", load)
    seconds = sum(n / header.sample_rate for header, n in results)
    name = pairs[0][1] if len(pairs) == 1 else f"{len(pairs)} files"
    to = sys.stderr if pairs[-1][1] == many.PIPE else sys.stdout
    print(f"{name}: {seconds:.2f} s at {results[0][0].sample_rate} Hz", file=to)


def work(settings, source, target):
    from pscodec.files import decode_file

    coder = many.codec(settings if settings.exp else replace(settings, exp=written_by(source)))
    header, n_samples, damage = decode_file(coder, source, target, settings.profiles, bool(settings.raw))
    for line in damage:
        print(f"warning: {source}: {line}", file=sys.stderr)
    return header, n_samples


def written_by(source):
    """Name of the released codec that `.psc` file `source` says it is of; of what says nothing known, the default's."""
    from pscodec.bitstream import Header
    from pscodec.pipes import beginning

    try:
        header, _ = Header.unpack(beginning(source, MOST_HEADER))
    except ValueError:  # whoever decodes it will say so
        header = None
    return header.model if header and header.model in released.names() else released.DEFAULT
