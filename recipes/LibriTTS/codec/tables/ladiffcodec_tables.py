#!/usr/bin/env python3
"""The LaDiffCodec paper's table 1 and figure 4 with ours beside, and what samplers cost (tables.sh).

Table 1 trains the discrete codec, five autoencoders (one of them none: the diffusion is then of the waveform) and a
diffusion for each of them and each bitrate, by run.sh. The table `samplers` and figure `4` are of one trained model:
--exp, or table 1's [8] at 1.5 kbit/s.
"""

import argparse
import shlex
import subprocess
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from encodec_tables import read_table
from row_options import as_words, composed, read_options, scalars, shortened
from ruamel.yaml import YAML

from pscodec.bin import decode, evaluate
from pscodec.inference import load_codec
from pscodec.metrics.summary import CODEC, format_mean, mean_ci, read_scores
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import plain, resolve
from pscodec.utils.plot import heat_map

RECIPE = Path(__file__).parents[1]
TABLES = ("1", "4", "samplers")
N_Q = ("2", "3", "6")  # codebooks for 1, 1.5 and 3 kbit/s
CONFIGS = {name: f"conf/ladiffcodec_{name}.yaml" for name in ("discrete", "autoencoder_16k", "encodec", "waveform")}
TAUS, GAMMAS = (50, 100, 200, 400, 1000), (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SAMPLERS = {  # how each is asked for, and evaluations of the network for one sample
    "midway": ("midway-infilling, tau 100, gamma 0.3 (paper)", "--sampler midway", 200),
    "ddpm": ("DDPM, 1,000 steps", "--sampler ddpm", 1000),
    "ddim50": ("DDIM, 50 steps", "--sampler ddim --steps 50", 50),
    **{
        f"dpm{n}": (f"DPM-Solver++, {n} step{'s' * (n > 1)}", f"--sampler dpm --steps {n}", n)
        for n in (1, 2, 5, 10, 20)
    },
}
COLUMNS = {"pesq": "PESQ", "stoi": "STOI", "visqol": "ViSQOL", "dnsmos_ovrl": "DNSMOS", "wer": "WER", "secs": "SECS"}
PAIRED = ("pesq", "stoi", "visqol", "dnsmos_ovrl", "wer")  # of which differences by utterance are told, too
SECONDS = 3.2  # of the sample that is timed, as the paper's


def call(*command):
    subprocess.run([str(word) for word in command], check=True, cwd=RECIPE)


def scored(args, exp, out, options="", metrics="pesq", splits=None):
    """Rows of the scores of `exp` on the test sets, decoded with `options`, in folder `out` (made if need be)."""
    path, splits = out / "scores.tsv", splits or args.test_sets
    if not path.is_file():
        common = ["--data", args.data, "--splits", splits]
        words = [*shlex.split(options), "--max-utts", args.max_utts]
        decode.main([str(word) for word in ("--exp", exp, "--out", out, *common, *words)])
        weights = ["--campplus", args.campplus] if "secs" in metrics else []
        scoring = ["--exp", out, *common, "--nj", args.nj, "--metrics", metrics, *weights]
        evaluate.main([str(word) for word in scoring])
    return [row for row in read_scores(path) if row["condition"] == CODEC]


def slug(options):
    """Options of a program as the name of a folder."""
    return "_".join(options.replace("--", "").split())


def mean(rows, name, split=None):
    return mean_ci([row[name] for row in rows if name in row and split in (None, row["split"])])


# ---- table 1


def train(args, name, config, options, parent=None):
    """Train `config` into OUT/NAME by run.sh; returns its folder."""
    exp = args.out / name
    options = {**read_options(args.train_args), **options}
    if args.budget:
        safe = {key: YAML(typ="safe", pure=True).load(value) for key, value in options.items()}
        text = composed(config, args)
        options |= shortened(text, scalars(resolve(text, safe)), args.budget)
    stages = ["--stage", "2", "--stop-stage", "4" if parent else "3"]
    run = ["bash", RECIPE / "run.sh", "--config", config, "--exp", exp, "--corpus", args.corpus]
    run += ["--preset", args.preset, *stages, "--train-args", as_words(options)]
    run += ["--parent", parent] if parent else []
    call(*run, *shlex.split(args.run_args))
    return exp


def table_1(args):
    """Trains what is missing; returns lines of a table."""
    rows = read_table(RECIPE / "paper/ladiffcodec/table1.tsv")
    discrete = args.discrete or train(args, "discrete", CONFIGS["discrete"], {})
    settled = plain((RECIPE / discrete / "hyperparams.yaml").read_text(encoding="utf-8"))
    width = settled["codec"]["encoder"]["latent_dim"]
    lines = [["strides", "", *(f"{int(k) / 2:g} kbit/s" for k in N_Q)]]
    for row in rows:
        if args.rows and row["row"] not in args.rows:
            continue
        strides = row["strides"].split()
        fit = {"encoder_strides": f"[{','.join(strides)}]", "decoder_strides": f"[{','.join(strides[::-1])}]"}
        config, parent = CONFIGS["waveform"], None
        if row["row"] != "waveform":
            config, parent = CONFIGS["encodec"], train(args, f"ae_{row['row']}", CONFIGS["autoencoder_16k"], fit)
        else:
            fit = {}
        cells = []
        for k in N_Q:
            upsample = ",".join(row["upsample"].strip("-").split())
            more = {"discrete": str(discrete), "codec.n_q": k, "codec.upsampler.strides": f"[{upsample}]"}
            more["codec.upsampler.i"] = str(width)
            exp = train(args, f"{row['row']}_{k}", config, fit | more, parent)
            cells.append(
                format_mean(mean(scored(args, exp, exp / f"scored/{slug(args.sampling)}", args.sampling), "pesq"))
            )
        lines += [[f"[{', '.join(strides)}]", "paper", *(row[k] for k in N_Q)], ["", "ours", *cells]]
    own = [scored(args, discrete, args.out / f"own_{k}", f"--n-q {k}") for k in N_Q]
    lines.append(["EnCodec's own decoder", "ours", *(format_mean(mean(found, "pesq")) for found in own)])
    return lines


# ---- one model


def seconds_to_generate(exp, options):
    """Seconds that `exp` takes for SECONDS of noise's codes on this machine, the median of three."""
    names = {"steps": int, "tau": int, "gamma": float, "seed": int}
    how = {key: names.get(key, str)(value) for key, value in read_options(options).items()}
    model = load_codec(exp, precision="auto", sampling=how).model
    frames = round(SECONDS * model.frame_rate)
    codes, times = torch.randint(model.codebook_size, (1, model.n_q, frames)), []
    for _ in range(3):
        start = time.perf_counter()
        model.decode(codes, {})
        times.append(time.perf_counter() - start)
    return median(times)


def table_samplers(args, exp):
    """The discrete codec's own decoder, the autoencoder by itself, and the samplers between: a line a row and split."""
    text = plain((RECIPE / exp / "hyperparams.yaml").read_text(encoding="utf-8"))
    discrete, parent = text["discrete"], args.parent or text["start_from"]["autoencoder"]
    systems = {"the codec's own decoder": (discrete, f"--n-q {text['codec']['n_q']}", "-")}
    if parent != "parent":
        systems["the autoencoder, nothing coded"] = (parent, "", "-")
    for name, options, evaluations in (SAMPLERS[key] for key in args.samplers):
        systems[name] = (exp, options, evaluations)
    paired = [f"{COLUMNS[name]} less the decoder's" for name in PAIRED]
    lines, own = [["", "split", "n", *COLUMNS.values(), *paired, "evaluations", f"s for {SECONDS:g} s"]], None
    for number, (name, (source, options, evaluations)) in enumerate(systems.items()):
        rows = scored(args, source, args.out / (slug(options) or f"system_{number}"), options, args.metrics)
        own = own or rows
        took = "-" if evaluations == "-" else f"{seconds_to_generate(RECIPE / exp, options):.2f}"
        for split in args.test_sets.split():
            cells = [format_mean(mean(rows, column, split)) for column in COLUMNS]
            cells += ["-" if rows is own else signed(differences(rows, own, column, split)) for column in PAIRED]
            n = sum(row["split"] == split for row in rows)
            lines.append([name, split, str(n), *cells, str(evaluations), took])
    return told(lines)


def told(lines):
    """A table without the columns of which nothing is known."""
    kept = [i for i in range(len(lines[0])) if any(line[i].strip("+-") for line in lines[1:])]
    return [[line[i] for i in kept] for line in lines]


def differences(rows, others, name, split):
    """Mean of what `rows` have more than `others` of the same utterances."""
    theirs = {row["utt"]: row[name] for row in others if row["split"] == split and name in row}
    mine = [row for row in rows if row["split"] == split and name in row and row["utt"] in theirs]
    return mean_ci([row[name] - theirs[row["utt"]] for row in mine])


def signed(entry):
    text = format_mean(entry)
    return text if text.startswith("-") else f"+{text}"


def figure_4(args, exp):
    """PESQ of midway-infilling over tau and gamma, of the first test set: a heat map; returns it as lines."""
    split = args.test_sets.split()[0]
    taus, gammas = ([kind(word) for word in words.split()] for kind, words in ((int, args.taus), (float, args.gammas)))
    values = np.zeros((len(taus), len(gammas)))
    for i, tau in enumerate(taus):
        for j, gamma in enumerate(gammas):
            options = f"--sampler midway --tau {tau} --gamma {gamma:g}"
            found = scored(args, exp, args.out / f"figure4/{tau}_{gamma:g}", options, splits=split)
            values[i, j] = mean(found, "pesq")["mean"] or np.nan
    axes = {"x": [f"{gamma:g}" for gamma in gammas], "y": [str(tau) for tau in taus]}
    heat_map(args.out / "figure4.png", values, **axes, labels=("gamma", "tau", "PESQ"))
    body = [[str(tau), *(f"{v:.3f}" for v in row)] for tau, row in zip(taus, values, strict=True)]
    return [["tau \\ gamma", *axes["x"]], *body]


def markdown(lines):
    rule = ["---", *["--:"] * (len(lines[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=" ".join(TABLES), help="some of %(default)s")
    parser.add_argument("--exp", help="trained LaDiffCodec of table samplers and figure 4")
    parser.add_argument("--parent", help="its autoencoder's experiment, scored beside it")
    parser.add_argument("--discrete", help="trained discrete codec of table 1")
    parser.add_argument("--rows", default="", help="rows of table 1 (all)")
    parser.add_argument("--sampling", default="", help="how table 1 decodes, options of bin/decode (midway)")
    parser.add_argument("--corpus", default="mini")
    parser.add_argument("--preset", default="")
    parser.add_argument("--budget", type=int, help="steps of each training of table 1")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--test-sets", default="")
    parser.add_argument("--max-utts", type=int, default=50)
    parser.add_argument(
        "--metrics", default="pesq stoi visqol dnsmos", help="of table samplers (%(default)s); also wer"
    )
    parser.add_argument("--samplers", default=" ".join(SAMPLERS), help="of table samplers (%(default)s)")
    parser.add_argument("--taus", default=" ".join(map(str, TAUS)))
    parser.add_argument("--gammas", default=" ".join(f"{gamma:g}" for gamma in GAMMAS))
    parser.add_argument("--campplus", type=Path, default=Path("downloads/campplus/campplus_cn_en_common.pt"))
    parser.add_argument("--nj", type=int, default=1)
    parser.add_argument("--train-args", default="")
    parser.add_argument("--run-args", default="")
    args = parser.parse_args(argv)
    args.tables, args.rows, args.samplers = args.tables.split(), args.rows.split(), args.samplers.split()
    for given, known in ((args.tables, TABLES), (args.samplers, SAMPLERS)):
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"no {unknown[0]!r}; there are: {', '.join(known)}")
    name = Path(args.corpus).name
    args.preset = args.preset or ("mini" if args.corpus == "mini" else "paper")
    args.data = args.data or Path(f"data/{name}")
    args.test_sets = args.test_sets or {"mini": "test test_unseen", "libritts": "test_clean"}.get(name, "test")
    budget = f"_{args.budget}" if args.budget else ""
    alone = args.exp and "1" not in args.tables
    args.out = args.out or (Path(args.exp) / "tables" if alone else Path(f"exp/ladiffcodec_tables_{name}{budget}"))
    return args


@one_line_errors
def main(argv=None):
    args = parse(argv)
    parts = []
    try:
        if "1" in args.tables:
            parts.append(f"## Table 1, PESQ by the autoencoder's strides\n\n{markdown(table_1(args))}\n")
        exp = args.exp or args.out / "s8_3"
        if "samplers" in args.tables:
            parts.append(f"## Samplers of {exp}\n\n{markdown(table_samplers(args, exp))}\n")
        if "4" in args.tables:
            parts.append(f"## Figure 4, PESQ of {exp} by tau and gamma\n\n{markdown(figure_4(args, exp))}\n")
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"{shlex.join(error.cmd)} ended with status {error.returncode}; called again, it goes on"
        ) from None
    text = "\n".join(parts)
    write_text(RECIPE / args.out / "tables.md", text)
    print(text)


if __name__ == "__main__":
    main()
