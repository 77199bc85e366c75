#!/usr/bin/env python3
"""Stages 3 and 4 of the speech synthesis recipe: train a model of text and codes. Started again, it goes on.

    python train.py conf/base.yaml --preset conf/presets/mini.yaml --exp exp/NAME/ar --codec CODEC \\
        --train_dir data/train --train_codes codes/train --dev_dir data/dev --dev_codes codes/dev --units units

Any scalar of conf/base.yaml can be given as an option. The folder then holds hyperparams.yaml (what really ran), the
text units, save/CKPT*, train_log.txt, curves.tsv and tensorboard/.
"""

import functools

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import if_main_process

from pscodec.brains import loop, program
from pscodec.brains.valle import ValleBrain
from pscodec.data.spoken import DurationBatches, SpokenDataset, collate
from pscodec.data.text import Units
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build, compose, resolve
from pscodec.utils.options import FREE_TO_CHANGE, check_same_model, parse_overrides


def options(argv=None):
    parser = program.parser(__doc__)
    parser.add_argument("--overfit", type=int, help="train and validate on so many utterances: can it learn at all?")
    return parse_overrides(parser, argv)


def datasets(keys, units, overfit=None):
    """For training and validation, by the scalars `keys`; with `overfit` so many utterances for both."""
    common = {"units": units, "longest": keys["longest"], "seed": keys["seed"], "most": overfit}

    def dataset(name, **more):
        durations = f"{keys['durations']}/{name}" if keys["durations"] else None
        return SpokenDataset(keys[f"{name}_dir"], keys[f"{name}_codes"], durations=durations, **more, **common)

    train, dev = dataset("train", prompted=keys["prompted"]), dataset("train" if overfit else "dev")
    if train.facts != dev.facts:
        raise UserError(f"{keys['train_codes']} and {keys['dev_codes']}: codes of two codecs")
    return train, dev


def rates(hp, batches):
    """The optimizer's and the scheduler's constructors, as the key `optimizer_name` says."""
    if hp["optimizer_name"] == "adamw":
        return {}
    if hp["optimizer_name"] != "scaled_adam":
        raise UserError(f"optimizer_name is adamw or scaled_adam, not {hp['optimizer_name']!r}")
    eden = functools.partial(hp["scaled_scheduler"], steps_per_pass=batches.steps_per_pass)
    return {"optimizer": hp["scaled_optimizer"], "scheduler": eden}


def facts(units, codes):
    """What the configuration leaves to the units and the codes."""
    known = {name: codes.facts[name] for name in ("codebook_size", "n_q")}
    known |= {"codec_fingerprint": codes.facts["fingerprint"], "frame_rate": codes.frame_rate}
    return {**known, "n_units": len(units), "units_fingerprint": units.fingerprint}


@one_line_errors
def main(argv=None):
    args, overrides = options(argv)
    run_opts = loop.join(args.device)
    composed = compose(args.config, args.preset)
    keys = YAML().load(resolve(composed, overrides))
    units = Units.load(keys["units"])
    train, dev = datasets(keys, units, args.overfit)
    if keys["codec"] and load_codec(keys["codec"]).fingerprint.hex() != train.facts["fingerprint"]:
        raise UserError(f"{keys['train_codes']}: not the codes of {keys['codec']}, as it is now; stage 2 makes them")
    text = resolve(composed, {**overrides, **facts(units, train)})
    torch.manual_seed(keys["seed"])  # before anything is built
    hp = build(text)
    if if_main_process():
        free = FREE_TO_CHANGE | {"total_steps", "max_minutes", "codec", "units"}
        check_same_model(args.exp, text, free, anew=lambda known: resolve(composed, known))
        write_text(args.exp / "hyperparams.yaml", text)
        units.save(args.exp / "units")

    place, seconds = program.place(), hp["batch_seconds"]
    batches = DurationBatches(
        train.seconds,
        program.share(seconds),
        hp["steps_per_epoch"],
        hp["seed"],
        total=hp["total_steps"],
        **place,
    )
    hp |= rates(hp, batches)
    dev_batches = DurationBatches(dev.seconds, max(seconds, max(dev.seconds)), shuffle=False)

    def introduce(say):
        hours = sum(u.duration for u in train.utterances) / 3600
        say(f"  codes of {train.facts['model']} ({train.facts['fingerprint']}), {train.facts['n_q']} a frame")
        say(f"  {len(units) - 1} {units.kind}; {len(train)} utterances ({hours:.2f} h), {len(dev)} for validation")
        if train.left_out:
            say(f"  {train.left_out} left out: without a text, without codes, or beyond {hp['longest']:g} s")

    modules = {"valle": hp["valle"]}
    brain = program.fit(
        ValleBrain, args, hp, run_opts, modules, (train, batches), (dev, dev_batches), collate, introduce
    )
    if if_main_process():
        brain.journal.close()


if __name__ == "__main__":
    main()
