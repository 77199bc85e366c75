#!/usr/bin/env python3
"""Make an experiment of EnCodec's published weights, to code, score or fine-tune with.

    python ../local/import_encodec.py encodec_24khz-d7cc33bc.th --exp exp/encodec_24khz

The file holds the state dict of the authors' package, of 24 or 48 kHz, which its shapes tell; as torch writes it, or
as safetensors. It holds tensors only: anything else in it is refused, not unpickled.
"""

import argparse
from pathlib import Path

import torch

from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.weights import read_public

FIRST = "encoder.model.0.conv.conv."  # the first convolution: with weight norm, or before a norm over time
# name and channels of its weight -> configuration
CONFIGS = {("weight_v", 1): "conf/encodec_public.yaml", ("weight", 2): "conf/encodec_48k.yaml"}


def config_of(state, path):
    """The configuration that tensors `state` are of. Raises UserError where they are of none."""
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    for (name, channels), config in CONFIGS.items():
        weight = state.get(FIRST + name) if tensors else None
        if weight is not None and weight.dim() == 3 and weight.shape[1] == channels:
            return config
    raise UserError(f"{path}: not the weights of the encodec package's 24 kHz or 48 kHz model")


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the authors: .th, or .safetensors")
    parser.add_argument("--exp", type=Path, required=True, help="experiment to write")
    args = parser.parse_args(argv)
    if (args.exp / "save").exists():
        raise UserError(f"{args.exp} exists; choose another --exp")
    state = read_public(args.checkpoint)
    text = resolve(compose(config_of(state, args.checkpoint)))
    codec = build_only(text, "codec")
    try:
        codec.load_public(state)
    except ValueError as error:
        raise UserError(f"{args.checkpoint}: {error}") from None
    write_text(args.exp / "hyperparams.yaml", text)
    AtomicCheckpointer(args.exp / "save", {"codec": codec}).save_checkpoint({"step": 0, "score": 0.0})
    print(f"wrote {args.exp}: {codec.sample_rate} Hz, {codec.bitrate:.0f} bit/s")


if __name__ == "__main__":
    main()
