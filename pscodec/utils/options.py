"""What the training programs of all recipes ask on their command lines."""

from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from pscodec.utils.errors import UserError
from pscodec.utils.hparams import difference, plain

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
RENAMED = {"residual_dropout": "n_q_dropout"}  # keys of older programs


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


def check_same_model(exp: Path, text: str, free=FREE_TO_CHANGE, anew: Callable[[dict], str] | None = None):
    """A run in folder `exp` goes on only with the configuration `text` it began with, but for the `free` keys.

    A key that its program did not have counts as its default: `anew(known)` composes the configuration again, with the
    values that it did have. Raises UserError naming the first change, before anything is loaded.
    """
    path = exp / "hyperparams.yaml"
    if not path.exists() or not list(exp.glob("save/CKPT*")):
        return
    before, now = as_now(plain(path.read_text(encoding="utf-8"))), plain(text)
    before, default = {key: value for key, value in before.items() if key in now}, {}
    if anew:
        default = plain(anew({key: value for key, value in before.items() if not _is_tree(value)}))
    changed = difference(before, now, default, free)
    if changed:
        raise UserError(f"{exp} was trained with another configuration ({changed}); choose another --exp")


def as_now(tree: dict) -> dict:
    """The configuration of an older program (utils.hparams.plain) in the words of this one."""
    tree = {RENAMED.get(key, key): value for key, value in tree.items()}
    if tree.get("voiceprint") == "none":  # a codec says itself what it sees
        del tree["voiceprint"]
    terms = tree["losses"].get("terms", {}) if _is_tree(tree.get("losses")) else {}
    for name, term in terms.items():
        if term == {"class": "!new:pscodec.losses.quantization.Quantization"}:
            terms[name] = {"class": "!new:pscodec.losses.base.ModelLoss", "name": "quant"}
    modules = tree["discriminators"].get("modules") or {} if _is_tree(tree.get("discriminators")) else {}
    for module in modules.values():
        if "parts" in module and module["class"].endswith("ByBitrate"):  # which were written out one by one
            parts = module.pop("parts")
            first = next(iter(parts.values()))
            module |= {"n_q": list(parts), "part": first | {"class": first["class"].replace("!new:", "!name:")}}
    return tree


def _is_tree(value):
    return isinstance(value, dict) or isinstance(value, list) and any(_is_tree(item) for item in value)
