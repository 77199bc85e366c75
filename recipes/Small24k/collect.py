"""Lay public corpora out as one folder of speaker folders, of which `run.sh --corpus` makes data dirs.

  python collect.py --speechocean762 DIR --resemblyzer DIR --rhasspy kathleen=DIR --rhasspy kerstin=DIR --out CORPUS

Files are linked, not copied. Give those corpora that you have; the released codec had all (README.md).
"""

import argparse
import os
from pathlib import Path

from pscodec.data.audio import SUFFIXES
from pscodec.utils.errors import UserError, one_line_errors


def speechocean762(folder):
    """`WAVE/SPEAKER0001/000010011.WAV`."""
    for path in sorted(folder.glob("WAVE/SPEAKER*/*")):
        yield f"so{path.parent.name.removeprefix('SPEAKER')}", path


def resemblyzer(folder):
    """`audio_data/librispeech_train-clean-100/103/103-1240-0000.flac`: an utterance a speaker."""
    for path in sorted(folder.glob("**/librispeech_train-clean-100/*/*")):
        yield f"ls{path.parent.name}", path


def rhasspy(voice, folder):
    """A repository dataset-voice-VOICE, recordings anywhere in it."""
    for path in sorted(folder.rglob("*")):
        yield voice, path


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speechocean762", type=Path, metavar="DIR", help="OpenSLR 101, unpacked")
    parser.add_argument("--resemblyzer", type=Path, metavar="DIR", help="a clone of resemble-ai/Resemblyzer")
    parser.add_argument("--rhasspy", action="append", default=[], metavar="VOICE=DIR", help="may come again")
    parser.add_argument("--out", type=Path, required=True, help="the folder of speaker folders")
    args = parser.parse_args(argv)
    sources = [(f, d, f(d)) for f, d in ((speechocean762, args.speechocean762), (resemblyzer, args.resemblyzer)) if d]
    for word in args.rhasspy:
        voice, _, folder = word.partition("=")
        if not folder:
            raise UserError(f"--rhasspy {word}: expected VOICE=DIR")
        sources.append((rhasspy, Path(folder), rhasspy(voice, Path(folder))))
    for corpus, folder, recordings in sources:
        count = 0
        for speaker, path in recordings:
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            target = args.out / speaker / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(target):
                target.symlink_to(path.resolve())
            count += 1
        if not count:
            raise UserError(f"{folder}: no recordings of {corpus.__name__} in it ({corpus.__doc__.splitlines()[0]})")
        print(f"{corpus.__name__} {folder}: {count} recordings")
    if not sources:
        raise UserError("no corpus given (--help)")


if __name__ == "__main__":
    main()
