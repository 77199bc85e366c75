"""Stage 2: FBank, log-Mel and CAM++ vectors of a data folder, as Kaldi archives.

  python -m pscodec.bin.extract_features --data-dir data/train --campplus downloads/campplus/campplus_cn_en_common.pt

Writes `fbank` `[F, 80]` (16 kHz, for CAM++), `mel` `[F, 80]` (log-Mel at --sample-rate) and, with --campplus,
`xvector` `[192]` (CAM++ of the whole utterance), each as .ark and .scp in the data folder; with --config (and --preset)
only those that this configuration's codec sees, at its rate, trained with --train-args. A second run does only what is
missing; an interrupted one goes on where it stopped. Utterances that cannot be read are named, counted and left out.

  python -m torch.distributed.run --nproc_per_node 4 -m pscodec.bin.extract_features --data-dir ...

shares the utterances over processes, on as many nodes as torchrun is started on; --nj counts for each of them. Every
process writes its part below `features.parts`, the first one then makes the same files of them as if it were alone.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pscodec.data.archive import Archive
from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.features import FBank, LogMel
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.options import parse_overrides
from pscodec.utils.processes import Workers
from pscodec.utils.progress import progress

KINDS = ("fbank", "mel", "xvector")
NEEDED = {"mel": {"mel"}, "voiceprint": {"fbank", "xvector"}, "wav": set()}  # for what a codec sees
PARTS = "features.parts"  # folder of what each of several processes makes


@dataclass(frozen=True)
class Settings:
    """What decides how features look: Hz of the Mel, where CAM++ is (or None), and whether arks are compressed; and
    which are `wanted`."""

    sample_rate: int = 24000
    campplus: str | None = None
    compress: bool = False
    wanted: tuple = KINDS

    def kinds(self):
        """The features to write, in order."""
        return tuple(kind for kind in self.wanted if self.campplus or kind != "xvector")


def seen_by(config, presets, train_args=""):
    """The `wanted` features and the `sample_rate` of the codec that `config` under `presets` and train.py's options
    `train_args` describe."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", action="append", default=[])
    for option in ("device", "exp", "init", "grow", "parent"):  # of train.py, which no codec depends on
        parser.add_argument(f"--{option}")
    given, overrides = parse_overrides(parser, train_args.split())
    codec = build_only(resolve(compose(config, [*presets, *given.preset]), overrides), "codec")
    needed = set().union(*(NEEDED[name] for name in codec.sees))
    return {"wanted": tuple(kind for kind in KINDS if kind in needed), "sample_rate": codec.sample_rate}


class Extractor:
    """Computes the features of an utterance; holds the filter banks and, if asked for, CAM++."""

    def __init__(self, settings):
        self.settings = settings
        self.fbank = FBank()
        self.mel = LogMel(settings.sample_rate, n_fft=1024, hop_length=240, n_mels=80)
        self.campplus = None
        if settings.campplus:
            from pscodec.prompts.campplus import load_campplus  # heavy, and not needed without CAM++

            self.campplus = load_campplus(settings.campplus)

    def __call__(self, utterance, kinds=KINDS):
        """`{kind: float32 array}` of the `kinds` that the settings ask for. Raises UserError with the reason."""
        wav, native = load_audio(utterance.path, None, utterance.start, utterance.end)
        found = {}
        with torch.inference_mode():
            wav16 = resample(wav, native, FBank.sample_rate)
            if wav16.shape[-1] < 400:
                raise UserError(f"{utterance.path}: lasts {1000 * wav.shape[-1] / native:.1f} ms, less than 25 ms")
            fbank = self.fbank(wav16)
            found["fbank"] = fbank.T.numpy()
            if "mel" in kinds:
                found["mel"] = self._mel(utterance, resample(wav, native, self.settings.sample_rate))
            if "xvector" in kinds and self.campplus is not None:
                found["xvector"] = self.campplus(fbank[None])[0].numpy()
        return {kind: found[kind] for kind in kinds if kind in found}

    def _mel(self, utterance, wav):
        if wav.shape[-1] <= self.mel.n_fft // 2:
            raise UserError(f"{utterance.path}: too short for a log-Mel, {wav.shape[-1]} samples")
        return self.mel(wav)[0].T.contiguous().numpy()


def fingerprint(utterance):
    """What an utterance's features were made of: path, stretch, and the file's size and time."""
    try:
        state = os.stat(utterance.path)
        audio = f"{state.st_size} {state.st_mtime_ns}"
    except OSError:
        audio = "?"
    return f"{utterance.path} {utterance.start} {utterance.end} {audio}"


def forget_stale(folder, archives, utterances, settings):
    """Clear those `archives` (of all kinds) that were made of other audio or with other settings; note the present."""
    note = Path(folder) / "features.json"
    if not note.exists() and any(archive.scp.exists() for archive in archives.values()):
        raise UserError(f"{folder}: has features that this program did not make; move its .scp and .ark files away")
    before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    now = {"sample_rate": settings.sample_rate, "compress": settings.compress, "campplus": before.get("campplus")}
    if settings.campplus:
        now["campplus"] = _weights_checksum(settings.campplus)
    now["audio"] = {utt: fingerprint(u) for utt, u in utterances.items()}
    known = before.get("audio", {})
    changed = [utt for utt, made_of in now["audio"].items() if known.get(utt) != made_of]
    if before.get("compress") != now["compress"] or any(utt in a for utt in changed for a in archives.values()):
        stale = KINDS
    else:
        stale = [kind for kind, key in (("mel", "sample_rate"), ("xvector", "campplus")) if before.get(key) != now[key]]
    for kind in stale:
        archives[kind].clear()
    write_text(note, json.dumps(now))


def _weights_checksum(path):
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; stage 0 brings the CAM++ weights") from None


@functools.lru_cache(maxsize=1)
def _extractor(settings):
    return Extractor(settings)


def _work(task):
    """One utterance, in whatever process: `(utt, features or None, reason or None)`."""
    settings, utterance, kinds = task
    extractor = _extractor(settings)  # wrong weights are no utterance's fault and stop everything
    try:
        return utterance.utt, extractor(utterance, kinds), None
    except UserError as error:
        return utterance.utt, None, str(error)


def begin(folder, settings, utterances):
    """What is there and what is missing: `({kind: Archive}, tasks)`; parts that a broken-off run left are taken in."""
    archives = {kind: Archive(folder, kind, settings.compress) for kind in KINDS}
    collect(folder, archives)
    forget_stale(folder, archives, utterances, settings)
    archives = {kind: archives[kind] for kind in settings.kinds()}
    if ranks.world() > 1:
        (folder / PARTS).mkdir()  # here, so that a network's file system shows this process what others put into it
    tasks = []
    for utt, utterance in utterances.items():
        missing = tuple(kind for kind, archive in archives.items() if utt not in archive)
        if missing:
            tasks.append((settings, utterance, missing))
    return archives, tasks


def collect(folder, archives):
    """Move what several processes made of `folder` into `archives`."""
    parts = sorted((folder / PARTS).iterdir()) if (folder / PARTS).exists() else []
    for kind, archive in archives.items():
        archive.absorb([Archive(part, kind, False) for part in parts])
    if (folder / PARTS).exists():
        shutil.rmtree(folder / PARTS)


def make(tasks, archives, workers, desc):
    """Do `tasks` and keep what they give in `archives`; returns `{utt: reason}` of those that cannot be done."""
    failed = {}
    for utt, found, reason in progress(workers.map(_work, tasks), desc, len(tasks), disable=not tasks):
        if found is None:
            failed[utt] = reason
            continue
        for kind, array in found.items():
            archives[kind].add(utt, array)
    for archive in archives.values():
        archive.release()
    return failed


def extract(folder, settings, workers=None, allow_pipes=False):
    """Make the features of a data folder, by `workers` or in this process; under torchrun, with the other processes.

    Returns `(made, kept, failed)`: two counts and `{utt: reason}`, the same in every process.

    Raises UserError for a broken data folder, wrong CAM++ weights, or if no utterance at all has features.
    """
    folder = Path(folder)
    utterances = read_data_dir(folder, allow_pipes)
    archives, tasks = begin(folder, settings, utterances) if ranks.first() else ({}, [])
    mine, own = ranks.share(tasks), archives
    if ranks.world() > 1:
        part = folder / PARTS / f"{ranks.rank():05d}"
        own = {kind: Archive(part, kind, settings.compress) for kind in settings.kinds()}
    failed = make(mine, own, workers or Workers(), f"features of {folder}")
    shares = ranks.gather((len(mine), failed))
    count = sum(n for n, _ in shares)
    failed = dict(sorted(item for _, share in shares for item in share.items()))
    if len(failed) == len(utterances):
        why = f"; the first: {next(iter(failed.values()))}" if failed else ""
        raise UserError(f"{folder}: none of {len(utterances)} utterances has features{why}")
    if ranks.first():
        collect(folder, archives)
        for archive in archives.values():
            if any(task[1].utt not in archive and task[1].utt not in failed for task in tasks):
                raise UserError(f"{folder}: what other processes made is not there; do all nodes share the folder?")
            archive.close(utterances)
    return count - len(failed), len(utterances) - count, failed


@ranks.together
@one_line_errors
def main(argv=None):
    """Command line of stage 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, nargs="+", type=Path, help="data folders, data/train ...")
    parser.add_argument("--campplus", help="the CAM++ weights; without them no xvector is made")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--config", type=Path, help="only what the codec of this configuration sees, at its rate")
    parser.add_argument("--preset", action="append", default=[], help="YAML of scalars laid over it; may be repeated")
    parser.add_argument("--train-args", default="", help="with --config: what train.py will get, in one word")
    parser.add_argument("--sample-rate", type=int, default=24000, help="of the log-Mel, Hz, without --config")
    parser.add_argument("--compress", action="store_true", help="Kaldi's lossy compression, a quarter of the size")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    args = parser.parse_args(argv)
    settings = Settings(args.sample_rate, args.campplus, args.compress)
    if args.config:
        settings = replace(settings, **seen_by(args.config, args.preset, args.train_args))
        if not settings.wanted:
            print(f"{args.config.name}: its codec sees no features of a recording, so none are made")
            return
    with Workers(args.nj) as workers:
        for folder in args.data_dir:
            made, kept, failed = extract(folder, settings, workers, args.allow_pipes)
            for utt, reason in failed.items():
                print(f"left out: {utt}: {reason}", file=sys.stderr)
            if failed:
                total = made + kept + len(failed)
                print(f"warning: {folder}: {len(failed)} of {total} utterances have no features", file=sys.stderr)
            print(f"{folder}: features of {made} utterances made, of {kept} already there, {len(failed)} left out")


if __name__ == "__main__":
    main()
