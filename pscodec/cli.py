"""`pscodec COMMAND`: code or separate speech with a trained experiment. One module of pscodec/commands a command."""

import argparse
from importlib import import_module

from pscodec.utils.errors import one_line_errors

COMMANDS = ("encode", "decode", "enroll", "info", "bench", "score", "separate")
COMMANDS += ("demo", "listening-test", "listening-results")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(prog="pscodec", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name in COMMANDS:
        module = import_module(f"pscodec.commands.{name.replace('-', '_')}")
        command = commands.add_parser(
            name,
            help=module.__doc__,
            description=module.__doc__,
            epilog=module.DETAILS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
