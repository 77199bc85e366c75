"""What the programs that train one network have in common, from their options to the last checkpoint."""

import argparse
from pathlib import Path

import torch
from speechbrain.utils.distributed import get_rank, if_main_process
from speechbrain.utils.epoch_loop import EpochCounter

from pscodec.brains import loop
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.machine import best_precision, keep_memory


def parser(about):
    """Of the options that all of them take; `about` is the program's docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("config", help="a variant's YAML")
    made.add_argument("--preset", action="append", default=[], help="YAML of scalars laid over it; may be repeated")
    made.add_argument("--exp", required=True, type=Path, help="folder of the experiment")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def place():
    """Keywords of a sampler: which of how many processes this one is."""
    distributed = torch.distributed.is_initialized()
    return {"rank": get_rank() or 0, "world": torch.distributed.get_world_size() if distributed else 1}


def share(size):
    """Of a batch of `size`, this process's. Raises UserError where it does not divide."""
    each, rest = divmod(size, place()["world"])
    if rest or not each:
        raise UserError(f"batch_size {size} does not divide by {place()['world']} processes")
    return each


def fit(kind, args, hp, run_opts, module, train, dev, collate, introduce):
    """Train `module` (name -> network) by a Brain of class `kind`, from the last checkpoint on where there is one.

    `train` and `dev`: pairs of a dataset and its batches; `introduce(say)` tells of them. Returns the Brain, its
    journal still open.
    """
    if args.device == "cpu":
        keep_memory()
    epochs = EpochCounter(-(-hp["total_steps"] // train[1].steps))
    checkpointer = AtomicCheckpointer(args.exp / "save", {**module, "epochs": epochs})
    last = checkpointer.find_checkpoint()
    precision = hp["precision"] if hp["precision"] != "auto" else best_precision(args.device)
    brain = kind(modules=module, hparams=hp, run_opts={**run_opts, "precision": precision}, checkpointer=checkpointer)
    loaders = loop.loaders(train[0], train[1], dev[0], dev[1], collate, hp["num_workers"])
    brain.begin(args.exp, train[1])
    brain.minutes = last.meta["minutes"] if last else 0.0
    if if_main_process():
        size = sum(p.numel() for part in module.values() for p in part.parameters()) / 1e6
        brain.journal.say(f"{args.exp}: {size:.2f} M parameters, {args.device}, {precision}")
        introduce(brain.journal.say)
        if last:
            brain.journal.say(f"  going on from step {last.meta['step']}")
    brain.fit(epochs, *loaders)
    return brain
