#!/usr/bin/env python3
"""The EnCodec paper's tables with ours beside: `tables.sh --paper encodec` tells how it is called.

A row of paper/encodec/systems.tsv is one training, scored with several numbers of codebooks: one call of run.sh, whose
scores are in OUT/ID/compare/ID_K. Speeds (table 5) are measured here, on one thread, of networks of the paper's size.
"""

import shlex
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from row_options import as_words, composed, parser_of, read_options, scalars, scaled, settle, shortened
from ruamel.yaml import YAML

from pscodec.commands.bench import load, network, timed
from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.export import export
from pscodec.metrics.summary import CODEC, mean_ci, read_scores
from pscodec.models.language import CodesLanguageModel
from pscodec.streaming import StreamEncoder
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import compose, resolve

RECIPE = Path(__file__).parents[1]
PAPER = RECIPE / "paper/encodec"
TITLES = {
    "1": "bandwidths, 24 kHz, streamable",
    "2": "discriminators, 6 kbit/s",
    "3": "streamable or not, balanced or not, one bandwidth or many, 6 kbit/s",
    "4": "stereo at 48 kHz",
    "5": "latency and speed, 6 kbit/s, one thread",
}
COLUMNS = {
    "bandwidth": "kbit/s",
    "coded": "entropy coded",
    "si_snr": "SI-SNR ↑",
    "visqol": "ViSQOL ↑",
    "mushra": "MUSHRA ↑",
    "latency": "latency, ms",
    "encode": "encode, x real time",
    "decode": "decode, x real time",
    "encode_coded": "encode + EC",
    "decode_coded": "decode + EC",
}
DIGITS = {"latency": 0, "encode": 1, "decode": 1, "bandwidth": 1, "coded": 1}
SPEED = {"seconds": 4.0, "rounds": 3}
LANGUAGE_SCHEDULE = ("warmup", "steps_per_epoch", "ckpt_interval_steps", "log_steps")  # of a language model, in steps
OPTIONAL = {"stereo"}  # rows that are trained only where --rows names them


def read_table(path):
    """Rows of a .tsv of paper/encodec as dicts of text, without its notes."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def command(row, args):
    """What trains and scores `row`, words."""
    exp = args.out / row["id"]
    others = " ".join(f"{exp}:{k}" for k in row["n_q"].split())
    options = read_options(args.train_args) | read_options(row["train_args"].strip("-") and row["train_args"])
    language = {}
    if args.budget:
        text = composed(row["config"], args)
        values = scalars(resolve(text, options))
        options |= shortened(text, values, args.budget)
        language = shorter_language(args, args.budget / values["total_steps"])
    run = ["bash", RECIPE / "run.sh", "--config", row["config"], "--exp", exp, "--corpus", args.corpus]
    run += ["--preset", args.preset, "--compare", others, "--words", "0", "--stop-stage", "6"]
    run += ["--train-args", as_words(options)]
    run += ["--entropy", row["entropy"], *(["--entropy-args", as_words(language)] if language else [])]
    return [*map(str, run), *shlex.split(args.run_args)]


def shorter_language(args, share):
    """Options for a language model (stage 4) that trains this share of its steps."""
    presets = [] if args.preset == "paper" else [RECIPE / "conf/language/mini.yaml"]
    values = scalars(compose(RECIPE / "conf/language/base.yaml", presets))
    return scaled(values, max(1, round(share * values["total_steps"])), LANGUAGE_SCHEDULE)


def scores_of(out, row, n_q):
    """Path of the scores of `row` with so many codebooks."""
    return out / row["id"] / "compare" / f"{row['id']}_{n_q}" / "scores.tsv"


def coded_of(out, row, n_q):
    """Folder with what `row` decodes of entropy coded files with so many codebooks."""
    return out / row["id"] / "coded" / n_q


def done(row, out):
    return all(scores_of(out, row, k).is_file() for k in row["n_q"].split())


def entropy_code(row, args):
    """Send the test sets of `row`, which is trained, through entropy coded files, for each number of codebooks."""
    exp = args.out / row["id"]
    splits = " ".join(sorted(p.name for p in (exp / "decode").iterdir() if "." not in p.name))
    data = read_options(args.run_args).get("data", f"data/{args.corpus_name}")
    for k in row["n_q"].split():
        folder = coded_of(args.out, row, k)
        if not list(folder.glob("decode/*/bits.tsv")):
            command = [sys.executable, "-m", "pscodec.bin.decode", "--exp", exp, "--data", data, "--splits", splits]
            command += ["--entropy", "auto", "--n-q", k, "--out", folder]
            subprocess.run([str(word) for word in command], check=True)


def coded_rate(folder):
    """kbit/s of the codes in `folder`, the mean over utterances as for plain ones; None where there are none."""
    rates = []
    for path in folder.glob("decode/*/bits.tsv"):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            _, seconds, codes, *_ = line.split("\t")
            rates.append(8 * int(codes) / float(seconds) / 1000)
    return mean_ci(rates)["mean"]


def measured(path):
    """Means over utterances of a scores.tsv, of what the tables show: {} where it is not there."""
    if not path.is_file():
        return {}
    rows = [row for row in read_scores(path) if row["condition"] == CODEC]
    means = {name: mean_ci([row[name] for row in rows if name in row])["mean"] for name in ("si_snr", "visqol")}
    rate = mean_ci([row["bitrate_codes"] for row in rows if "bitrate_codes" in row])["mean"]
    return {**means, "bandwidth": None if rate is None else rate / 1000}


def speed(row, n_q, seconds, rounds):
    """Latency, and speeds without and with entropy coding, of networks of the paper's size and random weights."""
    coder = load(Namespace(exp=None, config=RECIPE / row["config"], preset=[]), "auto")
    model = coder.model
    model.quantizer.n_q = n_q
    encode, decode = network(coder)
    packer, length = entropy_coder(model)
    wav, times = 0.1 * torch.randn(1, model.channels, round(seconds * model.sample_rate)), defaultdict(list)
    for i in range(-1, rounds):
        took = {}
        coded = timed(took, "encode", encode, wav)
        timed(took, "decode", decode, coded)
        codes = coded.codes if model.chunk else coded[0].numpy()
        parts = [codes[:, at : at + length] for at in range(0, codes.shape[1], length)]
        packets = timed(took, "encode_coded", lambda parts: [packer.encode(part) for part in parts], parts)
        pairs = [(packet, part.shape[1]) for packet, part in zip(packets, parts, strict=True)]
        timed(took, "decode_coded", lambda pairs: [packer.decode(*pair) for pair in pairs], pairs)
        for way in ("encode", "decode"):
            took[f"{way}_coded"] += took[way]
        if i >= 0:  # the first one warms up
            for way, found in took.items():
                times[way].append(found)
    latency = (model.chunk or StreamEncoder(model).latency) / model.sample_rate
    return {"latency": 1000 * latency, **{way: seconds / median(found) for way, found in times.items()}}


def entropy_coder(model):
    """An EntropyCoder of the codec `model` and frames of a packet: a chunk, or 5 s. What its language model has learned
    does not matter to its speed, so that has random weights."""
    sizes = YAML().load((RECIPE / "conf/language/base.yaml").read_text(encoding="utf-8"))
    length = round((model.chunk / model.sample_rate or sizes["seconds"]) * model.frame_rate)
    shape = {key: sizes[key] for key in ("dim", "n_layers", "n_heads", "hidden")}
    context = round(sizes["context_seconds"] * model.frame_rate)
    language = CodesLanguageModel(model.n_q, model.codebook_size, context=context, longest=length, **shape)
    return EntropyCoder(export(language, "00" * 8, model.frame_rate), model.n_q, length), length


def lines_of(table, systems, out, speeds):
    """Pairs (the paper's row, ours: column -> number or None) of a table."""
    lines = []
    for quoted in read_table(PAPER / f"table{table}.tsv"):
        row, own = systems.get(quoted["row"]), {}
        if row and table == "5":
            own = speeds.get(row["id"], {})
        elif row:
            own = measured(scores_of(out, row, quoted["n_q"]))
            own["coded"] = coded_rate(coded_of(out, row, quoted["n_q"]))
        lines.append((quoted, own))
    return lines


def cell(value, column):
    if value in (None, "-"):
        return "-"
    return f"{float(value):.{DIGITS.get(column, 2)}f}"


def markdown(lines):
    columns = [name for name in lines[0][0] if name in COLUMNS]
    text = ["| system | n_q | | " + " | ".join(COLUMNS[c] for c in columns) + " |"]
    text.append("|---|--:|---|" + "--:|" * len(columns))
    for quoted, own in lines:
        for source, values in (("paper", quoted), ("ours", own)):
            if source == "paper" or quoted["row"] != "-":
                cells = " | ".join(cell(values.get(c), c) for c in columns)
                text.append(f"| {quoted['system']} | {quoted['n_q']} | {source} | {cells} |")
    return "\n".join(text)


def write_tables(args, systems, speeds):
    """Write OUT/tables.md; returns its text."""
    parts = [f"## Table {t}, {TITLES[t]}\n\n{markdown(lines_of(t, systems, args.out, speeds))}\n" for t in args.tables]
    note = f"Ours: means over the test sets of `{args.corpus}`; entropy coded in packets of 5 s. `-`: not measured."
    text = "\n".join([*parts, note]) + "\n"
    write_text(args.out / "tables.md", text)
    return text


def parse(argv):
    args = parser_of(__doc__, TITLES).parse_args(argv)
    settle(args, TITLES, "encodec_tables")
    return args


@one_line_errors
def main(argv=None):
    args = parse(argv)
    systems = {row["id"]: row for row in read_table(PAPER / "systems.tsv")}
    wanted = args.rows.replace(",", " ").split()
    if unknown := [name for name in wanted if name not in systems]:
        raise UserError(f"no row {unknown[0]!r}; there are: {' '.join(systems)}")
    named = {row["row"] for t in args.tables if t != "5" for row in read_table(PAPER / f"table{t}.tsv")} - {"-"}
    rows = [systems[name] for name in wanted or systems if name in (wanted or named - OPTIONAL)]
    for row in rows:
        print(f"{row['id']:12} {'done ' if done(row, args.out) else 'to do'}  {shlex.join(command(row, args))}")
    if args.dry_run:
        return
    failed = []
    for row in rows:
        try:
            if not done(row, args.out):
                subprocess.run(command(row, args), check=True)
            if row["entropy"] == "true":
                entropy_code(row, args)
        except subprocess.CalledProcessError:
            failed.append(row["id"])
    speeds = {}
    if "5" in args.tables:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for row in read_table(PAPER / "table5.tsv"):
                speeds[row["row"]] = speed(systems[row["row"]], int(row["n_q"]), **SPEED)
    print(write_tables(args, systems, speeds))
    print(f"wrote {args.out}/tables.md")
    if failed:
        raise UserError(f"{len(failed)} failed: {' '.join(failed)}; called again, it goes on")


if __name__ == "__main__":
    main()
