"""recordings of several talkers to a recording of each"""

import functools

from pscodec import released
from pscodec.commands import many

FIRST = ".s1.wav"
DETAILS = f"""
  pscodec separate mix.wav -o apart/                        apart/mix.s1.wav, apart/mix.s2.wav
  pscodec separate meetings/ -o apart/ --jobs 4             every recording of a folder
  pscodec separate mix.wav -o apart/ --exp EXP              by a separator of your own
  pscodec separate mix.wav -o apart/ --decoded              what its codec decodes, not the recording masked by that

{released.SEPARATOR}, which comes with the package, knows two talkers, whoever they are; its card says what it is
worth. EXP is an experiment of recipes/WSJ0Mix/separation: it separates talkers like those that it has learned from.
Recordings of any rate and length; what comes out has both. Channels are averaged. Which talker is first is by chance,
and the same from the beginning to the end.
"""


def add_arguments(parser):
    many.add_inputs(parser, "recordings")
    parser.add_argument("--exp", default=released.SEPARATOR, help="experiment folder of a separator (%(default)s)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--codec", help="its codec's experiment, where that has moved")
    parser.add_argument("--decoded", action="store_true", help="write what the codec decodes, not masks")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    many.add_jobs(parser)


def run(args):
    from pscodec.data.audio import SUFFIXES
    from pscodec.utils.errors import UserError

    if args.output is None or many.PIPE in (args.output, *args.inputs):
        raise UserError("talkers are written to a folder, -o DIR, and read from files")
    how = {"codec": args.codec, "decoded": args.decoded}
    settings = many.Settings(args.exp, args.checkpoint, args.device, "fp32", args.force, **how)
    pairs, wrong = many.tasks(args.inputs, f"{args.output}/", SUFFIXES, FIRST)
    results = many.run(work, pairs, wrong, settings, args.jobs, "separate", load=separator)
    for (_, target), (seconds, rate, n_src) in zip(pairs, results, strict=False):
        print(f"{target.removesuffix(FIRST)}.s*.wav: {n_src} talkers, {seconds:.2f} s at {rate} Hz")


@functools.lru_cache(maxsize=1)
def separator(settings):
    """This process's separator."""
    from pscodec.separation import load_separator
    from pscodec.utils.machine import keep_memory

    keep_memory()
    return load_separator(settings.exp, settings.which, settings.device, settings.codec)


def work(settings, source, target):
    from pscodec.separation import separate_file

    unmixer = separator(settings)
    stem = target.removesuffix(FIRST)
    targets = [f"{stem}.s{s}.wav" for s in range(1, unmixer.n_src + 1)]
    seconds, rate = separate_file(unmixer, source, targets, not settings.decoded)
    return seconds, rate, unmixer.n_src
