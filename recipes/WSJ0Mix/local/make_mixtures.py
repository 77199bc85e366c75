"""Stage 1, second half: a folder of mixtures, `OUT/{mixtures.tsv,mixtures.json,utt2level}`, out of clean speech.

  python make_mixtures.py --clean data/mini/clean/test --out data/mini/test --split test --number 50
  python make_mixtures.py --clean data/wsj0/clean/test --out data/wsj0/test --split test --lists my/lists --mode max

Sources are put at the levels that the list says, relative to their active level (ITU-T P.56, at 8 kHz whatever the
sampling rate), cut to the shortest (min) or padded to the longest (max), and all scaled by one factor so that the
loudest of mixture and sources peaks at 0.9: as the scripts of WSJ0-2mix do. LibriMix' gains are taken as they are.
No audio is written unless --dump is given; then OUT/wav/{mix,s1,s2} and wav.scp, spk1.scp, spk2.scp.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
from pathlib import Path

import lists
import torch

from pscodec.data.audio import save_audio
from pscodec.data.kaldi import read_data_dir, write_table
from pscodec.data.levels import active_level
from pscodec.data.mixture import (
    Mixture,
    MixtureDataset,
    Source,
    fit,
    joint_gain,
    level_gain,
    load_source,
    read_mixtures,
    write_mixtures,
)
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

LEVEL_RATE = 8000  # Hz at which levels are measured
MADE_BY = "make_mixtures"


def measure_level(utterance):
    """Active level of an utterance, a power; 0 for silence."""
    return active_level(load_source(utterance, LEVEL_RATE), LEVEL_RATE)[0]


def compute(entry, utterances, levels, sample_rate, mode):
    """The `Mixture` of an `Entry`."""
    wavs = [load_source(utterances[utt], sample_rate)[0] for utt in entry.utts]
    length = (min if mode == "min" else max)(map(len, wavs))
    if entry.kind == "gain":
        gains = [gain for _, gain in entry.sources]
    else:
        gains = [level_gain(levels[utt], db) for utt, (_, db) in zip(entry.utts, entry.sources, strict=True)]
        factor = joint_gain(torch.stack([g * fit(w, 0, length) for g, w in zip(gains, wavs, strict=True)]), always=True)
        gains = [factor * gain for gain in gains]
    return Mixture(entry.mix, tuple(Source(u, 0, g) for u, g in zip(entry.utts, gains, strict=True)), length)


def in_threads(function, items, nj, desc):
    """`function` of every item, in order."""
    with concurrent.futures.ThreadPoolExecutor(max(1, nj)) as pool:
        try:
            return list(progress(pool.map(function, items), desc, len(items)))
        finally:
            pool.shutdown(cancel_futures=True)


def wanted(args, utterances):
    """The entries asked for; drawn ones are saved in the folder, so that others can mix the same."""
    if args.lists:
        entries = [
            e
            for file in lists.find_lists(args.lists, args.split, args.n_src)
            for e in lists.read_list(file, args.n_src)
        ]
        for entry in entries:
            for utt in entry.utts:
                if utt not in utterances:
                    raise UserError(f"--lists {args.lists}: {entry.mix} needs {utt}, which {args.clean} lacks")
        return entries
    drawn = args.number, args.n_src, args.seed, args.one_speaker, args.min_seconds, args.by_talker
    entries = lists.draw_list(utterances, *drawn)
    lists.write_list(args.out / f"mix_{args.n_src}_spk_{lists.SPLITS[args.split]}.txt", entries)
    return entries


def make(args):
    """Write the folder of mixtures; nothing is done where it holds them already."""
    utterances = read_data_dir(args.clean)
    if (args.out / "mixtures.tsv").exists() and not (args.out / "mixtures.json").exists():
        (args.out / "mixtures.tsv").unlink()  # begun by an earlier run
    elif (args.out / "wav.scp").exists() and not (args.out / "mixtures.json").exists():
        raise UserError(f"{args.out}: holds a data dir that this program did not make; choose another --out")
    entries = wanted(args, utterances)
    meta = {
        "sample_rate": args.sample_rate,
        "mode": args.mode,
        "n_src": args.n_src,
        "clean": str(args.clean),
        "list": str(args.lists) if args.lists else None,
        "seed": args.seed,
        "one_speaker": args.one_speaker,
        "min_seconds": args.min_seconds,
        "by_talker": args.by_talker,
        "made_of": _made_of(entries, utterances),
    }
    note = args.out / "mixtures.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == meta:
        return report(args.out, "already there")
    torch.set_num_threads(1)
    listed = {utt for entry in entries for utt in entry.utts}
    used = [utt for utt, u in utterances.items() if utt in listed or u.duration >= args.min_seconds]
    levels = dict(zip(used, in_threads(lambda u: measure_level(utterances[u]), used, args.nj, "levels"), strict=True))
    silent = [utt for utt in used if levels[utt] == 0.0]
    if silent:
        print(f"warning: {len(silent)} utterances are silent and keep their level, the first is {silent[0]}")
    one = functools.partial(compute, utterances=utterances, levels=levels, sample_rate=args.sample_rate, mode=args.mode)
    mixtures = in_threads(one, entries, args.nj, f"mixtures of {args.out}")
    write_table(args.out / "utt2level", {utt: f"{level:.9g}" for utt, level in levels.items()})
    write_mixtures(args.out, mixtures, meta)
    report(args.out, "made")


def _made_of(entries, utterances):
    """Checksum of what decides the mixtures beside the settings."""
    digest = hashlib.sha256(repr([(e.mix, e.sources, e.kind) for e in entries]).encode())
    digest.update(repr([(u.utt, u.spk, str(u.path), u.start, u.end) for u in utterances.values()]).encode())
    return digest.hexdigest()


def report(folder, what):
    mixtures, meta = read_mixtures(folder)
    hours = sum(m.length for m in mixtures) / meta["sample_rate"] / 3600
    kind = f"{meta['n_src']} talkers, {meta['mode']}, {meta['sample_rate']} Hz"
    print(f"{folder}: {len(mixtures)} mixtures ({hours:.2f} h) of {kind}, {what}")


def dump(folder, nj):
    """Write every mixture and its sources as 16-bit WAV, and the scp files that name them."""
    data = MixtureDataset(folder)

    def one(index):
        item = data[index]
        signals = {"mix": item["mix"], **{f"s{i + 1}": wav for i, wav in enumerate(item["sources"])}}
        for kind, wav in signals.items():
            save_audio(folder / "wav" / kind / f"{item['utt']}.wav", wav, data.sample_rate)
        return item["utt"]

    utts = in_threads(one, range(len(data)), nj, f"wavs of {folder}")
    tables = {"wav.scp": "mix", **{f"spk{i + 1}.scp": f"s{i + 1}" for i in range(data.meta["n_src"])}}
    for table, kind in tables.items():
        write_table(folder / table, {utt: folder / "wav" / kind / f"{utt}.wav" for utt in utts})
    write_text(folder / "wav" / "README", f"made from {folder / 'mixtures.tsv'}; may be removed\n")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", required=True, type=Path, help="Kaldi data dir of the sources")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--split", required=True, choices=lists.SPLITS, help="which of the lists it is")
    parser.add_argument("--lists", type=Path, help="folder of published lists; without one a list is drawn")
    parser.add_argument("--number", type=int, default=1000, help="mixtures to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--n-src", type=int, default=2, choices=(2, 3), help="talkers in a mixture")
    parser.add_argument("--mode", default="min", choices=("min", "max"), help="cut to the shortest, pad to the longest")
    parser.add_argument("--sample-rate", type=int, default=8000, help="of the mixtures, Hz")
    parser.add_argument("--one-speaker", default="", help="speakers that are one person: a,b or a,b:c,d")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter utterances are not drawn")
    parser.add_argument("--by-talker", action="store_true", help="draw talkers equally often, not utterances")
    parser.add_argument("--dump", action="store_true", help="write the audio too")
    parser.add_argument("--nj", type=int, default=2, help="utterances handled together")
    args = parser.parse_args(argv)
    args.one_speaker = [group.split(",") for group in args.one_speaker.split(":") if group]
    make(args)
    if args.dump:
        dump(args.out, args.nj)


if __name__ == "__main__":
    main()
