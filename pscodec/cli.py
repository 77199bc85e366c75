"""`pscodec encode | decode | info`: code speech with a trained experiment.

pscodec encode in.wav out.psc --exp exp/pscodec_base_mini --prompt another_utterance.wav
pscodec decode out.psc back.wav --exp exp/pscodec_base_mini
pscodec info out.psc
"""

import argparse
from pathlib import Path

from pscodec import bitstream
from pscodec.utils.errors import UserError, one_line_errors


def encode(args):
    from pscodec.data.audio import load_audio
    from pscodec.inference import load_codec

    wav, rate = load_audio(args.input)
    coder = load_codec(args.exp)
    prompt = coder.prompt(*load_audio(args.prompt or args.input))
    bitstream.write(args.output, coder.encode(wav, rate, prompt))
    info(argparse.Namespace(input=args.output))


def decode(args):
    from pscodec.data.audio import save_audio
    from pscodec.inference import load_codec

    stream = bitstream.read(args.input)
    coder = load_codec(args.exp)
    save_audio(args.output, coder.decode(stream), coder.model.sample_rate)
    print(f"{args.output}: {stream.seconds:.2f} s at {coder.model.sample_rate} Hz")


def info(args):
    stream = bitstream.read(args.input)
    sizes = stream.sizes()
    rates = {name: 8 * size / max(stream.seconds, 1e-9) for name, size in sizes.items()}
    print(
        f"{args.input}: {stream.seconds:.2f} s, {stream.codes.shape[0]} codes of {stream.bits} bits a frame, ", end=""
    )
    print(f"{stream.sample_rate / stream.hop_length:g} frames a second, model {stream.fingerprint.hex()}")
    print(
        f"  codes {sizes['codes']} bytes ({rates['codes']:.0f} bit/s), side information {sizes['side']} bytes ", end=""
    )
    print(f"({rates['side']:.0f} bit/s), whole file {sizes['total']} bytes ({rates['total']:.0f} bit/s)")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="pscodec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="encode | decode | info")
    for function in (encode, decode, info):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("input", type=Path)
        if function is info:
            continue
        command.add_argument("output", type=Path)
        command.add_argument("--exp", type=Path, required=True, help="experiment folder with the trained codec")
        command.add_argument("--force", action="store_true", help="overwrite the output")
        if function is encode:
            command.add_argument(
                "--prompt", type=Path, help="another utterance of the speaker (default: the input itself)"
            )
    args = parser.parse_args(argv)
    if getattr(args, "output", None) and args.output.exists() and not args.force:
        raise UserError(f"{args.output} exists; --force overwrites it")
    args.function(args)


if __name__ == "__main__":
    main()
