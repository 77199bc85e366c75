"""Recordings as people have them: a folder of files, a wav.scp, a Kaldi data dir."""

from pathlib import Path

from pscodec.data.audio import SUFFIXES, Pipe
from pscodec.data.kaldi import Utterance, read_data_dir, read_table
from pscodec.utils.errors import UserError


def find_recordings(path, allow_pipes=False):
    """`{id: Utterance}` of what `path` names, sorted by id; durations are not looked up and 0 where no table says them.

    A data dir (wav.scp and utt2spk) with all that is in it; a wav.scp, or a folder with one, whose paths may be beside
    it; else a folder with recordings at any depth: `a/b.flac` has the id `a/b`, the speaker `a`, and `a/b.txt` as its
    text. Raises UserError in one line.
    """
    path = Path(path)
    scp = path / "wav.scp" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such folder or wav.scp")
    if not scp.is_file():
        return _walk(path)
    if (scp.parent / "utt2spk").is_file() and scp.name == "wav.scp":
        return read_data_dir(scp.parent, allow_pipes)
    found = {}
    for utt, place in sorted(read_table(scp).items()):
        if place.endswith("|"):
            if not allow_pipes:
                raise UserError(f"{scp}: {utt} is a pipe, a command to run ({place}); not allowed")
            place = Pipe(place)
        elif not Path(place).exists():
            place = next((str(p) for p in _beside(scp.parent, Path(place)) if p.exists()), place)
        found[utt] = Utterance(utt, "-", place, 0.0)
    if not found:
        raise UserError(f"{scp}: no recordings in it")
    return found


def _beside(folder, path):
    """Where a recording of a folder that has moved may be."""
    return folder / path, folder / "wav" / path.name, folder / path.name


def _walk(folder):
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        inside = path.relative_to(folder).with_suffix("")
        if (utt := inside.as_posix()) in found:
            raise UserError(f"{folder}: two recordings are called {utt}, {Path(found[utt].path).name} and {path.name}")
        note = path.with_suffix(".txt")
        text = " ".join(note.read_text(encoding="utf-8", errors="replace").split()) if note.is_file() else None
        found[utt] = Utterance(utt, inside.parts[0] if len(inside.parts) > 1 else "-", str(path), 0.0, text)
    if not found:
        raise UserError(f"{folder}: no recordings ({' '.join(sorted(SUFFIXES))}) and no wav.scp in it")
    return found
