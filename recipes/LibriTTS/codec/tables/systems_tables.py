#!/usr/bin/env python3
"""Plans, trains and scores rows of the PSCodec and TiCodec papers' tables; `tables.sh --help` tells how it is called.

A row of systems.tsv with a number of codebooks and a seed is one run of run.sh, and one more for each other test corpus
(LJSpeech). The plan puts parents first; a run whose scores are in OUT/scores is done.
"""

import argparse
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from layout import write_tables
from papers import PAPERS, run_name
from row_costs import costs_path, minutes_of, write_costs
from row_options import as_words, composed, parser_of, read_options, scalars, scaled, settle, shortened
from ruamel.yaml import YAML

from pscodec.bin.report import read_curves
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import resolve

RECIPE = Path(__file__).parents[1]
FREE = {"num_workers", "log_steps", "ckpt_interval_steps", "keep_checkpoints"}  # may differ without another result
# Seconds of speech a second without and with discriminators, and minutes for stages 5 to 7: conf/pscodec_base.yaml on
# two cores with AVX512-BF16, as RESULTS.md has it. Taken where no run has been measured on this machine.
STATED = {"mini": (35.0, 18.0, 3.0)}


@dataclass
class Run:
    """One training and its scores: `options` are train.py's, `values` what the configuration comes to."""

    row: object
    n_q: int
    seed: int
    exp: Path
    parent: "Run | None"
    options: dict[str, str]
    values: dict
    corpora: list[str] = field(default_factory=list)

    @property
    def name(self):
        return run_name(self.row, self.n_q, self.seed)

    @property
    def steps(self):
        return self.values["total_steps"]

    def scores(self, corpus):
        return self.exp.parent / "scores" / f"{self.name}.{corpus}.tsv"

    @property
    def note(self):
        return self.exp.parent / "scores" / f"{self.name}.json"

    @property
    def done(self):
        return self.note.exists() and all(self.scores(c).exists() for c in self.corpora)


@one_line_errors
def main(argv=None):
    args = parse(argv)
    runs = plan(args)
    check_notes(runs)
    describe(runs, args)
    if args.dry_run:
        return
    failed = {}
    if any(not run.done for run in runs) and run_sh(args, "--corpus", args.corpus, "--stop-stage", "2"):
        raise UserError("the corpus could not be prepared (above)")
    try:
        for run in runs:
            if why := execute(run, args):
                failed[run.name] = why
            if "figure 7" not in failed and (why := figure_7(args, runs)):
                failed["figure 7"] = why
            write_tables(args.out, args.tables, args.paper, args.corpus_name, args.n_q)
        measure_costs(runs)
    except KeyboardInterrupt:
        raise UserError("interrupted; called again, it goes on") from None
    print("\n" + write_tables(args.out, args.tables, args.paper, args.corpus_name, args.n_q))
    print(f"wrote {args.out}/tables.md and tables.tsv")
    if failed:
        raise UserError(f"{len(failed)} failed: " + "; ".join(f"{name} ({why})" for name, why in failed.items()))


def parse(argv):
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--paper", choices=PAPERS, default="pscodec")
    paper = PAPERS[which.parse_known_args(argv)[0].paper]
    parser = parser_of(__doc__, paper.titles, parents=[which])
    parser.add_argument("--n-q", default=paper.n_q)
    parser.add_argument("--seeds", default="0")
    args = parser.parse_args(argv)
    args.paper, args.tables = paper, args.tables.upper()
    settle(args, paper.titles, paper.out)
    args.n_q = numbers(args.n_q, "--n-q takes numbers of codebooks", 1)
    args.seeds = numbers(args.seeds, "--seeds takes whole numbers", 0)
    for table, corpora in paper.unheard.items():
        if args.corpus in corpora:
            raise UserError(f"{args.corpus} is a test corpus; table {table} takes it with --corpus libritts")
    return args


def numbers(text, what, least):
    """The whole numbers that an option lists, each once."""
    words = text.replace(",", " ").split()
    if not words or any(not word.isdigit() or int(word) < least for word in words):
        raise UserError(f"{what}, not {text!r}")
    return [*dict.fromkeys(int(word) for word in words)]


def plan(args):
    """The runs, parents first, from the rows that are asked for and the tables they stand in."""
    known = {row.id: row for row in args.paper.systems}
    wanted = args.rows.replace(",", " ").split()
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"no row {unknown[0]!r}; there are: {' '.join(known)}")
    names = {row["system"] for table in args.tables for row in args.paper.rows[table]}
    wanted = wanted or [row.id for row in args.paper.systems if names & {*row.systems, row.beside}]
    corpora = [args.corpus_name]
    if args.corpus == "libritts":
        corpora += [corpus for table in args.tables for corpus in args.paper.unheard.get(table, ())]
    runs = {}
    for seed, n_q in itertools.product(args.seeds, args.n_q):
        for name in wanted:
            for row in (known[name].parent and known[known[name].parent], known[name]):
                if row and (row.id, n_q, seed) not in runs:
                    parent = runs.get((row.parent, n_q, seed))
                    runs[row.id, n_q, seed] = make_run(row, n_q, seed, parent, args, corpora)
    return list(runs.values())


def make_run(row, n_q, seed, parent, args, corpora):
    options = {**read_options(args.train_args), **read_options(row.train_args)}
    options |= {"n_groups": "1", "n_residual": str(n_q)} | ({"seed": str(seed)} if seed else {})
    text = composed(row.config, args)
    values = scalars(resolve(text, {key: YAML(typ="safe", pure=True).load(value) for key, value in options.items()}))
    total = (args.budget or values["total_steps"]) * row.steps
    if total != values["total_steps"]:
        options |= shortened(text, values, total)
        values |= scaled(values, total)
    return Run(row, n_q, seed, args.out / run_name(row, n_q, seed), parent, options, values, corpora)


def check_notes(runs):
    """A table compares like with like: what was scored with other settings is told before anything is trained."""
    for run in runs:
        before = json.loads(run.note.read_text(encoding="utf-8")) if run.note.exists() else run.values
        # keys that came with a later program count as their defaults
        for key in ["total_steps", *sorted((before.keys() & run.values.keys()) - FREE)]:
            if before.get(key) != run.values.get(key):
                was, now = before.get(key), run.values.get(key)
                raise UserError(f"{run.exp} was made with {key} {was}, not {now}; choose another --out")


# ---- the cost


def describe(runs, args):
    """Print the plan and how long it takes."""
    lines, total, unknown = [("row", "n_q", "steps", "state", "hours", "by")], 0.0, 0
    for run in runs:
        reached = steps_done(run.exp)
        state = "done" if run.done else f"at step {reached}" if reached else "to do"
        hours, by = (0.0, "") if run.done else cost(run, runs, args, reached)
        total, unknown = total + (hours or 0.0), unknown + (hours is None)
        after = f" after {run.parent.name}" if run.parent else ""
        lines.append(
            (run.row.id, str(run.n_q), f"{run.steps}{after}", state, "-" if hours is None else f"{hours:.2f}", by)
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    rest = f", and {unknown} rows whose speed is not known" if unknown else ""
    print(f"{len(runs)} rows into {args.out}: {total:.1f} hours{rest}\n")


def steps_done(exp):
    steps, _ = read_curves(exp / "curves.tsv").get("total", {}).get("train", ((), ()))
    return int(max(steps, default=0))


def cost(run, runs, args, reached):
    """Hours that are left, and whose speed says so; None where no speed is known."""
    stated = STATED.get(args.preset)
    first, second, minutes = stated or (None, None, 0.0)
    by = f"stated for preset {args.preset}" if stated else ""
    alike = [run.exp, *(r.exp for r in runs if r.row.id == run.row.id), *(r.exp for r in runs)]
    for exp in [*alike, *sorted(args.out.parent.glob(f"*_{args.corpus_name}"))]:
        measured = speeds(exp)
        if any(measured):
            first, second = measured[0] or measured[1], measured[1] or measured[0]
            by = f"measured in {exp.name}"
            break
    if first is None:
        return None, ""
    alone = min(run.steps, run.values["adversarial_start"])  # steps without discriminators
    seconds = max(0, alone - reached) / first + (run.steps - max(reached, alone)) / second
    seconds *= run.values["batch_size"] * run.values["segment"]
    return seconds / 3600 + minutes / 60, by


def speeds(exp):
    """Median seconds of speech a second before and after the discriminators came in; None where not measured."""
    curves, config = read_curves(exp / "curves.tsv"), exp / "hyperparams.yaml"
    if "speech_per_second" not in curves or not config.is_file():
        return None, None
    start = scalars(config.read_text(encoding="utf-8"))["adversarial_start"]
    phases = ([], [])
    for step, value in zip(*curves["speech_per_second"]["train"], strict=True):
        phases[step > start].append(value)
    return tuple(statistics.median(phase) if phase else None for phase in phases)


# ---- the work


def execute(run, args):
    """Train and score one run. Returns why it failed, None where it did not."""
    if run.done:
        return None
    if run.parent and not run.parent.done:
        return f"its parent {run.parent.name} failed"
    print(f"\n==== {run.name}: {', '.join(run.row.systems)}", flush=True)
    common = ["--config", run.row.config, "--exp", run.exp, "--preset", args.preset, "--compare", "", "--words", "0"]
    common += ["--controls", "", "--stop-stage", "6"]  # scores alone: no other conditions, no report
    for corpus in run.corpora:
        if run.scores(corpus).exists():
            continue
        if corpus == args.corpus_name:
            extra = ["--corpus", args.corpus, "--stage", "3", "--train-args", as_words(run.options)]
            extra += ["--parent", run.parent.exp] if run.parent else []
            extra += ["--test-sets", args.paper.test_sets] if corpus == "libritts" and args.paper.test_sets else []
        else:
            extra = ["--corpus", corpus]  # a test corpus: all stages, none of them trains
        if status := run_sh(args, *common, *extra):
            return f"run.sh ended with status {status} on {corpus}"
        write_text(run.scores(corpus), (run.exp / "scores.tsv").read_text(encoding="utf-8"))
    write_text(run.note, json.dumps(run.values, indent=1) + "\n")
    return None


def measure_costs(runs):
    """Of the runs that are done, where their experiments are still here."""
    for run in runs:
        path = costs_path(run.note.parent, run.name)
        if run.seed == 0 and run.done and run.exp.is_dir() and not path.is_file():
            parent = run.parent
            before = minutes_of(parent.exp, parent.values["batch_size"] * parent.values["segment"]) if parent else 0.0
            write_costs(path, run.exp, run.values, before)


def run_sh(args, *options):
    return subprocess.run(["bash", RECIPE / "run.sh", *map(str, options), *shlex.split(args.run_args)]).returncode


def figure_7(args, runs):
    """Compare the latents of DRL-ICT and of the same without DRL, at 675 bit/s. Returns why it failed."""
    done = {run.name: run for run in runs if run.done}
    if "IV" not in args.tables or not {"drl_ict_1q", "ict_1q"} <= done.keys() or (args.out / "figure7.tsv").exists():
        return None
    pair = [done[name].exp for name in ("drl_ict_1q", "ict_1q")]
    if not all(exp.is_dir() for exp in pair):
        return None
    split = "test_clean" if args.corpus == "libritts" else "test"
    options = read_options(args.run_args)
    data = options.get("data", f"data/{args.corpus_name}")
    command = [sys.executable, "-m", "pscodec.bin.latents", "--exp", *pair, "--data", data, "--split", split]
    status = subprocess.run([*map(str, command), "--out", str(args.out / "figure7")], cwd=RECIPE).returncode
    return f"status {status}" if status else None


if __name__ == "__main__":
    main()
