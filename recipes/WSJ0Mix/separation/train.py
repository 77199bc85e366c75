#!/usr/bin/env python3
"""Stage 3 of the separation recipe: train the separator that a YAML describes. Started again, it goes on.

    python train.py conf/codecformer_el.yaml --preset conf/presets/mini.yaml --exp exp/el --codec CODEC_EXP

Any scalar of conf/base.yaml can be given as an option. The folder then holds hyperparams.yaml (what really ran),
save/CKPT*, train_log.txt, curves.tsv and tensorboard/; the codec stays where it is.
"""

import json
from pathlib import Path

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.epoch_loop import EpochCounter

from pscodec.brains import loop, program
from pscodec.brains.separation import SeparationBrain
from pscodec.data.codec import Batches
from pscodec.data.mixture import MixtureDataset, collate
from pscodec.downstream.codec import FrozenCodec
from pscodec.downstream.systems import join
from pscodec.inference import load_codec
from pscodec.released import folder
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build, compose, resolve
from pscodec.utils.machine import best_precision, keep_memory
from pscodec.utils.options import FREE_TO_CHANGE, check_same_model, parse_overrides
from pscodec.utils.weights import has_weights, load_weights


def options(argv=None):
    parser = program.parser(__doc__)
    parser.add_argument("--init", type=Path, help="experiment, or released one, whose separator to start from")
    parser.add_argument("--overfit", type=int, help="train and validate on so many mixtures: can it learn at all?")
    return parse_overrides(parser, argv)


def fill_in(text, overrides, device):
    """The configuration with what only the data and the codec know; `(text, coder or None)`."""
    keys = YAML().load(text)
    chosen = {k: overrides.get(k, v) for k, v in keys.items()}
    path = Path(str(chosen["train_dir"])) / "mixtures.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run stage 1")
    meta = json.loads(path.read_text(encoding="utf-8"))
    facts = {key: meta[key] for key in ("sample_rate", "n_src") if chosen[key] is None}
    coder = None
    if not isinstance(chosen["codec"], str | None) or (chosen["coded_mixtures"] and not chosen["codec"]):
        raise UserError("this system has a codec in it: give --codec its experiment folder")
    if chosen["codec"] is not None:
        coder = load_codec(chosen["codec"], device=device, precision=None)
        facts["codec"], facts["codec_fingerprint"] = str(chosen["codec"]), coder.fingerprint.hex()
        silence = torch.zeros(1, 1, coder.model.hop_length, device=device)
        with torch.inference_mode():
            facts["latent_dim"] = coder.model.encoder(silence).shape[1]
        if chosen["activation"] is None:
            # two leaky rectifiers in a row leave half of the masks without a gradient
            facts["activation"] = coder.model.activation if coder.model.activation == "snake" else "elu"
    return resolve(text, {**overrides, **facts}), coder


def datasets(hp, overfit=None):
    """For training and validation; with `overfit` so many mixtures for both."""
    common = {"sample_rate": hp["sample_rate"], "seed": hp["seed"]}
    in_embedding = hp["loss"].domain == "embedding"
    train = MixtureDataset(
        hp["train_dir"],
        segment=hp["segment"],
        dynamic=hp["dynamic"],
        speed=hp["speed"],
        gain_db=hp["gain_db"],
        embeddings=hp["train_embeddings"],
        audio=not in_embedding,
        max_mixtures=overfit,
        **common,
    )
    dev_dir, n_dev = (hp["train_dir"], overfit) if overfit else (hp["dev_dir"], hp["valid_mixtures"])
    dev = MixtureDataset(dev_dir, segment=hp["valid_segment"], max_mixtures=n_dev, **common)
    if train.cache is not None:
        train.cache.require(hp["codec_fingerprint"], hp["normalise"])
    return train, dev


def measure_statistics(separator, frozen, dataset, number, batch_size=8):
    """Standardise by the first mixtures of the training: each of the `number` a segment, as training cuts it."""
    mixtures, sources = [], []
    order = Batches(len(dataset), batch_size, -(-number // batch_size), dataset.seed)
    for keys in order:
        batch = collate([dataset[key] for key in keys])
        if "z_mix" in batch:
            z_mix, z_sources, frames = batch["z_mix"], batch["z_sources"], batch["frames"]
        else:
            device = next(frozen.parameters()).device
            mix, wavs, lengths = (batch[name].to(device) for name in ("mix", "sources", "lengths"))
            z_mix, z_sources, frames = frozen.embed(mix, wavs, lengths)
        for i, n in enumerate(frames.tolist()):
            mixtures.append(z_mix[i, :, :n].T)
            sources.append(z_sources[i, :, :, :n].transpose(1, 2).flatten(0, 1))
    separator.statistics.set(torch.cat(mixtures).cpu(), torch.cat(sources).cpu())


def loaders(hp, train, dev):
    size = program.share(hp["batch_size"])
    batches = Batches(len(train), size, hp["steps_per_epoch"], hp["seed"], **program.place())
    dev_batches = Batches(len(dev), min(size, len(dev)), seed=hp["seed"], shuffle=False)
    return batches, *loop.loaders(train, batches, dev, dev_batches, collate, hp["num_workers"])


@one_line_errors
def main(argv=None):
    args, overrides = options(argv)
    run_opts = loop.join(args.device)
    composed = compose(args.config, args.preset)
    text, coder = fill_in(composed, overrides, args.device)
    torch.manual_seed(YAML().load(text)["seed"])  # before anything is built
    hp = build(text)
    if hp["refiner"] is not None and not (hp["masked"] and hp["loss"].domain == "waveform"):
        raise UserError("refiner: it learns from the masked mixture alone; set masked, and a loss on waveforms")
    if if_main_process():
        # a longer training is the same training, and a codec is known by its fingerprint
        free = FREE_TO_CHANGE | {"epochs", "max_minutes", "valid_decode", "codec"}
        check_same_model(args.exp, text, free, anew=lambda known: resolve(composed, known))
        write_text(args.exp / "hyperparams.yaml", text)

    separator = hp["separator"]
    train, dev = datasets(hp, args.overfit)
    hp["loss"].to(args.device)
    frozen = FrozenCodec(coder.model, hp["sample_rate"], hp["normalise"]) if coder else None
    if separator.domain != "embedding" and not hp["coded_mixtures"]:
        frozen = None
    if hp["masked"] and separator.domain != "embedding":
        raise UserError("masked: this separator gives waveforms, and no codec decodes masks of them")
    system = join(separator, frozen, hp["quantise"], hp["masked"], hp["refiner"])
    if args.init:
        init, parts = folder(args.init), system.parts
        load_weights(init, {name: parts[name] for name in parts if name == "separator" or has_weights(init, name)})

    if args.device == "cpu":
        keep_memory()
    precision = hp["precision"] if hp["precision"] != "auto" else best_precision(args.device)
    epochs = EpochCounter(hp["epochs"])
    checkpointer = AtomicCheckpointer(args.exp / "save", {**system.parts, "epochs": epochs})
    last = checkpointer.find_checkpoint()
    if last and hp["max_minutes"] and last.meta["minutes"] >= hp["max_minutes"]:
        print(f"{args.exp}: has trained for {last.meta['minutes']:.1f} minutes, max_minutes is {hp['max_minutes']}")
        return
    batches, train_loader, valid_loader = loaders(hp, train, dev)
    brain = SeparationBrain(
        modules={"system": system},
        hparams={**hp, "total_steps": hp["epochs"] * len(batches)},
        run_opts={**run_opts, "precision": precision},
        checkpointer=checkpointer,
    )
    brain.minutes = last.meta["minutes"] if last else 0.0
    if hp["standardise"] and separator.domain == "embedding" and not (last or args.init):
        measure_statistics(separator, frozen, train, hp["standardise"])
    brain.begin(args.exp, batches)
    if if_main_process():
        _introduce(brain.journal.say, args, hp, precision, train, dev, last)
    brain.fit(epochs, train_loader, valid_loader)
    if if_main_process():
        brain.journal.close()


def _introduce(say, args, hp, precision, train, dev, last):
    size = {name: sum(p.numel() for p in hp[name].parameters()) for name in ("separator", "refiner") if hp[name]}
    kind = type(hp["separator"]).__name__
    say(f"{args.exp}: {kind}, {size['separator'] / 1e6:.2f} M parameters, {args.device}, {precision}")
    if "refiner" in size:
        say(f"  its masks are corrected by {size['refiner'] / 1e3:.1f} k, which alone are trained")
    loss, place = type(hp["loss"]).__name__, hp["train_embeddings"] or "live"
    say(f"  {loss}; codec {hp['codec'] or 'none'}; mixtures of {hp['n_src']} at {hp['sample_rate']} Hz")
    say(f"  {len(train)} mixtures for training, {len(dev)} for validation; embeddings {place}")
    if last:
        say(f"  going on from step {last.meta['step']}")


if __name__ == "__main__":
    main()
