"""Incremental continuous training: PSCodec, section III-B.2, algorithm 1."""

import hashlib
from pathlib import Path

import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pscodec.utils.checkpoint import codec_weights
from pscodec.utils.errors import UserError

MUST_MATCH = ("codec", "seed", "sample_rate")


def transfer(codec, parent, text, learned):
    """Fill `codec` for the second training from experiment folder `parent`; returns lines that tell what came whence.

    The parts named in `learned` (quantizer and encoders) are the best checkpoint's, theta_1; all others are as the
    parent's training began, theta_0. `text`: this training's resolved configuration, of the same codec.
    Raises UserError where the parent cannot serve.
    """
    parent = Path(parent)
    _check_configuration(parent, text)
    path, meta = codec_weights(parent)
    start = parent / "save" / "theta_0.safetensors"
    if path is None or not start.is_file():
        raise UserError(f"{parent}: no checkpoint with its initial weights; run stage 3")
    theta_0, theta_1 = load_file(start), torch.load(path, map_location="cpu", weights_only=True)
    parts = [name for name, _ in codec.named_children()]
    unknown = [name for name in learned if name not in parts]
    if unknown:
        raise UserError(f"ict_learned: the codec has no part {unknown[0]!r}; it has {' '.join(parts)}")
    source = {name: theta_1 if name in learned else theta_0 for name in parts}
    codec.load_state_dict({key: source[key.split(".")[0]][key] for key in theta_0})
    lines = [f"ICT from {parent}: theta_1 is its step {meta['step']}, theta_0 {digest(theta_0)} its start"]
    for name, part in codec.named_children():
        word = "learned, from theta_1" if name in learned else "new, from theta_0"
        size = sum(p.numel() for p in part.parameters()) / 1e6
        lines.append(f"  {name:<14} {size:8.3f} M parameters  {digest(part.state_dict())}  {word}")
    return [*lines, "  discriminators, optimizers and schedule start anew"]


def _check_configuration(parent, text):
    path = parent / "hyperparams.yaml"
    if not path.is_file():
        raise UserError(f"{parent}: no hyperparams.yaml, so not an experiment")
    theirs, ours = (_plain(YAML().load(t)) for t in (path.read_text(encoding="utf-8"), text))
    for key in MUST_MATCH:
        if theirs.get(key) != ours[key]:
            detail = _first_difference(theirs.get(key), ours[key])
            raise UserError(f"{parent}: its {key} is not this configuration's{detail}; ICT needs the same")


def _plain(node):
    """A YAML tree as dicts, lists and scalars that compare by value, with the classes that its tags name."""
    tag = {"class": node.tag.value} if getattr(getattr(node, "tag", None), "value", None) else {}
    if isinstance(node, dict):
        return tag | {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return tag or node


def _first_difference(theirs, ours, trail=""):
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{trail}.{key}" if trail else key)
    return f" ({trail or 'value'}: {theirs} there, {ours} here)"


def digest(state):
    """Eight hexadecimal digits of the SHA-256 of a state dict's names and numbers."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:8]
