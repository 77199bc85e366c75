"""The vectors of a prompt as a few small numbers: what a file sends of the speaker, in a tenth of its bytes.

What a prompt encoder gives of different utterances differs in few directions: of the 256 numbers of pscodec_small_24k's
`z_mel`, 23 directions have 99 % of the variance. So a vector is sent as its places along the first directions
(principal components), each by the nearest of some levels (Lloyd and Max), as tokens of `.psc` version 3. Directions
and levels are learned once, after the codec, from its training speakers (bin/learn_side), and lie beside its weights.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pscodec.profile import Tokens
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

FILE = "side.safetensors"
ROUNDS = 50  # of Lloyd's algorithm


@dataclass(frozen=True)
class Codebook:
    """Of one vector of D numbers: its `mean` `[D]`, directions `basis` `[N, D]`, and `levels` `[N, entries]` along
    each, ascending. All float32."""

    mean: np.ndarray
    basis: np.ndarray
    levels: np.ndarray

    @classmethod
    def fit(cls, vectors, numbers, entries):
        """Learn from `vectors` `[utterances, D]`. Raises ValueError for fewer utterances than `numbers` and levels."""
        x = np.asarray(vectors, np.float64)
        if not (1 <= numbers <= x.shape[1] and len(x) > max(numbers, entries)):
            raise ValueError(f"{len(x)} vectors of {x.shape[1]} numbers; too few for {numbers} of {entries} levels")
        mean = x.mean(0)
        _, basis = np.linalg.eigh((x - mean).T @ (x - mean))
        basis = basis[:, ::-1][:, :numbers].T  # the directions of largest variance first
        levels = np.stack([lloyd_max(places, entries) for places in ((x - mean) @ basis.T).T])
        return cls(*(part.astype(np.float32) for part in (mean, np.ascontiguousarray(basis), levels)))

    @property
    def entries(self):
        return self.levels.shape[1]

    def tokens(self, vector) -> Tokens:
        """A vector `[D]` -> the nearest levels."""
        places = (np.asarray(vector, np.float64) - self.mean) @ self.basis.T
        return Tokens(np.abs(places[:, None] - self.levels).argmin(1).astype(np.int64), self.entries)

    def vector(self, tokens):
        """`Tokens` -> float32 `[D]`."""
        places = np.take_along_axis(self.levels, tokens.codes[:, None], 1)[:, 0]
        return self.mean + places @ self.basis


@dataclass(frozen=True)
class Restored:
    """A vector that was sent as tokens: `floats` float32 `[D]`."""

    floats: np.ndarray

    @property
    def size(self):
        return len(self.floats)

    def numbers(self):
        return self.floats


class SideTokens:
    """The `Codebook`s of a codec's side information, by name: {}, vectors are sent as they are.

    In a stream the tokens of `z_mel` are named `z_mel_` and 8 hexadecimal digits of the SHA-256 of its codebook, so
    that no other codebook is taken for it.
    """

    def __init__(self, codebooks=None):
        self.codebooks = codebooks or {}
        self._sent_as = {name: f"{name}_{_hash(book)}" for name, book in self.codebooks.items()}

    @classmethod
    def load(cls, path):
        """Those in file `path`; none where there is no file. Raises UserError for what is no such file."""
        if not path.is_file():
            return cls()
        try:
            arrays = load_file(path)
            names = sorted({key.rsplit(".", 1)[0] for key in arrays})
            books = {n: Codebook(*(arrays[f"{n}.{part}"] for part in Codebook.__annotations__)) for n in names}
            for book in books.values():
                n, d = book.basis.shape
                if book.mean.shape != (d,) or book.levels.shape[:1] != (n,) or book.levels.ndim != 2:
                    raise ValueError("shapes that do not fit")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: not codebooks of side information ({error})") from None
        return cls(books)

    def save(self, path):
        arrays = {f"{n}.{part}": value for n, book in self.codebooks.items() for part, value in vars(book).items()}
        with atomic_path(path) as partial:
            save_file(arrays, partial)

    def pack(self, name, vector):
        """Vector `name` `[D]` as a stream holds it, (name there, Tokens); None where it has no codebook."""
        return (self._sent_as[name], self.codebooks[name].tokens(vector)) if name in self.codebooks else None

    def unpack(self, side):
        """A stream's side information, name -> profile.Vector or Tokens -> the same with `Restored` vectors in the
        place of tokens of these codebooks; what does not fit them stays as it is."""
        side = dict(side)
        for name, book in self.codebooks.items():
            sent = side.get(self._sent_as[name])
            if isinstance(sent, Tokens) and (sent.size, sent.entries) == book.levels.shape and name not in side:
                side[name] = Restored(book.vector(side.pop(self._sent_as[name])))
        return side


def lloyd_max(places, entries):
    """Levels `[entries]`, ascending, whose nearest ones differ least from `places` `[n]` in the mean square."""
    places = np.sort(places)
    levels = np.quantile(places, (np.arange(entries) + 0.5) / entries)
    for _ in range(ROUNDS):
        cells = np.split(places, np.searchsorted(places, (levels[1:] + levels[:-1]) / 2))
        levels = np.array([cell.mean() if len(cell) else level for cell, level in zip(cells, levels, strict=True)])
    return levels


def _hash(book):
    digest = hashlib.sha256()
    for part in vars(book).values():
        digest.update(part.tobytes())
    return digest.hexdigest()[:8]
