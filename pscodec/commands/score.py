"""scores of recordings, decoded or enhanced by anything, against their references"""

import contextlib
from pathlib import Path

DETAILS = """
  pscodec score clean/ decoded/                            two folders: a/b.wav is compared with a/b.flac
  pscodec score data/test other/wav.scp third/             several systems, a column each; wav.scp, data dirs
  pscodec score clean/ --codec pscodec_small_24k_v2:1 encodec:6 opus:6 codec2:3200 --jobs 4
  pscodec score clean/ decoded/ --metrics "pesq stoi wer" --whisper tiny.en --json scores.json

Means over the recordings with 95 % intervals; rates of errors are pooled. Scores that need no reference stand for
the references, too. All are computed at the rate of the references (--sample-rate). What is said is read
from data dirs (text, utt2lang) or from b.txt beside b.wav, and compared with what Whisper hears: WER and CER; without
texts, with what it hears in the reference: dWER and dCER. A recording is coded with itself as its prompt; bit rates
are of whole files. With --out nothing is scored twice, and decoded recordings are kept.
"""
REFERENCE_RATE = 24000  # Hz, where references have several rates


def add_arguments(parser):
    parser.add_argument("ref", metavar="REF", help="references: a folder, a wav.scp or a data dir")
    parser.add_argument("hyp", metavar="HYP", nargs="*", help="what is to be scored, likewise; its names are REF's")
    parser.add_argument("--codec", nargs="+", default=[], metavar="NAME", help="code REF first, by each of these")
    parser.add_argument("--metrics", default="all", help="all, or some of those that a wrong name lists (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--sample-rate", type=int, help="Hz, of all scores")
    parser.add_argument("--lag", type=float, help="seconds that HYP may be late: it is moved (0; codecs 0.1)")
    parser.add_argument("--language", help="of all recordings, en ...; else utt2lang's, else guessed from REF")
    parser.add_argument("--whisper", default="base", help="base, tiny.en, or a folder with a model (%(default)s)")
    parser.add_argument("--campplus", type=Path, help="CAM++ checkpoint, for SECS")
    parser.add_argument("--utmos", type=Path, help="TorchScript model, for UTMOS: [1, L] at 16 kHz -> score")
    parser.add_argument("--max-files", type=int, help="at most so many recordings, spread evenly")
    parser.add_argument("--out", type=Path, help="folder for rows, summary and decoded recordings")
    parser.add_argument("--json", metavar="FILE", help="the summary, to a file or, as -, to standard output alone")
    parser.add_argument("--allow-pipes", action="store_true", help="let a wav.scp hold commands")


def run(args):
    import json
    import sys
    import tempfile

    from pscodec.metrics.summary import format_table
    from pscodec.utils.files import write_text

    with contextlib.ExitStack() as stack:
        if args.json == "-":
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        folder = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        summary = score(args, folder)
        print("\n".join(format_table(Path(args.ref).name, summary["systems"])))
        print(f"{summary['minutes']:.1f} min at {summary['sample_rate']} Hz; " + versions_line(summary))
    text = json.dumps(summary, indent=1) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
    for path in [args.json if args.json != "-" else None, args.out and args.out / "summary.json"]:
        if path:
            write_text(path, text)


def score(args, folder):
    """Score as `args` say, with rows and their cache in `folder`; the summary."""
    from pscodec.data.recordings import find_recordings
    from pscodec.metrics.summary import summarise, write_scores
    from pscodec.scoring import How, choose, score_all, spread
    from pscodec.utils.errors import UserError

    if args.jobs < 1 or (args.max_files or 1) < 1 or (args.lag or 0) < 0:
        raise UserError("--jobs and --max-files must be at least 1, --lag at least 0")
    if not args.hyp and not args.codec:
        raise UserError("nothing to score: name a HYP beside REF, or a --codec")
    how = How(args.jobs, args.campplus, args.utmos, args.whisper)
    refs = find_recordings(args.ref, args.allow_pipes)
    hyps = {name: find_recordings(name, args.allow_pipes) for name in dict.fromkeys(args.hyp)}
    chosen = spread(paired(args.ref, refs, hyps), args.max_files)
    names = choose(args.metrics, how, texts=all(refs[utt].text is not None for utt in chosen))
    rate = args.sample_rate or common_rate([refs[utt].path for utt in chosen])
    jobs = list_jobs(args, refs, hyps, chosen, names, rate, folder)
    rows, _ = score_all(jobs, folder / "scores.cache.jsonl", how)
    order = {job.key: number for number, job in enumerate(jobs)}
    rows.sort(key=lambda row: order[row["split"], row["condition"], row["utt"]])
    tell_failures(rows)
    if args.out:
        write_scores(folder / "scores.tsv", rows, names)
    systems = summarise(rows, names)[""]
    minutes = sum(row["seconds"] for row in rows if row["condition"] == jobs[0].condition) / 60
    more = {"whisper": args.whisper, "versions": versions()}
    return {"references": str(args.ref), "sample_rate": rate, "minutes": minutes, "systems": systems, **more}


def paired(name, refs, hyps):
    """The ids that all of `hyps`, name -> recordings, have, sorted. Raises UserError for one that `refs` lack."""
    from pscodec.utils.errors import UserError

    shared = set(refs)
    for system, found in hyps.items():
        if unknown := sorted(set(found) - set(refs)):
            others = f" (and {len(unknown) - 1} others)" if len(unknown) > 1 else ""
            raise UserError(f"{system}: {unknown[0]}{others} is not in {name}")
        shared &= set(found)
    if not shared:
        raise UserError(f"no recording is in {name} and in all of: {' '.join(hyps)}")
    if len(shared) < len(refs):
        print(f"{len(shared)} of the {len(refs)} recordings in {name} have counterparts, and are scored")
    return sorted(shared)


def common_rate(paths):
    """The rate of all recordings in Hz; REFERENCE_RATE where they have several, or come from pipes."""
    import soundfile

    from pscodec.data.audio import Pipe

    rates = set()
    for path in paths:
        if not isinstance(path, Pipe):
            with contextlib.suppress(soundfile.SoundFileError):  # told when it is scored
                rates.add(soundfile.info(path).samplerate)
    return rates.pop() if len(rates) == 1 else REFERENCE_RATE


def list_jobs(args, refs, hyps, chosen, names, rate, folder):
    """A job a recording and system, recording by recording, so that what is heard in a reference is heard once."""
    from pscodec.coders import open_coder
    from pscodec.metrics.scorer import WITHOUT_REFERENCE
    from pscodec.metrics.summary import REFERENCE
    from pscodec.scoring import Job

    stamps = {name: open_coder(name).stamp for name in dict.fromkeys(args.codec)}
    blind = [name for name in names if name in WITHOUT_REFERENCE]
    jobs = []
    for utt in chosen:
        u = refs[utt]
        shared = {"text": u.text, "language": args.language or u.language, "rate": rate}

        def job(condition, hyp, names, utt=utt, u=u, shared=shared, **more):
            return Job("", condition, utt, u.spk, u.path, u.start, u.end, hyp, names, **shared, **more)

        for name, found in hyps.items():
            jobs.append(job(name, found[utt].path, names, lag=args.lag or 0.0))
        for name, stamp in stamps.items():
            keep = folder / "decoded" / name.replace("/", "_") / f"{utt}.wav" if args.out else None
            lag = 0.1 if args.lag is None else args.lag
            jobs.append(job(name, None, names, lag=lag, codec=name, codec_stamp=stamp, keep=keep))
        if blind:
            jobs.append(job(REFERENCE, None, blind))
    return jobs


def tell_failures(rows):
    """A line a metric that is undefined for some recordings; they are left out of its mean."""
    from collections import defaultdict

    reasons = defaultdict(list)
    for row in rows:
        for name, why in row["failures"].items():
            reasons[name].append(f"{row['utt']}: {why}")
    for name, whys in reasons.items():
        print(f"{name} failed on {len(whys)} of {sum(name in row['names'] for row in rows)}, first {whys[0]}")


PACKAGES = ("pscodec", "pesq", "pystoi", "visqol-python", "speechmos", "onnxruntime", "faster-whisper", "ctranslate2")
PACKAGES += ("jiwer", "whisper-normalizer")


def versions():
    """Versions of what computes scores, of packages that are here."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions_line(summary):
    return ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
