"""Stage 1: data folders, `data/<split>/{wav.scp,utt2spk,spk2utt,utt2dur[,text][,utt2lang][,utt2prompt]}`, validated.

  python prepare_data.py --corpus mini                      train dev test test_unseen
  python prepare_data.py --corpus libritts                  train dev test_clean test_other, and test_100 of both
  python prepare_data.py --corpus ljspeech                  test_ljspeech
  python prepare_data.py --corpus vctk                      test_vctk, 100 utterances; aishell3 likewise
  python prepare_data.py --corpus /my/recordings            train dev test
  python prepare_data.py --corpus mini --voices en_US_f_Allison --by-text    the same, of what has a text, for synthesis
  python prepare_data.py --validate data/mine data/other    only checks folders that you bring

The corpus itself is only read. Test splits get `utt2prompt`: for each utterance another one of its speaker.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import corpora
import splits as split
from download import LIBRITTS, MINI_LIBRISPEECH, TESTS_ALONE

from pscodec.data.kaldi import choose_prompts, read_table, validate_data_dir, write_data_dir, write_table
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text

# The mini corpus' voice kept for test_unseen. Not an Allison, who speaks both en_US and es_MX, and not Carlo, the only
# man: training keeps both. Of the other two this one is the smaller.
UNSEEN_VOICE = "ru_RU_f_IvrvoiceRU"
ONE_SPEAKER = {"en_US_f_Allison", "es_MX_f_Allison"}
LIBRITTS_SPLITS = {"dev": ["dev-clean"], "test_clean": ["test-clean"], "test_other": ["test-other"]}
LIBRITTS_SPLITS |= {"train": ["train-clean-100", "train-clean-360", "train-other-500"]}
PREPARED = ".prepared"  # marks folders that this program wrote, and may write again


def prepare_mini(args):
    """The mini corpus: all voices but one split by utterance, that one in test_unseen."""
    folder = args.downloads / "mini"
    libri = [folder / "LibriSpeech" / part for part in MINI_LIBRISPEECH]
    if all(part.is_dir() for part in libri):  # the stand-in: dev-clean-2's speakers are the unseen ones
        known, unseen = (corpora.walk_librispeech(part) for part in libri)
        recordings, voices, left_out = known + unseen, {r.spk for r in unseen}, []
    else:
        recordings, left_out = corpora.walk_speakers(_present(folder, "stage 0, --corpus mini"))
        recordings = [replace(r, language=r.spk[:2]) for r in recordings]  # of en_US_f_Allison
        voices = set((args.unseen_voice or UNSEEN_VOICE).split(","))
    if args.by_text:
        utterances, more = _look(args, _of_voices(args, recordings), 1.0, 15.0, decode=True)
        return split.by_text(utterances, args.seed, *_held_out(args, 15, 20)), left_out + more
    spoken = {r.spk for r in recordings}
    if not voices <= spoken or not spoken - voices:
        has = " ".join(sorted(spoken)) or "no voice"
        raise UserError(f"--unseen-voice {' '.join(sorted(voices))}: {folder} has {has}; one must be left to train")
    if len(voices & ONE_SPEAKER) == 1:
        both = " and ".join(sorted(ONE_SPEAKER))
        print(f"warning: the voice of test_unseen is also in train, {both} are one speaker", file=sys.stderr)
    utterances, more = _look(args, recordings, 1.0, 15.0, decode=True)
    most = 50 if args.max_test is None else args.max_test or 50
    dev = 40 if args.max_dev is None else args.max_dev or 40
    found = split.by_utterance([u for u in utterances if u.spk not in voices], args.seed, dev, most)
    found["test_unseen"] = split.cap([u for u in utterances if u.spk in voices], args.seed, most)
    return found, left_out + more


def prepare_libritts(args):
    """LibriTTS' own splits, of the parts that are there, and test_100: as many utterances of its test sets as TiCodec's
    tables have, drawn by the seed."""
    found, left_out = {}, []
    for name, parts in LIBRITTS_SPLITS.items():
        folders = [args.downloads / "LibriTTS" / part for part in parts]
        recordings = [r for folder in folders if folder.is_dir() for r in corpora.walk_libritts(folder)]
        if recordings:
            utterances, more = _look(args, recordings, 0.0, float("inf"), decode=False, desc=f"look at {name}")
            found[name] = split.cap(utterances, args.seed, _most(args, name))
            left_out += more
    if tests := [u for name in ("test_clean", "test_other") for u in found.get(name, ())]:
        found["test_100"] = split.cap(tests, args.seed, 100)
    if not found:
        raise UserError(f"{args.downloads / 'LibriTTS'}: none of {', '.join(sorted(LIBRITTS))} is there; run stage 0")
    return found, left_out


def prepare_ljspeech(args):
    """LJSpeech as a test corpus out of the training domain; by text, train, dev and test of it."""
    folder = _present(args.downloads / "LJSpeech-1.1", "stage 0, --corpus ljspeech")
    if not (folder / "metadata.csv").exists():
        raise UserError(f"{folder}: has no metadata.csv; remove the folder and run stage 0")
    utterances, left_out = _look(args, corpora.walk_ljspeech(folder), 0.0, float("inf"), decode=False)
    if args.by_text:
        return split.by_text(utterances, args.seed, *_held_out(args, 100, 100)), left_out
    return {"test_ljspeech": split.cap(utterances, args.seed, _most(args, "test"))}, left_out


def prepare_vctk(args):
    """100 utterances of VCTK, as many as TiCodec's tables have, drawn by the seed; their list is the data folder."""
    folder = _present(args.downloads / "VCTK-Corpus-0.92", "stage 0, --corpus vctk")
    return _hundred(args, "test_vctk", corpora.walk_vctk(folder))


def prepare_aishell3(args):
    """100 utterances of AISHELL-3's test part, likewise."""
    folder = _present(args.downloads / "AISHELL-3", "stage 0, --corpus aishell3") / "test"
    if not (folder / "content.txt").exists():
        raise UserError(f"{folder}: has no content.txt; remove the folder and run stage 0")
    return _hundred(args, "test_aishell3", corpora.walk_aishell3(folder))


def _hundred(args, name, recordings):
    most = 100 if args.max_test is None else args.max_test
    # drawn before they are opened: the corpora have tens of thousands
    drawn = split.cap(recordings, args.seed, most + most // 10 if most else 0)
    utterances, left_out = _look(args, sorted(drawn, key=lambda r: r.utt), 0.0, float("inf"), decode=False)
    return {name: split.cap(utterances, args.seed, most)}, left_out


def prepare_folder(args):
    """A user's folder of speaker folders: from ten speakers on dev and test have their own, else share them."""
    folder = Path(args.corpus)
    if not folder.is_dir():
        raise UserError(f"--corpus {folder}: neither mini, libritts, {', '.join(TESTS_ALONE)}, nor a folder")
    recordings, left_out = corpora.walk_speakers(folder)
    if not recordings:
        raise UserError(f"--corpus {folder}: has no audio files in speaker folders ({folder}/<speaker>/<recording>)")
    if args.by_text:
        recordings = _of_voices(args, recordings)
    utterances, more = _look(args, recordings, 1.0, 30.0, decode=True)
    left_out += more
    if len(utterances) < 3:
        why = f"; the first left out is {left_out[0][0]} ({left_out[0][1]})" if left_out else ""
        raise UserError(f"--corpus {folder}: {len(utterances)} usable utterances are too few for three splits{why}")
    if len({u.spk for u in utterances}) >= 10:
        found = split.by_speaker(utterances, args.seed, args.test_speakers)
        return {name: split.cap(found[name], args.seed, _most(args, name)) for name in found}, left_out
    share = max(1, round(0.05 * len(utterances)))
    if args.by_text:
        return split.by_text(utterances, args.seed, *_held_out(args, share, share)), left_out
    dev, test = (min(share, _most(args, name) or share) for name in ("dev", "test"))
    return split.by_utterance(utterances, args.seed, dev, test), left_out


def _of_voices(args, recordings):
    """Recordings with a text, of --voices."""
    voices = {r.spk for r in recordings}.intersection(args.voices.split(",")) if args.voices else None
    found = [r for r in recordings if (r.text or "").strip() and (voices is None or r.spk in voices)]
    if not found:
        raise UserError(f"--corpus {args.corpus}: no recording has a text{f' of {args.voices}' if args.voices else ''}")
    return found


def _held_out(args, dev, test):
    """Texts for dev and test: those of the options, or these."""
    return args.max_dev or dev, args.max_test or test


def _present(folder, stage):
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run {stage} first")
    return folder


def _most(args, name):
    """The most utterances that a split may have; 0 is no bound."""
    return (args.max_dev if name == "dev" else args.max_test if name.startswith("test") else 0) or 0


def _look(args, recordings, shortest, longest, decode, desc="look at audio"):
    shortest = shortest if args.min_seconds is None else args.min_seconds
    longest = longest if args.max_seconds is None else args.max_seconds
    return corpora.look(recordings, shortest, longest, decode, args.nj, desc)


def write_splits(data, splits, corpus, seed):
    """Write and validate the data folders, test splits with utt2prompt. Never overwrites a folder that a user made."""
    for name, utterances in splits.items():
        if not utterances:
            raise UserError(f"{name}: no usable utterance")
        if (data / name / "wav.scp").exists() and not (data / name / PREPARED).exists():
            raise UserError(f"{data / name}: not made by this program, so left alone; use --validate or another --data")
    for name, utterances in splits.items():
        write_text(data / name / PREPARED, f"{corpus}\n")
        write_data_dir(data / name, utterances)
        alone = add_prompts(data / name, {u.utt: u for u in utterances}, seed) if name.startswith("test") else []
        report(data / name, validate_data_dir(data / name), alone)


def add_prompts(folder, utterances, seed):
    """Write `folder/utt2prompt`; returns the utterances that are their own prompt, their speaker having no other."""
    prompts, alone = choose_prompts(utterances, seed)
    write_table(folder / "utt2prompt", prompts)
    return alone


def report(folder, utterances, alone=()):
    """Print a line about a data folder, and one about speakers with a single utterance."""
    minutes = sum(u.duration for u in utterances.values()) / 60
    speakers = len({u.spk for u in utterances.values()})
    print(f"{folder}: {len(utterances)} utterances, {speakers} speakers, {minutes:.1f} min")
    if alone:
        print(f"{folder}: {len(alone)} are their own prompt, being their speaker's only utterance: {' '.join(alone)}")


def report_left_out(left_out, corpus):
    """Print how many files were left out and why; broken ones are named, those of another length only counted."""
    counts = {}
    for path, reason in left_out:
        if reason.startswith(("shorter than", "longer than")):
            counts[reason] = counts.get(reason, 0) + 1
        else:
            print(f"left out: {path}: {reason}", file=sys.stderr)
    if left_out:
        named = len(left_out) - sum(counts.values())
        parts = [f"{n} {reason}" for reason, n in sorted(counts.items())]
        parts += [f"{named} unusable, named above"] * (named > 0)
        print(f"left out {len(left_out)} files of {corpus}: {', '.join(parts)}")


def validate(folders, prompts, seed, allow_pipes):
    """Check data folders that a user brings; with `prompts`, add utt2prompt where there is none."""
    for folder in folders:
        utterances, alone = validate_data_dir(folder, allow_pipes), []
        if prompts and not (folder / "utt2prompt").exists():
            alone = add_prompts(folder, utterances, seed)
        elif (folder / "utt2prompt").exists():
            alone = [utt for utt, prompt in read_table(folder / "utt2prompt").items() if utt == prompt]
        report(folder, utterances, alone)


@one_line_errors
def main(argv=None):
    """Command line of stage 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"mini, libritts, {', '.join(TESTS_ALONE)}, or a folder of speaker folders"
    parser.add_argument("--corpus", default="mini", help=names)
    parser.add_argument("--downloads", default="downloads", type=Path, help="where stage 0 put the corpus")
    parser.add_argument("--data", default="data", type=Path, help="where the data folders go")
    parser.add_argument("--seed", default=0, type=int, help="of the splits and the prompts")
    parser.add_argument("--test-speakers", type=int, help="a folder's speakers kept for test (a twentieth of them)")
    parser.add_argument("--max-test", type=int, help="most utterances a test split (mini: 50, others: all)")
    parser.add_argument("--max-dev", type=int, help="most utterances in dev (mini: 40, others: all)")
    parser.add_argument("--min-seconds", type=float, help="shortest utterance (default: mini and folders 1)")
    parser.add_argument("--max-seconds", type=float, help="longest utterance (default: mini 15, folders 30)")
    parser.add_argument("--unseen-voice", help=f"mini: voice of test_unseen, commas for more (default {UNSEEN_VOICE})")
    parser.add_argument("--by-text", action="store_true", help="only what has a text; no text in two splits")
    parser.add_argument("--voices", help="with --by-text: only these speakers, commas between (all)")
    parser.add_argument("--nj", default=2, type=int, help="files looked at together")
    parser.add_argument("--validate", nargs="+", type=Path, metavar="DIR", help="only check these data folders")
    parser.add_argument("--add-prompts", action="store_true", help="with --validate: write utt2prompt where it lacks")
    parser.add_argument("--allow-pipes", action="store_true", help="with --validate: accept commands in wav.scp")
    args = parser.parse_args(argv)
    if args.validate:
        return validate(args.validate, args.add_prompts, args.seed, args.allow_pipes)
    prepare = {"mini": prepare_mini, "libritts": prepare_libritts, "ljspeech": prepare_ljspeech}
    prepare |= {"vctk": prepare_vctk, "aishell3": prepare_aishell3}
    found, left_out = prepare.get(args.corpus, prepare_folder)(args)
    report_left_out(left_out, args.corpus)
    write_splits(args.data, found, args.corpus, args.seed)


if __name__ == "__main__":
    main()
