"""Make of an experiment what can be given away: configuration and weights without pickle, a few MB.

  python -m pscodec.bin.release --exp exp/pscodec_small_24k --out pscodec/weights/pscodec_small_24k --half

The folder is an experiment to `load_codec` and `--init`: hyperparams.yaml, codec.safetensors and, with
--discriminators, those for fine-tuning; or, of a separation experiment, to `load_separator`: separator.safetensors, and
refiner.safetensors where one corrects its masks. The model card beside them is written by people.
"""

import argparse
import re
from pathlib import Path

from ruamel.yaml import YAML
from safetensors.torch import save_file

from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import atomic_path, write_text
from pscodec.utils.hparams import build_only
from pscodec.utils.weights import in_eight_bits, load_weights


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="the trained experiment")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--half", action="store_true", help="16 bits a number instead of 32")
    parser.add_argument("--eight-bits", nargs="+", default=[], metavar="PART", help="8 bits a weight of these parts")
    parser.add_argument("--discriminators", action="store_true", help="give them away too")
    args = parser.parse_args(argv)
    settings = args.exp / "hyperparams.yaml"
    if not settings.is_file():
        raise UserError(f"{args.exp}: no hyperparams.yaml, so not an experiment")
    text = settings.read_text(encoding="utf-8")
    keys = YAML().load(text)
    part = "separator" if "separator" in keys else "codec"
    names = [part, *(["refiner"] if keys.get("refiner") else []), *(["discriminators"] if args.discriminators else [])]
    modules = {name: build_only(text, name) for name in names}
    known = {part for module in modules.values() for part, _ in module.named_children()}
    if unknown := sorted(set(args.eight_bits) - known):
        raise UserError(f"--eight-bits: there is no part {unknown[0]!r}; there are {' '.join(sorted(known))}")
    meta = load_weights(args.exp, modules, args.checkpoint)
    write_text(args.out / "hyperparams.yaml", without_folders(text))
    for name, module in modules.items():
        state = {}
        for key, value in module.state_dict().items():
            rough = value.dim() > 1 and value.is_floating_point() and key.split(".")[0] in args.eight_bits
            state |= in_eight_bits(key, value) if rough else {key: _small(value, args.half).contiguous()}
        with atomic_path(args.out / f"{name}.safetensors") as partial:
            save_file(state, partial, {key: str(meta[key]) for key in ("step", "score") if key in meta})
        size = (args.out / f"{name}.safetensors").stat().st_size / 1e6
        print(f"{args.out / name}.safetensors: {size:.2f} MB, of step {meta.get('step', '?')}")


def without_folders(text):
    """The configuration `text` with only the ends of its data folders: where they lay is nobody else's business."""
    return re.sub(r"(?m)^((?:train|dev)_dir: ).*?([^/\s]+/[^/\s]+)$", r"\1\2", text)


def _small(value, half):
    return value.half() if half and value.is_floating_point() else value


if __name__ == "__main__":
    main()
