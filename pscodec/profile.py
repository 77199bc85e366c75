"""Side information: what a codec's decoder needs once an utterance, and `.psp` files with it.

A decoder helped by prompts (PSCodec: `z_vp` and `z_mel`) cannot start without them, so they are sent, and counted:
vectors as bytes with a step of their own each, a quarter of the size of floats; tokens (TiCodec's of the timbre) in as
many bits as they need. docs/format.md describes the bytes.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pscodec.packets import pack_codes, unpack_codes
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

SUFFIX = ".psp"
MAGIC, VERSION = b"PSP", 1
WITH_TOKENS = 2  # the version of a .psp file that has some
TOKENS = 0x8000  # in the count of numbers: they are tokens
LEVELS = 127  # of either sign
MOST_BYTES = 65535  # of a whole file or header
_FIXED = struct.Struct("<3sBH8sHf")  # magic, version, bytes of the file, model, recordings, seconds
_CRC = struct.Struct("<I")
_VECTOR = struct.Struct("<Hf")  # numbers, step
_TOKENS = struct.Struct("<HI")  # TOKENS + numbers, entries


@dataclass(frozen=True)
class Vector:
    """A quantized vector: `levels` int8 `[D]`, each times `step`."""

    levels: np.ndarray
    step: float

    @classmethod
    def of(cls, values):
        """Quantize floats `[D]`: the largest magnitude becomes 127. The error is at most half a step in each."""
        values = np.asarray(values, np.float32)
        step = np.float32(np.abs(values).max(initial=0) / LEVELS)
        if not np.isfinite(step):
            raise ValueError("a side vector with NaN or infinite values")
        return cls(np.rint(values / step if step else values).clip(-LEVELS, LEVELS).astype(np.int8), float(step))

    @property
    def size(self):
        return len(self.levels)

    def floats(self):
        """Float32 `[D]`."""
        return self.levels.astype(np.float32) * np.float32(self.step)

    numbers = floats

    def __str__(self):
        return f"{self.size} x 8 bit"


@dataclass(frozen=True)
class Tokens:
    """Tokens of one codebook: `codes` int64 `[N]`, each below `entries`."""

    codes: np.ndarray
    entries: int

    def __post_init__(self):
        if not (len(self.codes) < TOKENS and 1 <= self.entries < 1 << 32):
            raise ValueError(f"{len(self.codes)} tokens of {self.entries} entries")
        if len(self.codes) and not 0 <= self.codes.min() <= self.codes.max() < self.entries:
            raise ValueError(f"a token outside 0..{self.entries - 1}")

    @property
    def bits(self):
        return max(1, (self.entries - 1).bit_length())

    @property
    def size(self):
        return len(self.codes)

    def numbers(self):
        """Int64 `[N]`."""
        return self.codes

    def __str__(self):
        return f"{self.size} tokens of {self.bits} bit"


def pack_text(text, most=255):
    """A length (uint8) and UTF-8, cut to whole characters within `most` bytes."""
    data = text.encode()[:most].decode(errors="ignore").encode()
    return bytes([len(data)]) + data


def pack_side(side):
    """The bytes of `side`, name -> Vector or Tokens."""
    parts = [bytes([len(side)])]
    for name, sent in side.items():
        parts.append(pack_text(name))
        if isinstance(sent, Tokens):
            parts += [_TOKENS.pack(TOKENS | len(sent.codes), sent.entries), pack_codes(sent.codes[None], sent.bits)]
        else:
            parts += [_VECTOR.pack(len(sent.levels), sent.step), sent.levels.tobytes()]
    return b"".join(parts)


def has_tokens(side):
    return any(isinstance(sent, Tokens) for sent in side.values())


class Fields:
    """Reads fields of `data` in order; ValueError where they end early."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, size):
        self.at += size
        if self.at > len(self.data):
            raise ValueError("malformed header")
        return self.data[self.at - size : self.at]

    def byte(self):
        return self.take(1)[0]

    def text(self):
        return self.take(self.byte()).decode()  # a UnicodeDecodeError is a ValueError

    def unpack_side(self):
        """The inverse of `pack_side`."""
        side = {}
        for _ in range(self.byte()):
            name, data = self.text(), self.take(_VECTOR.size)
            if not name.isidentifier() or name in side:
                raise ValueError("malformed header")
            size, step = _VECTOR.unpack(data)
            if size & TOKENS:
                side[name] = self._tokens(size & ~TOKENS, _TOKENS.unpack(data)[1])
                continue
            if not 0 <= step < 1e30:  # not NaN either
                raise ValueError("malformed header")
            side[name] = Vector(np.frombuffer(self.take(size), np.int8), step)
        return side

    def _tokens(self, n, entries):
        bits = max(1, (entries - 1).bit_length())
        return Tokens(unpack_codes(self.take(-(-n * bits // 8)), 1, n, bits)[0], entries)


@dataclass(frozen=True)
class Profile:
    """A speaker, as one model's decoder wants to know it: `side`, name -> Vector or Tokens.

    `fingerprint` and `model` say of which model; `seconds` of `recordings` recordings it was made.
    """

    side: dict[str, Vector | Tokens]
    fingerprint: bytes
    model: str = ""
    recordings: int = 1
    seconds: float = 0.0
    hash: bytes = field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "hash", hash_of(self.pack()))

    def pack(self):
        """The bytes of the `.psp` file."""
        body = pack_text(self.model) + pack_side(self.side)
        size = _FIXED.size + len(body) + _CRC.size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes of side information; a file holds {MOST_BYTES}")
        version = WITH_TOKENS if has_tokens(self.side) else VERSION
        data = _FIXED.pack(MAGIC, version, size, self.fingerprint, self.recordings, self.seconds) + body
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def unpack(cls, data):
        """The inverse of `pack`. Raises ValueError in one line for damaged, truncated or foreign data."""
        if data[:3] != MAGIC:
            raise ValueError("not a .psp file")
        if len(data) > 3 and data[3] not in (VERSION, WITH_TOKENS):
            raise ValueError(f"a .psp file of version {data[3]}; this program knows versions 1 and 2")
        if len(data) < _FIXED.size + _CRC.size or len(data) != _FIXED.unpack_from(data)[2]:
            raise ValueError("a damaged .psp file (its length is wrong)")
        if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(data[: -_CRC.size]):
            raise ValueError("a damaged .psp file (checksum)")
        _, _, _, fingerprint, recordings, seconds = _FIXED.unpack_from(data)
        fields = Fields(data[: -_CRC.size], _FIXED.size)
        try:
            model, side = fields.text(), fields.unpack_side()
        except ValueError:
            raise ValueError("a malformed .psp file") from None
        if fields.at != len(data) - _CRC.size:
            raise ValueError("a malformed .psp file")
        return cls(side, fingerprint, model, recordings, seconds)


def hash_of(data):
    """By which a `.psc` file names a `.psp` file: the first 8 bytes of the SHA-256 of its bytes."""
    return hashlib.sha256(data).digest()[:8]


def read_profile(path):
    """The `Profile` in file `path`. Raises UserError, naming the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        return Profile.unpack(data)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def write_profile(path, profile):
    """Write `profile` to `path`, atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(profile.pack())


def find_profile(wanted, paths):
    """The profile with hash `wanted` (bytes) among files and folders `paths`. Raises UserError naming the hash.

    In folders, every *.psp below is looked at; what cannot be read there is passed over.
    """
    for path in map(Path, paths):
        for file in sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]:
            try:
                profile = read_profile(file)
            except UserError:
                if file == path:
                    raise
                continue
            if profile.hash == wanted:
                return profile
    where = f"is not in {', '.join(map(str, paths))}" if paths else "was not given (its .psp file, or a folder with it)"
    raise UserError(f"coded with speaker profile {wanted.hex()}, which {where}")
