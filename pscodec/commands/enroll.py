"""recordings of a speaker to a .psp profile"""

from pscodec.commands import many

DETAILS = """
  pscodec enroll alice1.wav alice2.wav -o alice.psp --exp EXP

What the codec's decoder needs of the speaker, once, instead of in every file. Of several recordings the vectors are
averaged, each recording counting alike; of a long one the first 30 seconds are heard.
"""


def add_arguments(parser):
    parser.add_argument("recordings", nargs="+", help="of one speaker")
    parser.add_argument("-o", "--output", required=True, help="the .psp file")
    parser.add_argument("--force", action="store_true", help="overwrite it")
    many.add_codec(parser)


def run(args):
    from pathlib import Path

    from pscodec.commands.info import show_profile
    from pscodec.data.audio import load_audio
    from pscodec.inference import PROMPT, load_codec
    from pscodec.profile import write_profile
    from pscodec.utils.errors import UserError
    from pscodec.utils.progress import progress

    if Path(args.output).exists() and not args.force:
        raise UserError(f"{args.output} exists; --force overwrites it")
    coder = load_codec(args.exp, args.checkpoint, args.device, args.precision)
    heard = progress(args.recordings, "enroll", disable=len(args.recordings) < 2)
    profile = coder.enroll(*(load_audio(path, None, 0.0, PROMPT) for path in heard))
    write_profile(args.output, profile)
    show_profile(args.output, profile)
