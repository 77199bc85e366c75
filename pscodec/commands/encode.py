"""recordings to .psc files"""

import functools
import sys

from pscodec.commands import many

DETAILS = """
  pscodec encode speech.wav -o speech.psc --exp EXP --prompt other.wav     the prompt's vectors go into the file
  pscodec encode recordings/ -o coded/ --exp EXP --profile alice.psp       the file names the profile by its hash
  arecord -t raw -f S16_LE -r 16000 | pscodec encode - --raw --sample-rate 16000 --profile alice.psp --exp EXP > x.psc

Channels are averaged; a codec of two takes both, or one twice. Without --prompt and --profile every recording is its
own prompt, by its first 30 seconds. A pipe of a WAV (or FLAC ...) file is read to its end before it is coded; --raw
samples are coded as they come. With --entropy, packets that a language model makes smaller are; whoever decodes needs
it, too. With --search the codes are the best of STEPS tries, each decoded and compared with the recording: the more,
the better and slower (10: some two thirds of the recording's time on one core); whoever decodes need not know.
"""
FILE_PACKET = 5.0  # seconds: what a language model is told anew at its beginning, a file can wait for


def add_arguments(parser):
    many.add_inputs(parser, "recordings")
    many.add_codec(parser)
    many.add_jobs(parser)
    speaker = parser.add_mutually_exclusive_group()
    speaker.add_argument("--prompt", help="another recording of the speaker")
    speaker.add_argument("--profile", help="the speaker's .psp file (pscodec enroll)")
    speaker.add_argument("--no-prompt", action="store_true", help="send nothing of the speaker")
    parser.add_argument("--vectors", action="store_true", help="send a prompt as vectors, where the codec has tokens")
    parser.add_argument("--n-q", type=int, help="the first so many of a codec that serves several bitrates")
    many.add_search(parser)
    parser.add_argument("--entropy", help="language model to code packets with: its folder, or auto, the codec's own")
    parser.add_argument(
        "--packet", type=float, help="seconds of a packet (1; entropy coded files 5), but for codecs of chunks"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="input is signed 16-bit little endian samples, of the codec's channels in turn",
    )
    parser.add_argument("--sample-rate", type=int, help="of --raw, Hz")


def run(args):
    from pscodec.bitstream import SUFFIX
    from pscodec.commands.info import rates
    from pscodec.data.audio import SUFFIXES
    from pscodec.utils.errors import UserError

    if args.raw != bool(args.sample_rate):
        raise UserError("--raw and --sample-rate need each other")
    if args.raw and args.search:
        raise UserError("--search looks ahead; --raw samples are coded as they come")
    speaker = {"prompt": args.prompt, "own": not args.no_prompt, "profiles": (args.profile,) if args.profile else ()}
    waited_for = args.raw or many.PIPE in (*args.inputs, args.output)
    more = {
        "entropy": args.entropy,
        "packet": args.packet,
        "waited_for": waited_for,
        "vectors": args.vectors,
        "search": args.search,
    }
    settings = many.settings(args, **speaker, raw=args.sample_rate or 0, n_q=args.n_q, **more)
    suffixes = SUFFIXES | ({".raw", ".pcm"} if args.raw else set())
    pairs, wrong = many.tasks(args.inputs, args.output, suffixes, SUFFIX)
    results = many.run(work, pairs, wrong, settings, args.jobs, "encode")
    seconds = sum(n / header.sample_rate for header, n, _ in results)
    sizes = {k: sum(s[k] for _, _, s in results) for k in results[0][2]}
    name = pairs[0][1] if len(pairs) == 1 else f"{len(pairs)} files"
    to = sys.stderr if pairs[-1][1] == many.PIPE else sys.stdout
    print(f"{name}: {seconds:.2f} s, {rates(sizes, seconds)}", file=to)


def work(settings, source, target):
    from pscodec.files import encode_file

    coder = many.codec(settings)
    if settings.entropy and settings.packet is None and not settings.waited_for:
        coder.packet = FILE_PACKET
    shown = _shown if settings.search else None
    header, n_samples, coded = encode_file(coder, source, target, _speaker(settings), settings.raw, shown)
    return header, n_samples, header.sizes(-(-n_samples // header.hop_length), coded)


def _shown(blocks, n):
    """`blocks` as they are searched, with the time that is left of many."""
    from pscodec.utils.progress import progress

    return progress(blocks, "search", n, disable=n is not None and n < 6)


@functools.lru_cache(maxsize=1)
def _speaker(settings):
    """The prompt that all files share, or OWN."""
    from pscodec.data.audio import load_audio
    from pscodec.inference import OWN, PROMPT
    from pscodec.profile import read_profile

    if settings.profiles:
        return read_profile(settings.profiles[0])
    if settings.prompt:
        return many.codec(settings).prompt(*load_audio(settings.prompt, None, 0.0, PROMPT))
    return OWN if settings.own else None
