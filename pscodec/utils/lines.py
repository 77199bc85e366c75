"""Rows noted one by one in a file of JSON lines, by one process or by several, so that a run that is killed goes on."""

import contextlib
import json

from pscodec.utils import ranks


def read(path):
    """The rows, dicts, in file `path`; none where there is no file. What is no line of it is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # the line that a killed run was writing
    return rows


@contextlib.contextmanager
def appending(path):
    """Yield a function that adds a row to file `path`, where it is at once."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * _cut_off(path))

        def write(row):
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield write


def own(path):
    """Where this process notes its rows: lines of several processes in one file would get into each other."""
    return path if ranks.first() else path.with_suffix(f".{ranks.rank()}.jsonl")


def collect(path):
    """Move what the other processes of this run, or of one that was broken off, noted into `path`."""
    for part in path.parent.glob(f"{path.stem}.*.jsonl"):
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" * _cut_off(path) + part.read_text(encoding="utf-8"))
        part.unlink()


def _cut_off(path):
    """Whether a killed run left half a line at the end."""
    data = path.read_bytes()
    return bool(data) and data[-1:] != b"\n"
