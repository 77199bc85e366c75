"""The weights of an experiment, found in its checkpoints or as they were released, and read without pickle.

Apart from utils/checkpoint, which writes them: whoever only uses a codec does not wait for SpeechBrain.
"""

import functools
import math
import pickle
import re
import sys
import zipfile

import torch
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pscodec.utils.errors import UserError

SCALE = ".scale_of_8_bits"


def is_whole(path):
    """Whether a file of a checkpoint is as it was written: a zip of tensors, or a few characters."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return path.is_file() and 0 < path.stat().st_size < 100


def codec_weights(exp, which="best"):
    """Path of the codec's weights in the checkpoint of folder `exp` that `which` (best or last) names, and its meta.

    Best is the lowest validation score. Returns (path, meta), or (None, None) where there is no checkpoint.
    """
    folder, meta = _checkpoint(exp, which)
    return (None, None) if folder is None else (_file(folder, "codec"), meta)


def codec_state(exp, which="best") -> tuple[dict, dict]:
    """The codec's state dict in the experiment folder `exp`, and its meta (step, score ...), as `load_weights`."""
    folder, read, meta = _weights(exp, which)
    return read(_file(folder, "codec")), meta


def load_weights(exp, modules, which="best"):
    """Load `modules` (name -> Module, e.g. codec, discriminators) strictly from the experiment folder `exp`.

    A folder with their `.safetensors` in it (bin/release) holds one state, whatever `which`. Of a training that
    averages its weights it is the mean. Returns its meta (step, score ...). Raises UserError where there is none or
    it does not fit.
    """
    folder, read, meta = _weights(exp, which)
    for name, module in modules.items():
        file = _file(folder, name)
        if not file.is_file():
            raise UserError(f"{exp}: there are no {name} in it")
        _load(module, name, read(file), folder)
    return meta


def has_weights(exp, name, which="best"):
    """Whether the experiment folder `exp` has weights of a part `name`."""
    return _file(_weights(exp, which)[0], name).is_file()


def grow_weights(exp, modules):
    """As `load_weights` of the best, into modules that have grown since. Returns lines that say what begins anew.

    A tensor that has become larger begins with the old one, and its new inputs (dimension 1) count nothing at first, so
    that a layer with more hidden channels computes what it did (as Net2Net, Chen et al., 2016). What `exp` does not
    have, more codebooks or more blocks, begins anew; so does a part (a child of a module) that has become smaller.
    """
    folder, read, _ = _weights(exp, "best")
    lines = []
    for name, module in modules.items():
        file = _file(folder, name)
        old, new = read(file) if file.is_file() else {}, module.state_dict()
        fits = {key: key in old and _within(old[key].shape, new[key].shape) for key in new}
        small = {key.split(".")[0] for key in new if key in old and not fits[key]}
        fits = {key: fit and key.split(".")[0] not in small for key, fit in fits.items()}
        _load(module, name, {k: _grown(old[k], new[k]) if fits[k] else new[k] for k in new}, folder)
        parts = sorted({f"{name}.{re.sub(r'[.][^.]*$', '', key)}" for key, fit in fits.items() if not fit})
        lines += [f"{part} begins anew" for part in parts]
    return lines


def _within(small, large):
    return len(small) == len(large) and all(a <= b for a, b in zip(small, large, strict=True))


def _grown(old, new):
    """`new` with `old` at its beginning."""
    grown = new.clone()
    if old.dim() > 1 and old.shape[1] < new.shape[1]:
        grown[:, old.shape[1] :] = 0
    grown[tuple(map(slice, old.shape))] = old.to(new.dtype)
    return grown


def _load(module, name, state, folder):
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{folder}: {name} does not fit this configuration: {str(error).splitlines()[-1].strip()}"
        ) from None


def in_eight_bits(key, weight):
    """What a file holds of `weight` `[C, ...]`, called `key`: whole numbers to 127, and how much one is worth in each
    of its C outputs."""
    scale = (weight.abs().flatten(1).amax(1) / 127).half()
    numbers = weight / scale.float().clamp(min=1e-12).view(-1, *[1] * (weight.dim() - 1))
    return {key: numbers.round().clamp(-127, 127).to(torch.int8), key + SCALE: scale}


def read_released(path):
    """The tensors of a file of bin/release, those in eight bits as floats. Raises UserError where the two parts of one
    do not fit."""
    state = load_file(path)
    for name in [name for name in state if name.endswith(SCALE)]:
        key, scale = name.removesuffix(SCALE), state.pop(name).float()
        if key not in state or scale.shape != state[key].shape[:1]:
            raise UserError(f"{path}: {name} is of no weight that is there")
        state[key] = state[key] * scale.view(-1, *[1] * (state[key].dim() - 1))
    return state


def read_public(path):
    """The tensors that somebody else's program wrote to file `path`, `.safetensors` or torch's; nothing is unpickled.

    Raises UserError in one line.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no such checkpoint: {path}") from None
    except (pickle.UnpicklingError, SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError):
        raise UserError(f"{path}: holds more than tensors, or is no checkpoint") from None


def _checkpoint(exp, which):
    """Folder and meta of a checkpoint, or (None, None). One whose files are damaged is passed over, with a word."""
    found = []
    for note in (exp / "save").glob("CKPT*/CKPT.yaml"):
        meta = YAML(typ="safe").load(note)
        found.append((meta["unixtime"], note.parent, meta))
    found.sort(key=lambda item: item[0], reverse=True)  # the latest first
    if which == "best":  # those that were stopped before a validation come last
        found.sort(key=lambda item: item[2].get("score", math.inf))
    for _, folder, meta in found:
        bad = next((path for path in sorted(folder.glob("*.ckpt")) if not is_whole(path)), None)
        if bad is None:
            return folder, meta
        print(f"warning: {bad}: damaged; the checkpoint before it is taken", file=sys.stderr)
    return None, None


def _file(folder, name):
    """Where the weights of `name` are in `folder`: released, averaged, or as they were."""
    candidates = (f"{name}.safetensors", f"{name}_mean.ckpt", f"{name}.ckpt")
    return next((folder / file for file in candidates if (folder / file).is_file()), folder / candidates[-1])


def _weights(exp, which):
    """The folder with weights in it, the function that reads them, and their meta."""
    for released in (exp / "codec.safetensors", exp / "separator.safetensors"):
        if not released.is_file():
            continue
        try:
            with safe_open(released, "pt") as file:
                meta = {key: float(value) for key, value in (file.metadata() or {}).items() if key in ("step", "score")}
        except SafetensorError as error:
            raise UserError(f"{released}: {error}") from None
        return exp, read_released, meta
    folder, meta = _checkpoint(exp, which)
    if folder is None:
        raise UserError(f"{exp}: no checkpoint; run stage 3")
    return folder, functools.partial(torch.load, map_location="cpu", weights_only=True), meta
