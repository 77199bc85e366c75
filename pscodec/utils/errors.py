"""What the user can mend is told in one line; everything else keeps its traceback."""

import functools
import sys


class UserError(Exception):
    """Something the user can mend. Its text is one clear line."""


def one_line_errors(main):
    """Decorate a program's `main`: a `UserError` or a full disk becomes one line on stderr and exit status 1."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # from a loader's worker it comes as a traceback whose last line is ours
            line = str(error).strip().splitlines()[-1]
            sys.exit(f"error: {line.removeprefix(f'{UserError.__module__}.UserError: ')}")
        except OSError as error:
            sys.exit(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "))

    return run
