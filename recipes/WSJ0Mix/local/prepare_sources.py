"""Stages 0 and 1 for corpora that a user brings: the clean speech that published lists mix, as Kaldi data dirs.

  python prepare_sources.py decode --wsj0 /ldc/wsj0 --downloads downloads        shorten-compressed files, once
  python prepare_sources.py dirs --wsj0 /ldc/wsj0 --downloads downloads --data data/wsj0/clean [--lists DIR]
  python prepare_sources.py dirs --librispeech /my/LibriSpeech --data data/librimix/clean --lists metadata/Libri2Mix

WSJ0 (LDC93S6A/B): --wsj0 is the folder above si_tr_s, si_dt_05 and si_et_05, at any depth, with .wv1 files of LDC or
with .wav of somebody's conversion. It is only read: what is compressed with shorten is decoded to downloads/wsj0.
With lists, a data dir holds the utterances that the split's list names. Without, train is si_tr_s, dev si_dt_05 and
test si_et_05, so that no talker is in two of them; the published cv list is of the talkers of si_tr_s, and tt of the
other two.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
from pathlib import Path

import lists
import torch
from shorten import is_shortened, read_shortened

from pscodec.data.audio import recording_seconds, save_audio
from pscodec.data.kaldi import Utterance, choose_prompts, validate_data_dir, write_data_dir, write_table
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

SUBSETS = {"train": "si_tr_s", "dev": "si_dt_05", "test": "si_et_05"}
PREPARED = ".prepared"  # marks folders that this program wrote, and may write again
ENDINGS = (".wv1", ".wav", ".flac")  # in this order of preference; .wv2 is another microphone


def find_wsj0(root):
    """`{utterance: path}` of the three subsets under `root`. Raises UserError where it is not WSJ0."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--wsj0 {root}: no such folder")
    found = {}
    for path in sorted(root.rglob("*")):
        parts = [part.lower() for part in path.parts]
        if path.suffix.lower() in ENDINGS and any(subset in parts for subset in SUBSETS.values()):
            utt = path.stem.lower()
            if utt not in found or _rank(path) < _rank(found[utt]):
                found[utt] = path
    if not found:
        raise UserError(f"--wsj0 {root}: no .wv1 or .wav below folders {', '.join(SUBSETS.values())}")
    return found


def _rank(path):
    return ENDINGS.index(path.suffix.lower())


def subset_of(path):
    return next(part.lower() for part in path.parts if part.lower() in SUBSETS.values())


def decoded_path(downloads, utt, path):
    """Where the decoded form of a compressed file is."""
    return Path(downloads) / "wsj0" / subset_of(path) / utt[:3] / f"{utt}.wav"


def decode_one(task):
    """Decode one file; returns whether there was anything to do."""
    source, target = task
    if target.exists() or not is_shortened(source):
        return False
    samples, sample_rate = read_shortened(source)
    save_audio(target, torch.from_numpy(samples) / 32768.0, sample_rate)
    return True


def decode(args):
    """Stage 0: decode what is compressed."""
    tasks = [(path, decoded_path(args.downloads, utt, path)) for utt, path in find_wsj0(args.wsj0).items()]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max(1, args.nj), context, torch.set_num_threads, (1,)) as pool:
        try:
            done = sum(progress(pool.map(decode_one, tasks, chunksize=16), "decode WSJ0", len(tasks)))
        finally:
            pool.shutdown(cancel_futures=True)
    print(f"{args.wsj0}: {len(tasks)} recordings, {done} of them decoded now")


def wsj0_utterance(downloads, found, utt):
    """The `Utterance` of an id; its talker is the id's first three letters."""
    path = found[utt]
    decoded = decoded_path(downloads, utt, path)
    path = decoded if decoded.exists() else path
    return Utterance(utt, utt[:3], str(path), recording_seconds(path))


def librispeech_utterance(root, names, utt):
    """The `Utterance` of a path in LibriMix' metadata; its talker is the id's first part."""
    path = Path(root) / names[utt]
    return Utterance(utt, utt.split("-")[0], str(path), recording_seconds(path))


def dirs(args):
    """Stage 1: the data dirs of the sources; test gets utt2prompt."""
    found = find_wsj0(args.wsj0) if args.wsj0 else {}
    if not args.wsj0 and not args.lists:
        raise UserError("--librispeech needs --lists, the metadata of LibriMix")
    for split in lists.SPLITS:
        if args.lists:
            files = lists.find_lists(args.lists, split, args.n_src)
            entries = [entry for file in files for entry in lists.read_list(file, args.n_src)]
            names = {u: name for e in entries for u, (name, _) in zip(e.utts, e.sources, strict=True)}
        else:
            names = {utt: None for utt, path in found.items() if subset_of(path) == SUBSETS[split]}
        if args.wsj0:
            missing = sorted(set(names) - set(found))
            if missing:
                raise UserError(
                    f"--wsj0 {args.wsj0}: {len(missing)} utterances of {split} are missing, as {missing[0]}"
                )
            make = functools.partial(wsj0_utterance, args.downloads, found)
        else:
            make = functools.partial(librispeech_utterance, args.librispeech, names)
        utterances = [make(utt) for utt in progress(sorted(names), f"look at {split}")]
        if not utterances:
            raise UserError(f"--wsj0 {args.wsj0}: holds nothing of {SUBSETS[split]}")
        folder = args.data / split
        if (folder / "wav.scp").exists() and not (folder / PREPARED).exists():
            raise UserError(f"{folder}: not made by this program, so left alone; choose another --data")
        write_text(folder / PREPARED, "wsj0\n" if args.wsj0 else "librispeech\n")
        write_data_dir(folder, utterances)
        if split == "test":
            write_table(folder / "utt2prompt", choose_prompts({u.utt: u for u in utterances}, args.seed)[0])
        speakers = len({u.spk for u in utterances})
        hours = sum(u.duration for u in validate_data_dir(folder).values()) / 3600
        print(f"{folder}: {len(utterances)} utterances, {speakers} speakers, {hours:.2f} h")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decode", "dirs"))
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--wsj0", type=Path, help="WSJ0")
    corpus.add_argument("--librispeech", type=Path, help="LibriSpeech, above train-clean-100 and so on")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"), help="where decoded recordings go")
    parser.add_argument("--data", type=Path, help="where the data dirs go")
    parser.add_argument("--lists", type=Path, help="folder of published mixing lists")
    parser.add_argument("--n-src", type=int, default=2, choices=(2, 3), help="which of the lists: talkers in a mixture")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    {"decode": decode, "dirs": dirs}[args.what](args)


if __name__ == "__main__":
    main()
