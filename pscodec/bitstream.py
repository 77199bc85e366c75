"""The `.psc` file: a header with the speaker's side information, and codes in packets (pscodec/packets.py).

docs/format.md describes every byte. Nothing in it is executed or unpickled, and what is read is bounded by the file's
own size. A damaged header is refused; damaged packets cost the seconds that were in them, and a warning.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pscodec.packets import MOST_PAYLOAD, Layout, PacketReader, PacketWriter
from pscodec.profile import MOST_BYTES, Fields, Vector, pack_side, pack_text
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

SUFFIX = ".psc"
MAGIC, VERSION = b"PSC", 2
UNKNOWN = 0xFFFFFFFF  # samples of a signal that had not ended when its header was written
MOST_SECONDS = 16  # of a packet: what a few bytes can claim to have lost is bounded by it
MOST_NAME = 32  # bytes of the model's name
SIDE_NONE, SIDE_VECTORS, SIDE_PROFILE = range(3)
# magic, version, bytes of the header, model, sample rate, hop length, codebooks, bits, frames a packet, samples
_FIXED = struct.Struct("<3sBH8sIHBBHI")
_START = 6  # bytes until the header's length is known
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What must be known before the first packet. `side`: the prompt as quantized vectors, name -> profile.Vector, or
    `profile`: the hash (8 bytes) of the `.psp` file that has them. `n_samples` is None where nobody knew it yet."""

    sample_rate: int
    hop_length: int
    n_q: int
    bits: int
    fingerprint: bytes
    model: str = ""
    side: dict[str, Vector] = field(default_factory=dict)
    profile: bytes | None = None
    frames_per_packet: int = 75
    n_samples: int | None = None

    def pack(self):
        """The header's bytes."""
        self._check()
        kind = SIDE_PROFILE if self.profile else SIDE_VECTORS if self.side else SIDE_NONE
        body = pack_text(self.model, MOST_NAME) + bytes([kind]) + self._side()
        size = _FIXED.size + len(body) + _CRC.size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes of side information; a header holds {MOST_BYTES}")
        n_samples = UNKNOWN if self.n_samples is None else min(self.n_samples, UNKNOWN)
        shape = (self.sample_rate, self.hop_length, self.n_q, self.bits, self.frames_per_packet, n_samples)
        data = _FIXED.pack(MAGIC, VERSION, size, self.fingerprint, *shape) + body
        return data + _CRC.pack(zlib.crc32(data))

    def _side(self):
        return self.profile or (pack_side(self.side) if self.side else b"")

    def sizes(self, frames):
        """Of a file with so many frames: bytes of `codes` alone, of the `side` information, of the `container` around
        both, and in `total`."""
        head, side = self.pack(), len(self._side())
        codes, more = self.layout(head).sizes(frames)
        container = len(head) - side + more
        return {"codes": codes, "side": side, "container": container, "total": codes + side + container}

    @classmethod
    def unpack(cls, data):
        """The header at the beginning of `data` and its length in bytes; (None, 0) if more bytes are needed.

        Raises ValueError in one line for damaged or foreign data.
        """
        if data[:3] != MAGIC[: len(data)]:
            raise ValueError("not a .psc file")
        if len(data) > 3 and data[3] != VERSION:
            raise ValueError(f"a .psc file of version {data[3]}; this program knows version {VERSION}")
        if len(data) < _START:
            return None, 0
        size = int.from_bytes(data[4:6], "little")
        if size < _FIXED.size + 2 + _CRC.size:
            raise ValueError("damaged header")
        if len(data) < size:
            return None, 0
        data = bytes(data[:size])
        if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(data[: -_CRC.size]):
            raise ValueError("damaged header (checksum)")
        return cls._parse(data), size

    @classmethod
    def _parse(cls, data):
        _, _, _, fingerprint, *shape, n_samples = _FIXED.unpack_from(data)
        sample_rate, hop_length, n_q, bits, frames_per_packet = shape
        fields = Fields(data[: -_CRC.size], _FIXED.size)
        model, kind = fields.text(), fields.byte()
        side = fields.side() if kind == SIDE_VECTORS else {}
        profile = fields.take(8) if kind == SIDE_PROFILE else None
        header = cls(sample_rate, hop_length, n_q, bits, fingerprint, model, side, profile, frames_per_packet)
        if kind > SIDE_PROFILE or fields.at != len(data) - _CRC.size:
            raise ValueError("malformed header")
        header._check()
        return replace(header, n_samples=None if n_samples == UNKNOWN else n_samples)

    def _check(self):
        counts = self.sample_rate and self.hop_length and self.n_q and self.frames_per_packet
        if not counts or not 1 <= self.bits <= 24 or not self.model.isprintable():
            raise ValueError("malformed header")
        if self.n_q * self.bits * self.frames_per_packet > 8 * MOST_PAYLOAD:
            raise ValueError(f"malformed header: more than {MOST_PAYLOAD} bytes of codes a packet")
        if self.frames_per_packet * self.hop_length > MOST_SECONDS * self.sample_rate:
            raise ValueError(f"malformed header: more than {MOST_SECONDS} s a packet")

    def layout(self, packed):
        """The `packets.Layout` behind this header, of which `packed` are the bytes."""
        (key,) = _CRC.unpack(packed[-_CRC.size :])
        return Layout(self.n_q, self.bits, self.frames_per_packet, self.hop_length, key)


@dataclass
class Stream:
    """What a `.psc` file holds: `codes` `[K, T]` int64 of `n_samples` samples, under a `header`.

    `lost`: the stretches `(start, stop)` of frames that could not be read; there `codes` repeats its neighbours, and
    decoders are silent. `damage` says in words what was wrong with the file.
    """

    header: Header
    codes: np.ndarray
    n_samples: int
    lost: list[tuple[int, int]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def seconds(self):
        return self.n_samples / self.header.sample_rate

    def sizes(self):
        """Bytes of its parts, see `Header.sizes`."""
        return self.header.sizes(self.codes.shape[1])


class Writer:
    """A stream as bytes, while its codes come: `begin()`, `push(codes)` ..., `finish(n_samples)`."""

    def __init__(self, header):
        self._head = header.pack()
        self._packets = PacketWriter(header.layout(self._head))
        self.push, self.finish = self._packets.push, self._packets.finish

    def begin(self):
        return self._head


class Reader:
    """A stream from bytes, while they come: `push(data)` and `finish()` return lists of `packets.Packet`.

    `header` is None until it has come whole, `n_samples` until the end has. Both raise ValueError, in one line, for
    what is not a `.psc` file or has a damaged header; other damage is told in `damage`.
    """

    def __init__(self):
        self.header, self._packets, self._begun = None, None, bytearray()

    def push(self, data):
        if self.header is not None:
            return self._packets.push(data)
        self._begun += data
        self.header, size = Header.unpack(self._begun)
        if self.header is None:
            return []
        layout = self.header.layout(self._begun[:size])
        self._packets = PacketReader(layout, self.header.sample_rate)
        return self._packets.push(self._begun[size:])

    def finish(self):
        if self.header is None:
            raise ValueError("it ends within its header" if self._begun else "empty file")
        return self._packets.finish(self.header.n_samples)

    @property
    def n_samples(self):
        return self._packets and self._packets.n_samples

    @property
    def damage(self):
        return self._packets.damage if self._packets else []


def write(path, stream):
    """Write `stream` to `path`, atomically. Raises ValueError for a code that does not fit its bits."""
    with atomic_path(path) as partial:
        partial.write_bytes(pack(stream))


def read(path):
    """Read the `Stream` of `path`; damaged packets cost what is in them and a Python warning.

    Raises UserError, naming the file, for anything that is not a `.psc` file or whose header is damaged.
    """
    try:
        stream = unpack(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for line in stream.damage:
        warnings.warn(f"{path}: {line}", stacklevel=2)
    return stream


def pack(stream):
    """The bytes of `stream`."""
    writer = Writer(replace(stream.header, n_samples=stream.n_samples))
    return writer.begin() + writer.push(np.asarray(stream.codes)) + writer.finish(stream.n_samples)


def unpack(data):
    """The `Stream` of bytes `data`. Raises ValueError in one line for a damaged header or foreign data."""
    reader = Reader()
    packets = reader.push(data) + reader.finish()
    codes = [np.zeros((reader.header.n_q, 0), np.int64)]
    lost, at = [], 0
    for i, packet in enumerate(packets):
        if packet.codes is None:
            lost.append((at, at + packet.frames))
            after = packets[i + 1].codes  # a lost stretch is known by what follows it
            codes.append(conceal(packet.frames, codes[-1], after))
        else:
            codes.append(packet.codes)
        at += packet.frames
    return Stream(reader.header, np.concatenate(codes, 1), reader.n_samples, lost, reader.damage)


def conceal(frames, before, after):
    """Codes `[K, frames]` for a lost stretch: its first half repeats the last frame of `before`, the rest the first of
    `after` (either may be empty), so that what is decoded beside the stretch has speech around it."""
    before, after = before[:, -1:], after[:, :1]
    if not before.shape[1]:
        before = after
    if not after.shape[1]:
        after = before
    if not before.shape[1]:  # a stream of which nothing else is left
        before = after = np.zeros((len(before), 1), np.int64)
    half = frames // 2
    return np.concatenate([np.repeat(before, half, 1), np.repeat(after, frames - half, 1)], 1)
