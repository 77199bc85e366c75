"""What is in each corpus: walks that yield `Recording`s, and `look`, which turns them into utterances."""

import concurrent.futures
import csv
import os
from dataclasses import dataclass
from pathlib import Path

from pscodec.data.audio import load_audio, recording_seconds
from pscodec.data.kaldi import Utterance
from pscodec.utils.errors import UserError
from pscodec.utils.progress import progress

QUIET = 1e-3  # a peak of -60 dBFS: no speech in it
# What soundfile reads, and what it does not but is clearly meant as audio: that is then named as unreadable.
SUFFIXES = set(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .w64 .rf64 .caf .sph .nist .voc .paf .svx .mp2"
    " .m4a .aac .wma .mp4 .webm .amr".split()
)


@dataclass(frozen=True)
class Recording:
    """A file of a corpus, not yet opened."""

    utt: str
    spk: str
    path: Path
    text: str | None = None
    language: str | None = None


def look(recordings, shortest, longest, decode, nj=2, desc="look at audio"):
    """Open every recording: `(utterances, left_out)`, in order; `left_out` is a list of `(path, reason)`.

    Left out: unreadable, empty, not of `shortest` to `longest` seconds, an id that is taken, and with `decode` (which
    reads all samples, not the header alone) NaN, infinite and near-silent ones.
    """

    def one(recording):
        try:
            seconds = recording_seconds(recording.path)
            if seconds == 0:
                return "empty audio file"
            if seconds < shortest:
                return f"shorter than {shortest:g} s"
            if seconds > longest:
                return f"longer than {longest:g} s"
            if decode and load_audio(recording.path)[0].abs().max() < QUIET:
                return "near-silent (peak under -60 dBFS)"
        except UserError as error:
            return str(error).removeprefix(f"{recording.path}: ")
        said = {"text": recording.text, "language": recording.language}
        return Utterance(recording.utt, recording.spk, str(recording.path), seconds, **said)

    utterances, left_out, taken = [], [], {}
    with concurrent.futures.ThreadPoolExecutor(max(1, nj)) as pool:
        answers = progress(pool.map(one, recordings), desc, len(recordings))
        for recording, found in zip(recordings, answers, strict=True):
            if recording.utt in taken:
                found = f"its id {recording.utt} is that of {taken[recording.utt]}"
            if isinstance(found, Utterance):
                taken[recording.utt] = recording.path
                utterances.append(found)
            else:
                left_out.append((str(recording.path), found))
    return utterances, left_out


def files_below(folder):
    """Paths of the files below `folder`, sorted, without what is hidden.

    Links to folders are followed, after all that is there itself: each folder is walked once, so a link to one of them
    brings nothing twice, and none leads up, out of the corpus.
    """
    found, todo, walked = [], [Path(folder)], set()
    while todo:
        for here, folders, names in os.walk(todo.pop(0)):
            real = Path(here).resolve()
            folders[:] = [] if real in walked else [name for name in folders if not name.startswith(".")]
            if real not in walked:
                found += [Path(here, name) for name in names if not name.startswith(".")]
            walked.add(real)
            links = [Path(here, name) for name in sorted(folders) if Path(here, name).is_symlink()]
            todo += [link for link in links if not real.is_relative_to(link.resolve())]
    return sorted(found)


def walk_speakers(folder):
    """Recordings of `folder/<speaker>/**/<file>`: id = speaker-path. A `<file>.txt` beside one is its text.

    Returns `(recordings, left_out)`: files outside speaker folders and names that fit no table are left out.
    """
    folder, recordings, left_out = Path(folder), [], []
    for path in files_below(folder):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES:
            continue
        if len(inside.parts) < 2:
            left_out.append((str(path), "not in a speaker folder"))
        elif len(str(path).splitlines()) > 1 or not str(path).isprintable() or str(path) != str(path).strip():
            left_out.append((repr(str(path)), "its name cannot stand in a table"))
        else:
            spk, *rest = ("_".join(part.split()) for part in inside.with_suffix("").parts)
            note = path.with_suffix(".txt")
            text = " ".join(note.read_text(encoding="utf-8", errors="replace").split()) if note.is_file() else None
            recordings.append(Recording(f"{spk}-{'_'.join(rest)}", spk, path, text))
    return recordings, left_out


def walk_libritts(folder):
    """Recordings of a LibriTTS part, `folder/<speaker>/<chapter>/<utt>.wav` with `<utt>.normalized.txt`.

    The utterance id's first underscore becomes a hyphen, 103_1240_x -> 103-1240_x: so ids sort as speakers do, which
    Kaldi's tools expect.
    """
    recordings = []
    for path in sorted(Path(folder).glob("*/*/*.wav")):
        note = path.with_suffix(".normalized.txt")
        text = note.read_text(encoding="utf-8") if note.exists() else None
        recordings.append(Recording(path.stem.replace("_", "-", 1), path.parts[-3], path, text, "en"))
    return recordings


def walk_librispeech(folder):
    """Recordings of a LibriSpeech part, `folder/<speaker>/<chapter>/<utt>.flac` with `<...>.trans.txt` a chapter."""
    recordings = []
    for chapter in sorted(p for p in Path(folder).glob("*/*") if p.is_dir()):
        texts = {}
        for file in chapter.glob("*.trans.txt"):
            texts |= dict(line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines() if " " in line)
        spk = chapter.parent.name
        recordings += [Recording(p.stem, spk, p, texts.get(p.stem), "en") for p in sorted(chapter.glob("*.flac"))]
    return recordings


def walk_ljspeech(folder):
    """Recordings of LJSpeech-1.1, one speaker, `LJ`, with the normalized text of metadata.csv."""
    folder = Path(folder)
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE))
    return [Recording(row[0], "LJ", folder / "wavs" / f"{row[0]}.wav", row[-1], "en") for row in rows if row]


def walk_vctk(folder):
    """Recordings of VCTK 0.92 by its first microphone, with their texts; `p225-225_001` is the id of p225_001."""
    folder, recordings = Path(folder), []
    for path in sorted((folder / "wav48_silence_trimmed").glob("*/*_mic1.flac")):
        name, spk = path.stem.removesuffix("_mic1"), path.parent.name
        note = folder / "txt" / spk / f"{name}.txt"
        text = " ".join(note.read_text(encoding="utf-8").split()) if note.is_file() else None
        recordings.append(Recording(f"{spk}-{name[1:]}", spk, path, text, "en"))
    return recordings


def walk_aishell3(folder):
    """Recordings of a part (train, test) of AISHELL-3; its texts have characters and pinyin in turn: the first stay."""
    folder, texts = Path(folder), {}
    for line in (folder / "content.txt").read_text(encoding="utf-8").splitlines():
        name, _, words = line.partition("\t")
        texts[Path(name).stem] = "".join(words.split()[::2])
    paths = sorted((folder / "wav").glob("*/*.wav"))
    return [Recording(f"{p.parent.name}-{p.stem}", p.parent.name, p, texts.get(p.stem), "zh") for p in paths]
