"""Stage 0: put a corpus and the CAM++ weights on disk. What is there already is left alone.

python download.py --corpus mini                          Asterisk core sounds, 5 voices (else Mini LibriSpeech)
python download.py --corpus libritts --parts dev-clean,test-clean
python download.py --corpus ljspeech                      or vctk, aishell3: for tests alone
python download.py --corpus /my/recordings                a folder of speaker folders: only looked at
"""

import argparse
import sys
from pathlib import Path

from asterisk_sounds import fetch_asterisk
from campplus_weights import fetch_campplus
from fetch import UNPACKED, fetch_archive

from pscodec.utils.errors import UserError, one_line_errors

OPENSLR = "https://www.openslr.org/resources"
# SHA-256 (as in torchaudio's dataset classes) and number of .wav files.
LIBRITTS = {
    "dev-clean": ("da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a", 5736),
    "dev-other": ("d413eda26f3a152ac7c9cf3658ef85504dfb1b625296e5fa83727f5186cca79c", 4613),
    "test-clean": ("234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5", 4837),
    "test-other": ("33a5342094f3bba7ccc2e0500b9e72d558f72eb99328ac8debe1d9080402f10d", 5120),
    "train-clean-100": ("c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b", 33236),
    "train-clean-360": ("ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886", 116500),
    "train-other-500": ("e35f7e34deeb2e2bdfe4403d88c8fdd5fbf64865cae41f027a185a6965f0a5df", 205044),
}
LIBRITTS_DEFAULT = "train-clean-100,train-clean-360,train-other-500,dev-clean,test-clean,test-other"
MINI_LIBRISPEECH = {  # MD5, as OpenSLR publishes it
    "train-clean-5": "5df7d4e78065366204ca6845bb08f490",
    "dev-clean-2": "6d7ab67ac6a1d2c993d050e16d61080d",
}
LJSPEECH_URL = "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2"
LJSPEECH_SHA256 = "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"
VCTK_URL = "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip"
VCTK_SHA256 = "f96258be9fdc2cbff6559541aae7ea4f59df3fcaf5cf963aae5ca647357e359c"  # as in torchaudio's dataset class
AISHELL3_WAVS = 88035  # OpenSLR publishes no checksum of it: the files are counted


def fetch_mini(downloads):
    """The mini corpus: the Asterisk core sounds, or Mini LibriSpeech (CC-BY 4.0) where apt does not bring them."""
    folder = Path(downloads) / "mini"
    if all((folder / "LibriSpeech" / part / UNPACKED).exists() for part in MINI_LIBRISPEECH):
        return
    try:
        fetch_asterisk(folder)
    except UserError as error:
        print(f"warning: no Asterisk core sounds ({error}); Mini LibriSpeech instead", file=sys.stderr)
        for part, md5 in MINI_LIBRISPEECH.items():
            fetch_archive(f"{OPENSLR}/31/{part}.tar.gz", folder, f"LibriSpeech/{part}", md5, "md5")


def fetch_libritts(downloads, parts, keep=False):
    """LibriTTS (OpenSLR 60, CC-BY 4.0), `parts` of it, into `downloads/LibriTTS/<part>`."""
    for part in parts:
        sha256, wavs = LIBRITTS[part]
        fetch_archive(f"{OPENSLR}/60/{part}.tar.gz", downloads, f"LibriTTS/{part}", sha256, wavs=wavs, keep=keep)


def fetch_ljspeech(downloads, keep=False):
    """LJSpeech-1.1 (public domain) into `downloads/LJSpeech-1.1`."""
    fetch_archive(LJSPEECH_URL, downloads, "LJSpeech-1.1", LJSPEECH_SHA256, wavs=13100, keep=keep)


def fetch_vctk(downloads, keep=False):
    """VCTK 0.92 (CC-BY 4.0) into `downloads/VCTK-Corpus-0.92`."""
    fetch_archive(VCTK_URL, Path(downloads) / "VCTK-Corpus-0.92", ".", VCTK_SHA256, keep=keep)


def fetch_aishell3(downloads, keep=False):
    """AISHELL-3 (OpenSLR 93, Apache 2.0) into `downloads/AISHELL-3`. Raises UserError if it has too few recordings."""
    folder = Path(downloads) / "AISHELL-3"
    fetch_archive(f"{OPENSLR}/93/data_aishell3.tgz", folder, ".", None, wavs=AISHELL3_WAVS, keep=keep)
    found = sum(1 for _ in folder.rglob("*.wav"))
    if found < AISHELL3_WAVS:
        raise UserError(f"{folder}: {found} of {AISHELL3_WAVS} recordings; remove the folder and start again")


def parse_parts(text):
    """A comma-separated list of LibriTTS parts. Raises UserError for an unknown one."""
    parts = [part for part in text.split(",") if part]
    for part in parts:
        if part not in LIBRITTS:
            raise UserError(f"--parts: LibriTTS has no part {part!r}; it has {', '.join(sorted(LIBRITTS))}")
    if not parts:
        raise UserError("--parts: names no part")
    return parts


def look_at_folder(folder):
    """Check that a user's corpus is a folder of speaker folders; reading it is stage 1's. Raises UserError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--corpus {folder}: neither mini, libritts, {', '.join(TESTS_ALONE)}, nor a folder")
    if not any(entry.is_dir() for entry in folder.iterdir()):
        raise UserError(f"--corpus {folder}: has no speaker folders; expected {folder}/<speaker>/<recording>")


TESTS_ALONE = {"ljspeech": fetch_ljspeech, "vctk": fetch_vctk, "aishell3": fetch_aishell3}


@one_line_errors
def main(argv=None):
    """Command line of stage 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"mini, libritts, {', '.join(TESTS_ALONE)}, or a folder of speaker folders"
    parser.add_argument("--corpus", default="mini", help=names)
    parser.add_argument("--downloads", default="downloads", type=Path, help="where corpora and weights go")
    parser.add_argument("--parts", default=LIBRITTS_DEFAULT, help="parts of LibriTTS, comma separated")
    parser.add_argument("--keep-archives", action="store_true", help="keep tar archives after unpacking")
    parser.add_argument("--no-campplus", action="store_true", help="leave the CAM++ weights out")
    args = parser.parse_args(argv)
    if args.corpus == "mini":
        fetch_mini(args.downloads)
    elif args.corpus == "libritts":
        fetch_libritts(args.downloads, parse_parts(args.parts), args.keep_archives)
    elif args.corpus in TESTS_ALONE:
        TESTS_ALONE[args.corpus](args.downloads, args.keep_archives)
    else:
        look_at_folder(args.corpus)
    if not args.no_campplus:
        fetch_campplus(args.downloads / "campplus")
    print(f"corpus {args.corpus}: on disk", file=sys.stderr)


if __name__ == "__main__":
    main()
