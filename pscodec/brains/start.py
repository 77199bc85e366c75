"""What a training starts from: parts of a codec taken from trained ones.

Incremental continuous training (ICT; PSCodec, section III-B.2, algorithm 1) is one use of it. Others: a second stage on
frozen parts (AudioDec), a decoder trained anew for codes that are there already, a diffusion model on another codec's
tokens (LaDiffCodec).
"""

import hashlib
from pathlib import Path

from safetensors.torch import load_file

from pscodec.released import folder
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import defaults, difference, plain
from pscodec.utils.weights import codec_state

PARENT, THETA_0 = "parent", "theta_0"


def start_from(codec, sources: dict[str, str], text: str, parent: Path | None = None, init=None) -> list[str]:
    """Fill parts of `codec`; returns lines that tell what came whence.

    `sources`: name of a part -> `parent`, the best weights of that experiment folder (algorithm 1's theta_1);
    `theta_0`, those with which its training began; or another experiment folder or released codec, its best. Of one
    whose codec has no such part, the part is the whole codec. What is not named stays as it is. `text`: this
    training's resolved configuration, in which each part must be what it is there. `init`: the experiment that all of
    the codec, and the discriminators, have been filled from before.
    Raises UserError for a part that the codec does not have, and an experiment that cannot serve.
    """
    parts = [name for name, _ in codec.named_children()]
    modules = dict(codec.named_modules())
    lines = []
    for name, source in sources.items():
        if name not in modules:
            raise UserError(f"start_from: the codec has no part {name!r}; it has {' '.join(parts)}")
        if source in (PARENT, THETA_0) and parent is None:
            raise UserError(f"start_from: {name}: {source} needs an experiment, --parent")
        exp = folder(parent if source in (PARENT, THETA_0) else source)
        whole = _check_part(exp, name, text)
        state, of = _theta_0(exp) if source == THETA_0 else _trained(exp)
        part, prefix = modules[name], "" if whole else f"{name}."
        try:
            part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()
            raise UserError(f"{exp}: its {name} is not this configuration's ({why})") from None
        size = sum(p.numel() for p in part.parameters()) / 1e6
        lines.append(f"  {name:<14} {size:8.3f} M parameters  {digest(part.state_dict())}  of {exp}, {of}")
    rest = " ".join(name for name in parts if not _all_of(name, modules[name], sources))
    rest = f"{rest}, discriminators" if rest else "discriminators"
    rest = f"{rest} of {init}; new: optimizers and schedule" if init else f"new: {rest}, optimizers and schedule"
    return [*lines, f"  {rest}"] if sources else []


def _all_of(name, part, sources):
    """Whether the part `name`, or each part of it that has weights, is one of `sources`."""
    inner = [f"{name}.{child}" for child, module in part.named_children() if module.state_dict()]
    return name in sources or bool(inner) and all(child in sources for child in inner)


def _trained(exp):
    state, meta = codec_state(exp)
    return state, f"learned in {int(meta['step'])} steps" if "step" in meta else "as released"


def _theta_0(exp):
    path = exp / "save" / "theta_0.safetensors"
    if not path.is_file():
        raise UserError(f"{exp}: no initial weights; run stage 3")
    state = load_file(path)
    return state, f"theta_0 {digest(state)}, its start"


def _check_part(exp, name, text):
    """Whether the part `name` of `text` is `exp`'s whole codec, and not one of its parts.

    Raises UserError where `exp` is no experiment or what is to be taken of it is another than in `text`.
    """
    path = exp / "hyperparams.yaml"
    if not path.is_file():
        raise UserError(f"{exp}: no hyperparams.yaml, so not an experiment")
    theirs, ours = (plain(t) for t in (path.read_text(encoding="utf-8"), text))
    pairs = {"sample_rate": (theirs.get("sample_rate"), ours["sample_rate"])}
    whole = "." not in name and name not in theirs["codec"]
    if "." not in name:  # of what is within a part, names and shapes of the weights are compared
        pairs[name] = theirs["codec"] if whole else theirs["codec"][name], ours["codec"].get(name)
    for word, (there, here) in pairs.items():
        found = difference(there, here, defaults(here))  # an older program had not every key
        if found:
            raise UserError(f"{exp}: its {word} is not this configuration's ({found}); start_from needs the same")
    return whole


def digest(state) -> str:
    """Eight hexadecimal digits of the SHA-256 of a state dict's names and numbers."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:8]
