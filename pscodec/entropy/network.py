"""The language model in arithmetic that gives the same bits on every machine.

Numbers are integers (fixed point) that float64 arrays hold. Sums of products stay below 2**53, so that they are exact
in whatever order a CPU takes them; all else is one correctly rounded operation (+ - * / sqrt, rounding) at a time,
which IEEE 754 fixes to the last bit. exp, sin and their like, which it does not fix, are tables made by such
operations, or stored. models/language.py is the same network in training, entropy/export.py makes this of it.

Source: EnCodec (Defossez et al., 2022), section 3.3; integers as in Balle et al., Integer networks (2018).
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pscodec.entropy.ranges import frequencies
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

FILE = "entropy.safetensors"
STREAM = 1 << 12  # units of the residual stream and of embeddings
UNIT = 1 << 10  # of everything else
STEPS = 1 << 8  # of a power of two, in logits and attention: a 256th
MOST, HEAD_MOST = float(1 << 20), float(1 << 17)  # of any number between two layers; of queries, keys and values
WEIGHT = 127.0


@dataclass(frozen=True)
class Shape:
    """What a network is beside its numbers. `codec`: the fingerprint (hex) of the one that it knows, whose codes have
    `n_q` codebooks of `size` entries in `groups` (of GRVQ); `context`: frames that an attention layer sees, `longest`:
    frames of a packet at most; `frame_rate` in Hz."""

    codec: str
    n_q: int
    size: int
    groups: int
    n_heads: int
    context: int
    longest: int
    frame_rate: float

    def books(self, n_q):
        """Which of the codebooks make frames of `n_q` codes: the first of each group."""
        each, of = n_q // self.groups, self.n_q // self.groups
        return [group * of + layer for group in range(self.groups) for layer in range(each)]


def powers(steps=STEPS, octaves=24):
    """2**(octaves - i / steps) for i from 0 on, rounded, until nothing is left; `steps` a power of two."""
    root, factor = 0.5, []
    while steps > 1:
        root, steps = np.sqrt(root), steps // 2
        factor.append(root)  # 2**-(1/2), 2**-(1/4) ...
    fine = np.ones(1)
    for root in factor:  # each doubles the points between 1 and a half
        fine = np.stack([fine, fine * root], 1).ravel()
    table = (fine * 2.0 ** np.arange(octaves, -1, -1)[:, None]).ravel()
    return np.append(np.rint(table), 0.0)


class Network:
    """`arrays` (name -> numpy, as export makes them) of a `Shape`. Its answers are functions of the codes alone."""

    def __init__(self, shape, arrays):
        self.shape, self.arrays = shape, arrays
        self.fingerprint = _fingerprint(shape, arrays)
        self._powers = powers()
        self._w = {name: value.astype(np.float64) for name, value in arrays.items()}
        self.n_layers = sum(name.endswith(".qkv.weight") for name in arrays)
        self.dim = arrays["start"].shape[0]
        self._check()

    def _check(self):
        """Raises ValueError where a sum might leave what float64 holds exactly, or arrays do not fit."""
        s, w = self.shape, self._w
        weights = [v for k, v in w.items() if k.endswith("weight")]
        if not all(np.isfinite(v).all() for v in w.values()) or any(np.abs(v).max() > WEIGHT for v in weights):
            raise ValueError("weights beyond 8 bits")
        widest = max(v.shape[-1] for v in weights)
        sums = (widest * WEIGHT * MOST, self.dim * (2 * MOST) ** 2, s.longest * self._powers[0] * HEAD_MOST)
        if max(sums) > 2.0**53 or self.dim % s.n_heads or s.longest > len(w["positions"]):
            raise ValueError("sizes that its arithmetic does not hold")
        if w["embeddings"].shape != (s.n_q, s.size, self.dim) or w["heads.weight"].shape != (s.n_q, s.size, self.dim):
            raise ValueError("arrays that are not of its shape")

    def begin(self):
        """What is remembered of a packet, at its beginning: keys and values, none yet."""
        none = np.zeros((self.shape.n_heads, 0, self.dim // self.shape.n_heads))
        return [[none, none] for _ in range(self.n_layers)]

    def embed(self, books, codes, at):
        """Frames that `codes` `[K, t]` of `books` went before, at place `at` of the packet -> `[t, dim]`."""
        x = self._w["embeddings"][np.asarray(books)[:, None], codes].sum(0)
        return x + self._w["positions"][at : at + codes.shape[1]]

    def start(self):
        """The first frame, which nothing went before -> `[1, dim]`."""
        return (self._w["start"] + self._w["positions"][0])[None]

    def step(self, memory, x, books):
        """The next frames `x` `[t, dim]` of a packet -> frequencies `[t, K, size]` of their codes. `memory` (`begin`)
        learns them. Any cut of the frames gives the same."""
        for i, cache in enumerate(memory):
            x = np.clip(x + self._attend(f"layers.{i}.", cache, _norm(x)), -MOST, MOST)
            hidden = self._linear(f"layers.{i}.up", _norm(x))
            x = np.clip(x + self._linear(f"layers.{i}.down", np.clip(hidden, 0, MOST)), -MOST, MOST)
        x = _norm(x)
        logits = np.stack([self._head(k, x) for k in books], 1)
        return frequencies(self._power(logits))

    def _power(self, exponents):
        """Two to the power of `exponents`, in STEPS of an octave, beside the largest of each row."""
        below = np.minimum(exponents.max(-1, keepdims=True) - exponents, len(self._powers) - 1)
        return self._powers[below.astype(np.int64)]

    def _linear(self, name, x):
        sums = x @ self._w[f"{name}.weight"].T
        return np.rint(sums * self._w[f"{name}.scale"] + self._w[f"{name}.bias"])

    def _head(self, k, x):
        sums = x @ self._w["heads.weight"][k].T
        return np.rint(sums * self._w["heads.scale"][k] + self._w["heads.bias"][k])

    def _attend(self, name, cache, x):
        s, t = self.shape, len(x)
        qkv = self._linear(f"{name}qkv", x).clip(-HEAD_MOST, HEAD_MOST)
        q, k, v = qkv.reshape(t, 3, s.n_heads, -1).transpose(1, 2, 0, 3)  # [heads, t, dim / heads] each
        keys, values = cache[:] = np.concatenate([cache[0], k], 1), np.concatenate([cache[1], v], 1)
        scores = np.rint(q @ keys.swapaxes(1, 2) * (STEPS / UNIT**2))
        n = keys.shape[1]
        ago = np.arange(n - t, n)[:, None] - np.arange(n)
        seen = (ago >= 0) & (ago < s.context)
        scores[:, ~seen] = -np.inf
        weights = self._power(scores)
        mixed = np.rint((weights @ values) / weights.sum(-1, keepdims=True))
        return self._linear(f"{name}out", mixed.swapaxes(0, 1).reshape(t, -1))

    # ---- on the disk

    def save(self, path):
        """As one file without pickle."""
        with atomic_path(path) as partial:
            save_file(self.arrays, partial, {"shape": json.dumps(asdict(self.shape), sort_keys=True)})

    @classmethod
    def load(cls, path):
        """Raises UserError in one line for anything else."""
        try:
            with safe_open(path, "numpy") as file:
                shape = Shape(**json.loads((file.metadata() or {})["shape"]))
                return cls(shape, {name: file.get_tensor(name) for name in sorted(file.keys())})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path}: not a language model of codes ({error})") from None


def _norm(x):
    """Each frame of `x` `[t, dim]` less its mean, with a standard deviation of UNIT."""
    x = x - np.rint(x.sum(-1, keepdims=True) / x.shape[-1])
    power = (x * x).sum(-1, keepdims=True) + 1
    return np.rint(x * (np.sqrt(np.float64(x.shape[-1] * UNIT**2)) / np.sqrt(power)))


def _fingerprint(shape, arrays):
    digest = hashlib.sha256(json.dumps(asdict(shape), sort_keys=True).encode())
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()[:8]
