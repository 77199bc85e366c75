"""Bytes from and to files and pipes: `-` is standard input or output. Nothing here waits for torch."""

import contextlib
import shutil
import sys
import tempfile

from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

PIPE = "-"
BYTES = 1 << 14  # of a `.psc` file, read at once


@contextlib.contextmanager
def open_input(source):
    """`source` (a path, or `-`) open for reading bytes. Raises UserError where it cannot be."""
    if source == PIPE:
        yield sys.stdin.buffer
        return
    try:
        file = open(source, "rb")
    except OSError as error:
        raise UserError(f"{error.strerror}") from None
    with file:
        yield file


def beginning(source, most):
    """The first `most` bytes of `source` (a path, or `-`), or fewer; a pipe, which has brought some, keeps them."""
    if source == PIPE:
        return sys.stdin.buffer.peek(most)
    with open_input(source) as file:
        return file.read(most)


@contextlib.contextmanager
def spooled_input():
    """Standard input as a file that can seek, which libsndfile needs: on the disk, not in memory."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


@contextlib.contextmanager
def open_output(target):
    """`target` (a path, or `-`) open for writing bytes; a path has them all or is as it was."""
    if target == PIPE:
        yield sys.stdout.buffer
        return
    with atomic_path(target) as partial, open(partial, "wb") as file:
        yield file


def packets_of(reader, file):
    """Every packet of `file`, open, through `reader` (bitstream.Reader), as its bytes come."""
    while data := file.read1(BYTES):
        yield from reader.push(data)
    yield from reader.finish()


def read_packets(source, reader):
    """Every packet of `source` (a path, or `-`) through `reader`. Raises UserError as `bitstream.read` does."""
    with open_input(source) as file:
        try:
            yield from packets_of(reader, file)
        except ValueError as error:
            raise UserError(str(error)) from None
