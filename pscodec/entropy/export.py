"""A trained language model (models/language.py) in the integers of entropy/network.py."""

import math

import numpy as np

from pscodec.entropy.network import STEPS, STREAM, UNIT, WEIGHT, Network, Shape
from pscodec.models.language import CodesLanguageModel, positions


def export(model: CodesLanguageModel, codec: str, frame_rate: float) -> Network:
    """Weights in 8 bits with a scale for each output; `codec`: the fingerprint (hex) of the one that it knows."""
    s = Shape(
        codec, model.n_q, model.codebook_size, model.groups, model.n_heads, model.context, model.longest, frame_rate
    )
    arrays = {
        "embeddings": _fixed(model.embeddings, STREAM, np.int16),
        "start": _fixed(model.start, STREAM, np.int16),
        "positions": _fixed(positions(model.longest, model.dim), STREAM, np.int16),
    }
    for i, layer in enumerate(model.layers):
        parts = {"qkv": layer.qkv, "out": layer.out, "up": layer.up, "down": layer.down}
        for name, linear in parts.items():
            gain = np.ones(len(linear.weight))
            if name == "qkv":  # scores are logarithms to the base of two
                gain[: model.dim] = math.log2(math.e) / math.sqrt(model.dim // model.n_heads)
            unit = UNIT if name in ("qkv", "up") else STREAM
            arrays |= _linear(f"layers.{i}.{name}", _array(linear.weight), _array(linear.bias), unit, gain)
    gain = np.full(model.heads.shape[:2], math.log2(math.e))
    arrays |= _linear("heads", _array(model.heads), _array(model.head_biases), STEPS, gain)
    return Network(s, arrays)


def _linear(name, weight, bias, unit, gain):
    """Weight `[..., out, in]` for inputs in UNITs and outputs in `unit`s, times `gain` `[..., out]`."""
    largest = np.maximum(np.abs(weight).max(-1), 1e-9)
    rounded = np.rint(weight * (WEIGHT / largest)[..., None]).astype(np.int8)
    scale = largest / WEIGHT * gain * (unit / UNIT)
    return {f"{name}.weight": rounded, f"{name}.scale": scale, f"{name}.bias": np.rint(bias * gain * unit)}


def _fixed(values, unit, kind):
    return np.rint(_array(values) * unit).clip(np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)


def _array(tensor):
    return tensor.detach().cpu().double().numpy()
