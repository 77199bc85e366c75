"""`pscodec COMMAND`: code or separate speech with a trained experiment. One module of pscodec/commands a command."""

import argparse
import atexit
import gc
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
    spare_the_collector()
    args.run(args)


def spare_the_collector():
    """Let Python look for garbage less often than at every 700th new object: torch's import makes hundreds of thousands
    that stay. And not once more at the end, when the process gives back everything."""
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    main()
