"""Which utterances are mixed how loud: published lists (WSJ0-mix, LibriMix) and drawn ones of the same form."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from pscodec.data.mixture import talkers
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text

SPLITS = {"train": "tr", "dev": "cv", "test": "tt"}  # as the files of WSJ0-mix call them
LOUDER = 2.5  # dB at most that a source is above or below the common level: ratios of up to 5 dB, as in WSJ0-2mix


@dataclass(frozen=True)
class Entry:
    """A mixture wanted: its id, and its sources as `(path or utterance id, value)`, all files `name` are found by.

    `kind`: what the values are, `snr` (dB that the source's active level is put at) or `gain` (linear).
    """

    mix: str
    sources: tuple
    kind: str = "snr"

    @property
    def utts(self):
        """Utterance ids: a path's file name without its ending."""
        return [utterance_id(name) for name, _ in self.sources]


def utterance_id(name):
    return Path(name).stem if "/" in name else name


def find_lists(folder, split, n_src):
    """The published list files of a split in `folder`: WSJ0-mix's text file, or LibriMix' metadata. UserError if none.

    Both parts of LibriMix' training set are taken if both are there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--lists {folder}: no such folder")
    text = folder / f"mix_{n_src}_spk_{SPLITS[split]}.txt"
    if text.exists():
        return [text]
    found = sorted(f for f in folder.glob(f"libri{n_src}mix_{split}-*.csv") if not f.stem.endswith("_info"))
    if not found:
        raise UserError(f"--lists {folder}: neither {text.name} nor libri{n_src}mix_{split}-*.csv is there")
    return found


def read_list(file, n_src):
    """The entries of a published list. Raises UserError naming the file and line."""
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{file}: no such list") from None
    read = _read_librimix if file.suffix == ".csv" else _read_wsj0mix
    entries, taken = [], set()
    for number, entry in read(file, lines, n_src):
        if entry.mix in taken:
            raise UserError(f"{file}:{number}: {entry.mix} comes twice")
        taken.add(entry.mix)
        entries.append(entry)
    if not entries:
        raise UserError(f"{file}: an empty list")
    return entries


def _read_wsj0mix(file, lines, n_src):
    """Lines of `path dB path dB [path dB]`. The id is made of the file names and the levels as they stand there."""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 * n_src:
            raise UserError(f"{file}:{number}: {len(fields)} fields where {n_src} pairs of path and dB belong")
        values = [_number(file, number, text) for text in fields[1::2]]
        sources = tuple(zip(fields[::2], values, strict=True))
        names = [part for (name, value) in sources for part in (utterance_id(name), f"{value:.5g}")]
        yield number, Entry("_".join(names), sources)


def _read_librimix(file, lines, n_src):
    """LibriMix' metadata: columns mixture_ID, source_1_path, source_1_gain and so on."""
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            sources = tuple(
                (row[f"source_{i}_path"], _number(file, number, row[f"source_{i}_gain"])) for i in range(1, n_src + 1)
            )
            yield number, Entry(row["mixture_ID"], sources, "gain")
        except KeyError as error:
            raise UserError(f"{file}: no column {error} of LibriMix' metadata for {n_src} sources") from None


def _number(file, number, text):
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(f"{file}:{number}: {text!r} where a number belongs") from None


def draw_list(utterances, number, n_src, seed, one_speaker=(), min_seconds=0.0, by_talker=False):
    """`number` entries of random utterances `{utt: Utterance}` of different talkers, none below `min_seconds`.

    Every utterance is the first source about equally often; with `by_talker`, every talker is in equally many mixtures,
    about. Two sources are put at +x and -x dB, x drawn from 0 to LOUDER; a third at 0. `one_speaker`: groups of
    speaker names that are one person. Depends on the arguments only.
    """
    utts = sorted(u for u, x in utterances.items() if x.duration >= min_seconds)
    who = talkers(utterances, one_speaker)
    heard = {}
    for utt in utts:
        heard.setdefault(who[utt], []).append(utt)
    if len(heard) < n_src:
        raise UserError(f"{len(heard)} talkers with utterances of {min_seconds:g} s or more are too few to mix {n_src}")
    rng = random.Random(f"{seed}/{n_src}")
    entries, taken, waiting = [], set(), []
    while len(entries) < number:
        if by_talker:
            chosen = [rng.choice(heard[name]) for name in rng.sample(sorted(heard), n_src)]
        else:
            waiting = waiting or rng.sample(utts, len(utts))
            chosen = [waiting.pop()]
        while len(chosen) < n_src:
            other = rng.choice(utts)
            if who[other] not in [who[u] for u in chosen]:
                chosen.append(other)
        x = round(rng.uniform(0, LOUDER), 4)
        sources = tuple(zip(chosen, [x, -x, 0.0][:n_src], strict=True))
        mix = "_".join(part for utt, db in sources for part in (utt, f"{db:.5g}"))
        if mix not in taken:
            taken.add(mix)
            entries.append(Entry(mix, sources))
    return entries


def write_list(file, entries):
    """Write drawn entries in the form of WSJ0-mix' lists, with utterance ids in the place of paths."""
    lines = [" ".join(f"{name} {db:.5g}" for name, db in entry.sources) for entry in entries]
    write_text(file, "\n".join(lines) + "\n")
