"""Options of the programs that fill papers' tables, and of the trainings that a row of a table is."""

import argparse
import shlex
from pathlib import Path

from ruamel.yaml import YAML

from pscodec.utils.errors import UserError
from pscodec.utils.hparams import compose, refers_to

RECIPE = Path(__file__).parents[1]
SCHEDULE = ("adversarial_start", "quantize_start", "steps_per_epoch", "ckpt_interval_steps", "log_steps")


def parser_of(about, tables, parents=()):
    """An argparse parser of the options of every paper's tables; `about` is the program's docstring."""
    look = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=look, parents=list(parents))
    parser.add_argument("--corpus", default="mini")
    parser.add_argument("--tables", default=" ".join(tables))
    parser.add_argument("--rows", default="")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--preset", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train-args", default="")
    parser.add_argument("--run-args", default="")
    parser.add_argument("--dry-run", action="store_true")
    return parser


def settle(args, tables, folder):
    """Make names of `args.tables`, and fill in what depends on other options; results go to exp/`folder`_CORPUS."""
    args.tables = args.tables.replace(",", " ").split()
    if unknown := [table for table in args.tables if table not in tables]:
        raise UserError(f"no table {unknown[0]}; there are {' '.join(tables)}")
    if args.budget is not None and args.budget < 1:
        raise UserError("--budget must be at least one step")
    args.corpus_name = Path(args.corpus).name
    args.preset = args.preset or ("mini" if args.corpus == "mini" else "paper")
    suffix = f"_{args.budget}" if args.budget else ""
    args.out = args.out or Path(f"exp/{folder}_{args.corpus_name}{suffix}")


def composed(config, args):
    """The text of a row's configuration under the preset, as run.sh trains it."""
    presets = [] if args.preset == "paper" else [RECIPE / f"conf/presets/{args.preset}.yaml"]
    return compose(RECIPE / config, presets)


def scaled(values, total, schedule=SCHEDULE):
    """`total_steps` and what of the schedule is counted in steps, in proportion. 0 and null stay what they are."""
    share = total / values["total_steps"]
    return {"total_steps": total, **{k: max(1, round(values[k] * share)) for k in schedule if values[k]}}


def shortened(text, values, total):
    """Options of train.py for `total` steps of composed `text`, whose scalars are `values`: `scaled`, without what no
    part of it takes."""
    steps = scaled(values, total)
    if not refers_to(text, "quantize_start"):  # not every quantizer can come in later
        steps.pop("quantize_start", None)
    return {key: str(value) for key, value in steps.items()}


def as_words(options):
    """Options of a program in the one word that run.sh splits at spaces."""
    return " ".join(f"--{key} {value}" for key, value in options.items())


def read_options(words):
    """`--key value ...` as `{key: value}`, all text."""
    words = shlex.split(words)
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        raise UserError(f"expected --key value ..., got {' '.join(words)!r}")
    return {key[2:].replace("-", "_"): value for key, value in zip(words[::2], words[1::2], strict=True)}


def scalars(text):
    tree = YAML().load(text)
    return {k: v for k, v in tree.items() if v is None or isinstance(v, str | int | float | list)}
