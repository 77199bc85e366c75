#!/usr/bin/env python3
r"""Train the language model of a codec's codes, for entropy coding. Started again, it goes on where it stopped.

    python train_language.py conf/language/base.yaml --exp EXP/entropy \
        --train_codes EXP/codes/train --dev_codes EXP/codes/dev

The codes are those of `python -m pscodec.bin.dump_codes`. Any scalar of conf/language/base.yaml can be given as an
option. At the end the best weights, in integers, are EXP/entropy/entropy.safetensors, which `pscodec` finds there.
"""

import math

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import if_main_process

from pscodec.brains import loop, program
from pscodec.brains.language import LanguageBrain
from pscodec.data.codec import Batches
from pscodec.data.codes import CodesDataset, collate
from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.export import export
from pscodec.entropy.network import FILE
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build, compose, resolve
from pscodec.utils.options import FREE_TO_CHANGE, check_same_model, parse_overrides


def datasets(keys):
    """For training and validation, by the scalars `keys`. Raises UserError where they are of different codecs."""
    common = {"seconds": keys["seconds"], "n_q": keys["n_q"], "seed": keys["seed"]}
    train = CodesDataset(keys["train_codes"], joined=True, **common)
    dev = CodesDataset(keys["dev_codes"], **common)
    if train.facts != dev.facts or train.n_q != dev.n_q:
        raise UserError(f"{keys['train_codes']} and {keys['dev_codes']}: codes of two codecs")
    return train, dev


def facts(keys, codes):
    """What the configuration leaves to the codes."""
    frames = {name: max(1, round(keys[f"{name}_seconds"] * codes.frame_rate)) for name in ("context", "offset")}
    known = {"codec_fingerprint": codes.facts["fingerprint"], "n_books": codes.n_q, "groups": codes.groups}
    known |= {"codebook_size": codes.facts["codebook_size"], "frame_rate": codes.frame_rate}
    return {**known, **frames, "longest": codes.longest}


@one_line_errors
def main(argv=None):
    args, overrides = parse_overrides(program.parser(__doc__), argv)
    run_opts = loop.join(args.device)
    composed = compose(args.config, args.preset)
    keys = YAML().load(resolve(composed, overrides))
    train, dev = datasets(keys)
    text = resolve(composed, {**overrides, **facts(keys, train)})
    torch.manual_seed(keys["seed"])  # before anything is built
    hp = build(text)
    if if_main_process():
        check_same_model(args.exp, text, FREE_TO_CHANGE | {"total_steps", "max_minutes"})
        write_text(args.exp / "hyperparams.yaml", text)

    language, place = hp["language"], program.place()
    batches = Batches(
        len(train),
        program.share(hp["batch_size"]),
        hp["steps_per_epoch"] or max(1, len(train) // hp["batch_size"]),
        hp["seed"],
        total=hp["total_steps"],
        **place,
    )
    dev_batches = Batches(len(dev), min(batches.batch_size, len(dev)), seed=hp["seed"], shuffle=False)
    brain = program.fit(
        LanguageBrain,
        args,
        hp,
        run_opts,
        {"language": language},
        (train, batches),
        (dev, dev_batches),
        collate,
        lambda say: _introduce(say, train, dev),
    )
    if if_main_process():
        best = brain.checkpointer.find_checkpoint(min_key="score")
        language.load_state_dict(torch.load(best.paramfiles["language"], map_location="cpu", weights_only=True))
        network = export(language.cpu(), hp["codec_fingerprint"], hp["frame_rate"])
        network.save(args.exp / FILE)
        size = (args.exp / FILE).stat().st_size / 1e6
        brain.journal.say(f"{args.exp / FILE}: {network.fingerprint.hex()}, {size:.1f} MB, of step {best.meta['step']}")
        compare(brain.journal.say, language, network, dev)
        brain.journal.close()


def compare(say, language, network, dev, most=32):
    """What the integers cost: bits a code of some sequences, by `network` and by `language` as it was trained."""
    ours, trained, count = 0.0, 0.0, 0
    for item in (dev[0, i] for i in range(min(most, len(dev)))):
        codes = item[item[:, 0] >= 0].numpy()
        ours += EntropyCoder(network, len(codes), network.shape.longest).bits(codes)
        with torch.inference_mode():
            trained += language.eval()(item[None])[0].sum().item() / math.log(2)
        count += codes.size
    say(f"  {ours / count:.4f} bits a code in integers, {trained / count:.4f} as trained")


def _introduce(say, train, dev):
    hours = train.frames / train.frame_rate / 3600
    say(f"  codes of {train.facts['model']} ({train.facts['fingerprint']})")
    say(f"  {len(train)} utterances ({hours:.2f} h), {len(dev)} for validation; {train.choices} codebooks")


if __name__ == "__main__":
    main()
