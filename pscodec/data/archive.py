"""A Kaldi archive that grows: made in pieces, by several processes, and killed at any time."""

import heapq
import io
import re
from pathlib import Path

import kaldiio

from pscodec.data.kaldi import read_matrix, write_table
from pscodec.utils.errors import UserError


class Archive:
    """One kind of features, `<folder>/<kind>.{ark,scp}`, that grows an utterance at a time and survives being killed.

    Matrices are appended to the ark and, once there, noted in `<kind>.scp.part`; `close` makes the sorted scp of it.
    An archive begun again goes on after the last noted matrix.
    """

    def __init__(self, folder, kind, compress):
        self.ark, self.scp = Path(folder) / f"{kind}.ark", Path(folder) / f"{kind}.scp"
        self.part = self.scp.with_name(self.scp.name + ".part")
        self.method = 2 if compress and kind != "xvector" else None
        self.places = self._noted()
        self.file = self.notes = None

    def _noted(self):
        """Places of the matrices that are really there; what an interruption left behind them is cut off."""
        lines = []
        for table in (self.scp, self.part):
            if table.exists():
                lines += table.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end is not whole
        found = (re.fullmatch(rf"(\S+) .*\b{re.escape(self.ark.name)}:(\d+)", line) for line in lines)
        starts = {match[1]: int(match[2]) for match in found if match}
        while starts:
            last = max(starts, key=starts.get)
            try:
                self.end = read_matrix(self.ark, starts[last])[1]
                return {utt: f"{self.ark}:{starts[utt]}" for utt in starts}
            except UserError:  # noted, but not wholly written when the machine went down
                del starts[last]
        self.end = 0
        return {}

    def clear(self):
        """Forget what is there: it was made of other audio or with other settings."""
        for path in (self.scp, self.part, self.ark):
            path.unlink(missing_ok=True)
        self.places, self.end = {}, 0

    def __contains__(self, utt):
        return utt in self.places

    def add(self, utt, array):
        """Append one matrix or vector."""
        entry = io.BytesIO()
        kaldiio.save_ark(entry, {utt: array}, compression_method=self.method)
        self._append(utt, entry.getvalue())

    def absorb(self, parts):
        """Append what `parts`, archives of the same kind by other processes, have and this one lacks, sorted by id."""
        for utt, entry in heapq.merge(*(part.entries() for part in parts)):
            if utt not in self:
                self._append(utt, entry)

    def entries(self):
        """Yield `(utt, bytes)`, all that the ark of an archive just opened holds for each id, in its order."""
        if not self.places:
            return
        starts = {utt: int(place.rpartition(":")[2]) - len(f"{utt} ".encode()) for utt, place in self.places.items()}
        order = sorted(starts, key=starts.get)
        with open(self.ark, "rb") as file:
            for utt, end in zip(order, [*(starts[utt] for utt in order[1:]), self.end], strict=True):
                file.seek(starts[utt])
                yield utt, file.read(end - starts[utt])

    def _append(self, utt, entry):
        if self.file is None:
            self.ark.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.ark, "r+b" if self.ark.exists() else "w+b")
            self.file.truncate(self.end)
            self.file.seek(self.end)
            write_table(self.part, self.places)
            self.notes = open(self.part, "a", encoding="utf-8")
        place = f"{self.ark}:{self.file.tell() + len(f'{utt} '.encode())}"
        self.file.write(entry)
        self.file.flush()
        self.notes.write(f"{utt} {place}\n")
        self.notes.flush()
        self.places[utt] = place

    def release(self):
        """Close the files; what was added is there for others to read."""
        for file in (self.file, self.notes):
            if file is not None:
                file.close()

    def close(self, utts):
        """Write the sorted scp of those of `utts` that are there."""
        self.release()
        write_table(self.scp, {utt: place for utt, place in self.places.items() if utt in utts})
        self.part.unlink(missing_ok=True)
