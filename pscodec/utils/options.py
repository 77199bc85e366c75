"""What the training programs of all recipes ask on their command lines."""

from ruamel.yaml import YAML

from pscodec.utils.errors import UserError

FREE_TO_CHANGE = {
    "num_workers",
    "log_steps",
    "ckpt_interval_steps",
    "keep_checkpoints",
    "precision",
    "accumulation",
    "torch_compile",
    "beam",
}


def parse_overrides(parser, argv=None):
    """`(args, overrides)`: what argparse's `parser` knows, and every other `--key value` as a dict of YAML scalars."""
    args, rest = parser.parse_known_args(argv)
    overrides = {}
    for flag, value in zip(rest[::2], rest[1::2], strict=False):
        if not flag.startswith("--"):
            raise UserError(f"expected --key value, got {flag!r}")
        # YAML 1.2 as people mean it: 1e-3 is a number
        overrides[flag[2:].replace("-", "_")] = YAML(typ="safe", pure=True).load(value)
    if len(rest) % 2:
        raise UserError(f"option {rest[-1]} has no value")
    return args, overrides


def check_same_model(exp, text, free=FREE_TO_CHANGE):
    """A run in folder `exp` goes on only with the configuration `text` it began with, but for the `free` keys.

    Raises UserError naming the first changed line, before anything is loaded.
    """
    path = exp / "hyperparams.yaml"
    if not path.exists() or not list(exp.glob("save/CKPT*")):
        return
    before = path.read_text(encoding="utf-8").splitlines()
    changed = [line.strip() for line in text.splitlines() if line not in before and ":" in line]
    structural = [line for line in changed if line.split(":")[0] not in free]
    if structural:
        raise UserError(f"{exp} was trained with another configuration ({structural[0]}); choose another --exp")
