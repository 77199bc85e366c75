"""Stage 6: score decoded speech against its references.

    python -m pscodec.bin.evaluate --exp exp/NAME --data data --splits "test test_unseen" --campplus PATH

For every split, and every condition found in exp/NAME/decode (`test`, `test.shuffled_codes` ...), each utterance
gets one row in exp/NAME/scores.tsv; exp/NAME/summary.json holds means with 95 % intervals and the codebooks' usage.
`--against prompt` is for speech that was synthesised: what the voice is compared with is not a recording of the same
words, but the utterance that utt2prompt names. Finished rows are kept in exp/NAME/scores.cache.jsonl: a rerun scores
only what is new or has changed. Started by torchrun, its processes share the rows, and --nj counts for each of them.
"""

import argparse
import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from pscodec.metrics.scorer import METRICS, OF_ANOTHER, WITHOUT_REFERENCE
from pscodec.metrics.summary import CODEC, REFERENCE, codebook_usage, format_table, summarise, write_scores
from pscodec.metrics.words import WORDS
from pscodec.scoring import How, Job, choose, score_all, spread
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text

WHISPER = "what hears words: base, tiny.en (English alone), or a folder with a model for CTranslate2 (%(default)s)"


@ranks.together
@one_line_errors
def main(argv=None):
    args = parse(argv)
    how = How(args.nj, args.campplus, args.utmos, args.whisper)
    names, control_names = choose_metrics(args, how)
    folders = find_conditions(args.exp / "decode", args.splits.split())
    jobs = []
    for split, condition, folder in folders:
        wanted = names if condition == CODEC or args.against else control_names
        jobs += list_jobs(split, condition, folder, args, wanted)
        if condition == CODEC and not args.against and (blind := [n for n in names if n in WITHOUT_REFERENCE]):
            coded = [job for job in jobs if job.key[:2] == (split, CODEC)]
            for job in coded:
                if here := [n for n in blind if n in job.names]:
                    jobs.append(replace(job, condition=REFERENCE, hyp=None, names=here, rates={}))
    rows, seconds = score_all(jobs, args.exp / "scores.cache.jsonl", how, args.rescore)
    if not ranks.first():
        return
    table = sorted(rows, key=lambda row: [row["split"], row["condition"] != CODEC, row["condition"], row["utt"]])
    write_scores(args.exp / "scores.tsv", table, names)
    summary = summarise(table, names)
    for split, condition, folder in folders:
        scored = {row["utt"] for row in table if (row["split"], row["condition"]) == (split, condition)}
        summary[split][condition]["codebooks"] = codebook_usage(read_codes(folder / "psc", scored))
    write_text(args.exp / "summary.json", json.dumps(summary, indent=1) + "\n")
    print_failures(table)
    if seconds:
        print("CPU seconds an utterance: " + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items()))
    print_summary(summary)
    print(f"wrote {args.exp / 'scores.tsv'} and {args.exp / 'summary.json'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder, with decode/ in it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--splits", default="test", help="splits to score, separated by spaces (%(default)s)")
    parser.add_argument("--metrics", default="all", help=f"all, or some of: {' '.join(METRICS)}")
    parser.add_argument(
        "--controls-metrics",
        default="pesq stoi si_snr mcd mcd_linear secs",
        help="metrics of the control conditions, where they are among --metrics (%(default)s)",
    )
    parser.add_argument("--against", choices=("prompt",), help="what speech is compared with (the recordings)")
    parser.add_argument("--campplus", type=Path, help="CAM++ checkpoint, for SECS")
    parser.add_argument("--utmos", type=Path, help="TorchScript model for UTMOS: [1, L] at 16 kHz -> score")
    parser.add_argument("--whisper", default="base", help=WHISPER)
    parser.add_argument("--words", type=int, help="hear the words of at most so many utterances a split, spread evenly")
    parser.add_argument("--dnsmos", type=int, help="DNSMOS of at most so many utterances a split, spread evenly")
    parser.add_argument("--nj", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--max-utts", type=int, help="score at most so many utterances a split, spread evenly")
    parser.add_argument("--allow-pipes", action="store_true", help="let a wav.scp hold commands")
    parser.add_argument("--rescore", action="store_true", help="forget the rows of earlier runs")
    args = parser.parse_args(argv)
    if args.nj < 1 or (args.max_utts is not None and args.max_utts < 1) or min(args.words or 0, args.dnsmos or 0) < 0:
        raise UserError("--nj and --max-utts must be at least 1, --words and --dnsmos at least 0")
    return args


def choose_metrics(args, how):
    """Metrics of the codec and of the controls."""
    texts = all((args.data / split / "text").is_file() for split in args.splits.split())
    names = choose(args.metrics, how, texts)
    if args.against:
        bad = [name for name in names if name not in OF_ANOTHER]
        if bad and args.metrics != "all":
            raise UserError(f"{bad[0]} compares two recordings of the same words, so not against a prompt")
        names = [name for name in names if name not in bad]
    controls = args.controls_metrics.replace(",", " ").split()
    for name in controls:
        if name not in METRICS:
            raise UserError(f"unknown metric {name}; there are: {' '.join(METRICS)}")
    return names, [name for name in names if name in controls]


def find_conditions(decode, splits):
    """`[(split, condition, folder)]` under `decode`. Raises UserError when a split was not decoded."""
    found = []
    for split in splits:
        folders = sorted(decode.glob(f"{split}.*")) if decode.is_dir() else []
        if not (decode / split / "wav.scp").is_file():
            raise UserError(f"{decode / split}/wav.scp: no such file; stage 5 (decode) writes it")
        found.append((split, CODEC, decode / split))
        found += [(split, f.name[len(split) + 1 :], f) for f in folders if (f / "wav.scp").is_file()]
    return found


def list_jobs(split, condition, folder, args, names):
    from pscodec.data.kaldi import read_data_dir, read_table

    utterances = read_data_dir(args.data / split, allow_pipes=args.allow_pipes)
    decoded = read_table(folder / "wav.scp")
    for utt in decoded:
        if utt not in utterances:
            raise UserError(f"{folder / 'wav.scp'}: {utt} is not in {args.data / split}")
    if not decoded:
        raise UserError(f"{folder / 'wav.scp'}: no utterances")
    if args.max_utts:
        decoded = {utt: decoded[utt] for utt in spread(sorted(decoded), args.max_utts)}
    rates = read_bits(folder / "bits.tsv")
    few = {name: set(spread(sorted(decoded), args.words)) for name in WORDS}  # what takes longest may be of some alone
    few["dnsmos"] = set(spread(sorted(decoded), args.dnsmos))
    prompts = read_table(args.data / split / "utt2prompt") if args.against else {}
    jobs = []
    for utt, path in decoded.items():
        if not os.path.exists(path):  # the experiment was moved
            path = str(folder / "wav" / Path(path).name)
        u = utterances[utt]
        ref = utterances.get(prompts[utt], u) if args.against else u
        said = {"text": u.text, "language": u.language, "other": bool(args.against)}
        stretch, wanted = (ref.path, ref.start, ref.end), [n for n in names if n not in few or utt in few[n]]
        jobs.append(Job(split, condition, utt, u.spk, *stretch, path, wanted, **said, rates=rates.get(utt, {})))
    return jobs


def read_bits(path):
    """`{utt: {bitrate_codes, bitrate_total}}` in bit/s, from the bytes that stage 5 counted; empty without the file."""
    if not path.is_file():
        return {}
    header, *lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    rates = {}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        seconds = float(row["seconds"])
        rates[row["utt"]] = {
            "bitrate_codes": float(row["codes_bytes"]) * 8 / seconds,
            "bitrate_total": float(row["total_bytes"]) * 8 / seconds,
        }
    return rates


def read_codes(folder, utts):
    """Codes `[K, T]` and codebook size of the .psc files of `utts` in EXP/decode/SPLIT/psc, one after the other."""
    from pscodec import bitstream
    from pscodec.entropy.find import Languages

    places = [Languages(folder.parents[2]), Languages(folder.parent)]  # the experiment; where stage 5 lays another's

    def entropy(header):
        return next(filter(None, (languages.coder(header) for languages in places)), None)

    for path in sorted(folder.glob("*.psc")):
        if path.stem in utts:
            stream = bitstream.read(path, entropy)
            yield stream.codes, 1 << stream.header.bits


def print_failures(rows):
    reasons = defaultdict(list)
    for row in rows:
        for name, why in row["failures"].items():
            reasons[name].append(f"{row['split']}/{row['utt']}: {why}")
    for name, whys in reasons.items():
        print(f"{name} failed on {len(whys)} of {sum(name in r['names'] for r in rows)} utterances, first {whys[0]}")


def print_summary(summary):
    """A small table a split: a line a metric, a column a condition; mean and half width of the 95 % interval."""
    for split, conditions in summary.items():
        print("\n".join(format_table(split, conditions)))
        for k, book in enumerate(conditions[CODEC].get("codebooks", [])):
            print(f"codebook {k}: {book['used']} of {book['size']} used, perplexity {book['perplexity']:.1f}")
        print()


if __name__ == "__main__":
    main()
