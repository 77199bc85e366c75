#!/usr/bin/env python3
"""Make an experiment of a checkpoint of HifiCodec's public code, to code, score or fine-tune with.

    python ../local/import_hificodec.py HiFi-Codec-24k-320d --exp exp/hificodec_public

The file holds tensors only: anything else in it is refused, not unpickled.
"""

import argparse
from pathlib import Path

from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.weights import read_public


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the public code: encoder, quantizer, generator")
    parser.add_argument("--exp", type=Path, required=True, help="experiment to write")
    parser.add_argument("--config", default="conf/hificodec_public.yaml", help="its configuration (%(default)s)")
    args = parser.parse_args(argv)
    if (args.exp / "save").exists():
        raise UserError(f"{args.exp} exists; choose another --exp")
    text = resolve(compose(args.config))
    codec = build_only(text, "codec")
    states = read_public(args.checkpoint)
    try:
        codec.load_public(states)
    except (LookupError, TypeError, AttributeError):
        raise UserError(f"{args.checkpoint}: has no encoder, quantizer and generator") from None
    except ValueError as error:
        raise UserError(f"{args.checkpoint}: {error}") from None
    write_text(args.exp / "hyperparams.yaml", text)
    AtomicCheckpointer(args.exp / "save", {"codec": codec}).save_checkpoint({"step": 0, "score": 0.0})
    print(f"wrote {args.exp}: {codec.bitrate:.0f} bit/s")


if __name__ == "__main__":
    main()
