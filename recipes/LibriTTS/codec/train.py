#!/usr/bin/env python3
"""Stages 3 and 4 of the codec recipe: train the codec of a YAML. Started again, it goes on where it stopped.

    python train.py conf/pscodec_base.yaml --preset conf/presets/mini.yaml --exp exp/pscodec_base [--lr 2e-4 ...]

Any scalar of conf/base.yaml can be given as an option. `--init exp/other` starts from that experiment's codec and
discriminators, but for frozen parts that the configuration's `start_from` names; `--grow exp/other` too, where these
are larger now; `--parent exp/first` is stage 4's: the experiment that gives the parts that `start_from` says. The
folder then holds hyperparams.yaml (what really ran), save/theta_0.safetensors (the initial weights), save/CKPT*,
train_log.txt, curves.tsv and tensorboard/.
"""

import math
from pathlib import Path

import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from speechbrain.utils.distributed import ddp_barrier, get_rank, if_main_process
from speechbrain.utils.epoch_loop import EpochCounter

from pscodec.brains import loop, program
from pscodec.brains.codec import CodecBrain
from pscodec.brains.plan import Planner
from pscodec.brains.start import PARENT, THETA_0, start_from
from pscodec.data.codec import Batches, SegmentPromptDataset, collate
from pscodec.data.scenes import Scenes
from pscodec.inference import load_codec
from pscodec.prompts.campplus import CAMPPlus, load_campplus
from pscodec.released import folder
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import atomic_path, write_text
from pscodec.utils.hparams import build, compose, refers_to, resolve
from pscodec.utils.machine import best_precision, keep_memory
from pscodec.utils.options import check_same_model, parse_overrides
from pscodec.utils.weights import grow_weights, load_weights

OF_PARTS = ("channels", "beam", "quantize_start")  # keys that parts alone read, which not every codec has


def options(argv=None):
    parser = program.parser(__doc__)
    parser.add_argument("--init", type=Path, help="experiment whose codec and discriminators to start from")
    parser.add_argument("--grow", type=Path, help="the same into a larger model: what that one has not begins anew")
    parser.add_argument("--parent", type=Path, help="experiment of the first training, for start_from")
    return parse_overrides(parser, argv)


def check_heard(composed, overrides, config):
    """Raises UserError for an option that would change nothing of this configuration."""
    values = YAML().load(composed)
    for key in OF_PARTS:
        if overrides.get(key, values[key]) != values[key] and not refers_to(composed, key):
            raise UserError(f"--{key}: no part of {config} takes it")


def datasets(hp):
    common = {
        "sees": hp["codec"].sees,
        "hop_length": hp["codec"].hop_length,
        "sample_rate": hp["sample_rate"],
        "channels": hp["codec"].channels,
        "prompt": hp["prompt"],
        "prompt_from": hp["prompt_from"],
        "voiceprint": hp["voiceprint"],
        "seed": hp["seed"],
    }
    folders = [hp["train_dir"], *hp["source_dirs"]]
    train = SegmentPromptDataset(folders, segment=hp["segment"], scenes=scenes(hp, folders), **common)
    dev = SegmentPromptDataset(hp["dev_dir"], segment=hp["valid_segment"], max_utts=hp["valid_utts"], **common)
    return train, dev


def scenes(hp, folders):
    weights = hp["source_weights"] or None
    if weights and len(weights) != len(folders):
        raise UserError(f"source_weights has {len(weights)} shares for {len(folders)} folders ({' '.join(folders)})")
    if unknown := [name for name in hp["music_dirs"] if name not in folders]:
        raise UserError(f"music_dirs: {unknown[0]} is neither train_dir nor one of source_dirs")
    music = [name in hp["music_dirs"] for name in folders]
    rooms = {"rooms": hp["room_dir"], "room_share": hp["room_share"], "rt60": hp["room_rt60"]}
    return Scenes(weights, music, hp["mix_two"], hp["mix_three"], hp["gain"], **rooms, sample_rate=hp["sample_rate"])


def codes_of(hp, parent):
    """Fingerprint (hex) of the experiment whose codes stay: all but the decoder is its, and frozen; else None."""
    parts = {name for name, part in hp["codec"].named_children() if part.state_dict()} - {"decoder"}
    origins = {hp["start_from"].get(name) for name in parts}
    if not parts <= set(hp["frozen"]) or len(origins) > 1 or origins & {None, THETA_0}:
        return None
    (origin,) = origins
    return load_codec(parent if origin == PARENT else origin, precision=None).fingerprint.hex()


def within(name, parts):
    """Whether the part `name` is one of `parts` or in one."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def loaders(hp, train, dev, world):
    size, rest = divmod(hp["batch_size"], world)
    if hp["accumulation"] < 1 or rest or size % hp["accumulation"]:
        raise UserError(
            f"batch_size {hp['batch_size']} does not divide by {world} processes and accumulation {hp['accumulation']}"
        )
    batches = Batches(
        len(train), size, hp["steps_per_epoch"], hp["seed"], rank=get_rank() or 0, world=world, total=hp["total_steps"]
    )
    dev_batches = Batches(len(dev), min(size, len(dev)), seed=hp["seed"], shuffle=False)
    return batches, *loop.loaders(train, batches, dev, dev_batches, collate, hp["num_workers"])


@one_line_errors
def main(argv=None):
    args, overrides = options(argv)
    run_opts = loop.join(args.device)
    torch.backends.cudnn.benchmark = True  # all batches are of one size
    composed = compose(args.config, args.preset)
    check_heard(composed, overrides, args.config)
    text = resolve(composed, overrides)
    torch.manual_seed(YAML().load(text)["seed"])  # before anything is built
    hp = build(text)
    sources = hp["start_from"]
    if args.parent and not {PARENT, THETA_0} & set(sources.values()):
        raise UserError(
            "--parent is an experiment that start_from, a key of the configuration, takes parts of; none is"
        )
    text = resolve(text, {"codes_of": codes_of(hp, args.parent)})
    if if_main_process():
        check_same_model(args.exp, text, anew=lambda known: resolve(composed, known))
        write_text(args.exp / "hyperparams.yaml", text)

    train, dev = datasets(hp)
    codec, discriminators = hp["codec"], hp["discriminators"]
    modules = {"codec": codec, "discriminators": discriminators}
    learned = {name: module for name, module in modules.items() if module.state_dict()}  # some have no discriminators
    for module in codec.modules():
        if isinstance(module, CAMPPlus):
            module.load_state_dict(load_campplus(hp["campplus"]).state_dict())
    if args.init:
        load_weights(folder(args.init), learned)
    told = grow_weights(folder(args.grow), learned) if args.grow else []
    if args.init:  # the last word on what learns
        sources = {name: source for name, source in sources.items() if within(name, hp["frozen"])}
    told += start_from(codec, sources, text, args.parent, args.init)
    try:
        codec.freeze(hp["frozen"])
    except ValueError as error:
        raise UserError(str(error)) from None
    if codec.statistics:
        n = min(codec.statistics, len(train))
        codec.observe(collate([train[0, i * len(train) // n] for i in range(n)])[0])
    theta_0 = args.exp / "save" / "theta_0.safetensors"
    if if_main_process() and not theta_0.exists():
        with atomic_path(theta_0) as partial:
            save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, partial)
    ddp_barrier()

    if args.device == "cpu":
        keep_memory()
    precision = hp["precision"] if hp["precision"] != "auto" else best_precision(args.device)
    hp["losses"].to(args.device)
    epochs = EpochCounter(math.ceil(hp["total_steps"] / (hp["steps_per_epoch"] or len(train) // hp["batch_size"] or 1)))
    checkpointer = AtomicCheckpointer(args.exp / "save", {**learned, "epochs": epochs})
    brain = CodecBrain(
        modules=modules,
        hparams=hp,
        run_opts={**run_opts, "precision": precision},
        checkpointer=checkpointer,
    )
    batches, train_loader, valid_loader = loaders(hp, train, dev, brain.world)
    last = brain.begin(args.exp, batches)
    if if_main_process():
        _introduce(brain, args, hp, precision, train, dev, last)
        for line in [] if last else told:
            brain.journal.say(line)
    brain.fit(epochs, train_loader, valid_loader)
    if if_main_process():
        brain.journal.close()


def _introduce(brain, args, hp, precision, train, dev, last):
    say = brain.journal.say
    say(f"{args.exp}: {type(hp['codec']).__name__}, {hp['codec'].bitrate:.0f} bit/s, {args.device}, {precision}")
    for name, part in [*hp["codec"].named_children(), ("discriminators", hp["discriminators"])]:
        say(f"  {name:<14} {sum(p.numel() for p in part.parameters()) / 1e6:8.3f} M parameters")
    say(f"  {'codec, all':<14} {sum(p.numel() for p in hp['codec'].parameters()) / 1e6:8.3f} M parameters")
    seconds = sum(train.utterances[u].duration for u in train.utts)
    say(f"  {len(train)} training utterances ({seconds / 3600:.2f} h), {len(dev)} for validation")
    if last:
        say(f"  going on from step {last.meta['step']}")
        choices = Planner(brain.modules, brain.hparams).choices()
        if choices and "plan" not in last.meta:
            say(f"  all state is restored; what chance decides ({', '.join(choices)}) is drawn otherwise than it was")


if __name__ == "__main__":
    main()
