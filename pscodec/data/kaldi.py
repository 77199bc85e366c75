"""Kaldi data folders and matrix archives: tables of `id value` lines, one utterance a line, sorted by id."""

import collections.abc
import itertools
import math
import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import kaldiio.matio

from pscodec.data.audio import Pipe, recording_seconds
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text

TABLES = ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "utt2dur", "utt2lang", "utt2prompt")
OVERSHOOT = 0.5  # seconds that a segment may pass its recording's end, as in Kaldi's extract-segments


@dataclass(frozen=True)
class Utterance:
    """One utterance: ids, the recording's path, and its stretch `start` to `end` (None: the end). All in seconds.
    `language`: of the text, as a code of two letters."""

    utt: str
    spk: str
    path: str
    duration: float
    text: str | None = None
    start: float = 0.0
    end: float | None = None
    language: str | None = None


def read_table(path):
    """Read `id value` lines as a dict in file order. The value is the rest of the line, possibly empty.

    Raises UserError: missing file, not UTF-8, an empty line, an id that comes twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{path}: no such file") from None
    if lines[-1] == "":
        lines.pop()
    table = {}
    for number, line in enumerate(lines, 1):
        fields = line.strip().split(maxsplit=1)
        if not fields:
            raise UserError(f"{path}:{number}: empty line")
        if fields[0] in table:
            raise UserError(f"{path}:{number}: {fields[0]} comes twice")
        table[fields[0]] = fields[1] if len(fields) > 1 else ""
    return table


def write_table(path, mapping):
    """Write a mapping as `id value` lines, atomically, sorted as in the C locale."""
    lines = []
    for key in sorted(mapping):
        value = str(mapping[key])
        if not key or key.split() != [key] or "\n" in value or "\r" in value:
            raise UserError(f"{path}: {key!r} with value {value!r} does not fit on a line of a table")
        lines.append(f"{key} {value}".rstrip() + "\n")
    write_text(path, "".join(lines))


def read_data_dir(folder, allow_pipes=False):
    """Read a Kaldi data folder as `{utt: Utterance}`, sorted by utt.

    Needs wav.scp and utt2spk; understands segments, text, utt2lang and utt2dur. Relative paths resolve against the
    current folder. Durations come from utt2dur, else from segments, else from the recordings' headers. Audio itself is
    not read. Pipes (`cmd |`) in wav.scp are refused unless `allow_pipes`: they run commands.

    Raises UserError in one line: what `read_table` raises, ids that do not match, a malformed segment, an unreadable
    header, a pipe.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder")
    recordings = read_table(folder / "wav.scp")
    for recording, path in recordings.items():
        if not path:
            raise UserError(f"{folder / 'wav.scp'}: {recording} has no path")
        if path.endswith("|"):
            if not allow_pipes:
                raise UserError(f"{folder / 'wav.scp'}: {recording} is a pipe, a command to run ({path}); not allowed")
            recordings[recording] = Pipe(path)
    utt2spk = read_table(folder / "utt2spk")
    stretches = _read_segments(folder, recordings) or {utt: (utt, 0.0, None) for utt in recordings}
    _same_ids(folder, "segments" if (folder / "segments").exists() else "wav.scp", stretches, "utt2spk", utt2spk)
    texts = _optional(folder, "text", stretches)
    languages = _optional(folder, "utt2lang", stretches)
    durations = _optional(folder, "utt2dur", stretches)
    utterances = {}
    for utt in sorted(stretches):
        recording, start, end = stretches[utt]
        path, spk = recordings[recording], utt2spk[utt]
        if not spk or spk.split() != [spk]:
            raise UserError(f"{folder / 'utt2spk'}: {utt} has no single speaker ({spk!r})")
        if durations is not None:
            duration = _seconds(folder / "utt2dur", utt, durations[utt])
        elif end is not None:
            duration = end - start
        else:
            duration = recording_seconds(path) - start
        if not duration > 0.0:
            raise UserError(f"{folder}: {utt} lasts {duration} s; a duration must be positive")
        text, language = (None if table is None else table[utt] for table in (texts, languages))
        utterances[utt] = Utterance(utt, spk, path, duration, text, start, end, language or None)
    return utterances


def _read_segments(folder, recordings):
    file = folder / "segments"
    if not file.exists():
        return None
    stretches = {}
    for utt, value in read_table(file).items():
        fields = value.split()
        if len(fields) != 3:
            raise UserError(f"{file}: {utt} needs a recording, a start and an end, not {value!r}")
        if fields[0] not in recordings:
            raise UserError(f"{file}: {utt} is cut from {fields[0]}, which wav.scp lacks")
        start, end = _seconds(file, utt, fields[1]), _seconds(file, utt, fields[2])
        end = None if end == -1 else end  # Kaldi's way to say "to the end of the recording"
        if start < 0 or (end is not None and end <= start):
            raise UserError(f"{file}: {utt} goes from {start} to {end} s; a duration must be positive")
        stretches[utt] = (fields[0], start, end)
    return stretches


def _seconds(file, utt, text):
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise UserError(f"{file}: {utt} has {text!r} where seconds belong")
    return value


def _optional(folder, name, stretches):
    file = folder / name
    if not file.exists():
        return None
    table = read_table(file)
    _same_ids(folder, "utt2spk", stretches, name, table)
    return table


def _same_ids(folder, name, ids, other_name, other):
    for id_ in ids:
        if id_ not in other:
            raise UserError(f"{folder}: {id_} is in {name}, but not in {other_name}")
    for id_ in other:
        if id_ not in ids:
            raise UserError(f"{folder}: {id_} is in {other_name}, but not in {name}")


def write_data_dir(folder, utterances):
    """Write utterances (an iterable, or a dict's values) as a Kaldi data folder: each file atomic and sorted.

    text and utt2lang are written if any utterance has one, segments if any is a stretch of its recording; tables that
    an earlier run left and that this one does not write are removed, so that the folder always agrees with itself.
    Raises UserError for an id that comes twice or an empty folder.
    """
    folder = Path(folder)
    items = sorted(utterances.values() if isinstance(utterances, dict) else utterances, key=lambda u: u.utt)
    if not items:
        raise UserError(f"{folder}: no utterances to write")
    for before, after in itertools.pairwise(items):
        if before.utt == after.utt:
            raise UserError(f"{folder}: {after.utt} comes twice ({before.path}, {after.path})")
    tables = {"utt2spk": {u.utt: u.spk for u in items}, "utt2dur": {u.utt: f"{u.duration:.4f}" for u in items}}
    if any(u.start > 0.0 or u.end is not None for u in items):
        recordings = {}  # path -> id; the first utterance of a recording names it
        for u in items:
            recordings.setdefault(u.path, u.utt)
        tables["wav.scp"] = {recording: path for path, recording in recordings.items()}
        tables["segments"] = {
            u.utt: f"{recordings[u.path]} {u.start:.4f} {u.start + u.duration if u.end is None else u.end:.4f}"
            for u in items
        }
    else:
        tables["wav.scp"] = {u.utt: u.path for u in items}
    if any(u.text is not None for u in items):
        tables["text"] = {u.utt: " ".join((u.text or "").split()) for u in items}
    if any(u.language is not None for u in items):
        tables["utt2lang"] = {u.utt: u.language or "" for u in items}
    speakers = {}
    for u in items:
        speakers.setdefault(u.spk, []).append(u.utt)
    tables["spk2utt"] = {spk: " ".join(utts) for spk, utts in speakers.items()}
    for name in TABLES:
        if name in tables:
            write_table(folder / name, tables[name])
        else:
            (folder / name).unlink(missing_ok=True)


def validate_data_dir(folder, allow_pipes=False):
    """Check a Kaldi data folder and return what `read_data_dir` reads of it.

    Beyond that function's own checks: every table is sorted (C locale), spk2utt mirrors utt2spk, utt2prompt names
    utterances of the folder and of the same speaker, every recording is there and not empty, and no segment passes
    its recording's end by more than half a second. Raises UserError: one line, which file and which id.
    """
    folder = Path(folder)
    utterances = read_data_dir(folder, allow_pipes)
    if not utterances:
        raise UserError(f"{folder}: no utterances in wav.scp")
    for name in TABLES:
        if (folder / name).exists():
            ids = list(read_table(folder / name))
            for before, after in itertools.pairwise(ids):
                if after < before:
                    raise UserError(f"{folder / name}: not sorted, {after} comes after {before} (use LC_ALL=C sort)")
    if (folder / "spk2utt").exists():
        _check_spk2utt(folder, utterances)
    if (folder / "utt2prompt").exists():
        _check_prompts(folder, utterances)
    _check_recordings(folder, utterances)
    return utterances


def _check_spk2utt(folder, utterances):
    listed = {}
    for spk, value in read_table(folder / "spk2utt").items():
        for utt in value.split():
            if utt in listed:
                raise UserError(f"{folder / 'spk2utt'}: {utt} comes twice")
            listed[utt] = spk
    _same_ids(folder, "utt2spk", utterances, "spk2utt", listed)
    for utt, spk in listed.items():
        if utterances[utt].spk != spk:
            raise UserError(f"{folder}: {utt} is of {utterances[utt].spk} in utt2spk, but of {spk} in spk2utt")


def _check_prompts(folder, utterances):
    prompts = read_table(folder / "utt2prompt")
    _same_ids(folder, "utt2spk", utterances, "utt2prompt", prompts)
    for utt, prompt in prompts.items():
        if prompt not in utterances:
            raise UserError(f"{folder / 'utt2prompt'}: the prompt of {utt}, {prompt}, is not in utt2spk")
        if utterances[utt].spk != utterances[prompt].spk:
            raise UserError(f"{folder / 'utt2prompt'}: the prompt of {utt}, {prompt}, is of another speaker")


def _check_recordings(folder, utterances):
    lengths = {}
    for utt, u in utterances.items():
        if isinstance(u.path, Pipe):
            continue
        if not os.path.isfile(u.path):
            raise UserError(f"{folder / 'wav.scp'}: the audio of {utt} is missing, {u.path}")
        if os.path.getsize(u.path) == 0:
            raise UserError(f"{folder / 'wav.scp'}: the audio of {utt} is an empty file, {u.path}")
        if u.end is not None:
            if u.path not in lengths:
                lengths[u.path] = recording_seconds(u.path)
            if u.end > lengths[u.path] + OVERSHOOT:
                raise UserError(f"{folder / 'segments'}: {utt} ends at {u.end} s, its recording at {lengths[u.path]} s")


def choose_prompts(utterances, seed):
    """For each utterance another one of its speaker: `({utt: prompt utt}, [utts that are their own prompt])`.

    `utterances` is `{utt: Utterance}`. The choice depends on the seed, the utterance and its speaker's utterances
    only, not on their order. Speakers with one utterance fall back to it, and are listed.
    """
    speakers = {}
    for utt in sorted(utterances):
        speakers.setdefault(utterances[utt].spk, []).append(utt)
    prompts, alone = {}, []
    for utt in sorted(utterances):
        others = [other for other in speakers[utterances[utt].spk] if other != utt]
        if not others:
            alone.append(utt)
        prompts[utt] = random.Random(f"{seed}/{utt}").choice(others or [utt])
    return prompts, alone


def read_matrix(ark, offset):
    """Read the binary Kaldi matrix or vector at a byte offset: `(array, offset of what follows it)`.

    kaldiio would also unpickle, run pipes and read audio; here all that is refused. Raises UserError.
    """
    try:
        with open(ark, "rb") as file:
            file.seek(offset)
            if file.peek(2)[:2] != b"\0B":
                raise UserError(f"{ark}: no binary Kaldi matrix at byte {offset}")
            return kaldiio.matio.read_kaldi(file), file.tell()
    except FileNotFoundError:
        raise UserError(f"{ark} is missing") from None
    except (ValueError, AssertionError, struct.error) as error:
        raise UserError(f"{ark}: broken matrix at byte {offset} ({error})") from None


class Matrices(collections.abc.Mapping):
    """`{utt: array}` over a scp of binary Kaldi matrices and vectors, read from the ark when asked for."""

    def __init__(self, scp):
        self.scp = Path(scp)
        self.places = read_table(scp)

    def __getitem__(self, utt):
        ark, colon, offset = self.places[utt].rpartition(":")
        if not colon or not offset.isdigit():
            raise UserError(f"{self.scp}: {utt} needs a place such as feats.ark:17, not {self.places[utt]!r}")
        if not os.path.exists(ark):  # the folder was moved, or is used from elsewhere
            ark = self.scp.parent / Path(ark).name
        try:
            return read_matrix(ark, int(offset))[0]
        except UserError as error:
            raise UserError(f"{self.scp}: {utt}: {error}") from None

    def __iter__(self):
        return iter(self.places)

    def __len__(self):
        return len(self.places)

    def __contains__(self, utt):
        return utt in self.places


def load_matrices(scp):
    """Open a Kaldi scp as a lazy mapping `utt -> np.ndarray`.

    Arks are looked for where the scp says (relative to the current folder), then beside the scp. Raises UserError for
    a missing scp at once, for a missing or broken ark when an utterance is asked for.
    """
    return Matrices(scp)
