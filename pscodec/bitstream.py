"""The `.psc` file: a header with side information, and codes in packets (pscodec/packets.py).

There are two versions, and what the older, 2, can say is written in it: it costs less, and older programs read it.
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
from pscodec.profile import MOST_BYTES, Fields, Tokens, Vector, has_tokens, pack_side, pack_text
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

SUFFIX = ".psc"
MAGIC, VERSIONS = b"PSC", (2, 3)
UNKNOWN = 0xFFFFFFFF  # samples of a signal that had not ended when its header was written
MOST_SECONDS = 16  # of a packet: what a few bytes can claim to have lost is bounded by it
MOST_NAME = 32  # bytes of the model's name
SIDE_NONE, SIDE_SENT, SIDE_PROFILE = range(3)
# magic, version, bytes of the header, model, sample rate, hop length, codebooks, bits, frames a packet, samples
_FIXED = struct.Struct("<3sBH8sIHBBHI")
_MORE = struct.Struct("<BIB")  # of version 3: channels, samples a packet, and
SCALED, CODED = 1, 2  # bits: packets have a scale; they are entropy coded
_START = 6  # bytes until the header's length is known
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What must be known before the first packet. `side`: what is sent once an utterance, name -> profile.Vector or
    Tokens, or `profile`: the hash (8 bytes) of the `.psp` file that has it. `n_samples` is None where nobody knew it.

    `samples_per_packet`: that a packet stands for, where chunks overlap, less than its frames' (None: theirs);
    `scaled`: packets bring a scale; `entropy`: the fingerprint (8 bytes) of the model that entropy coded them.
    """

    sample_rate: int
    hop_length: int
    n_q: int
    bits: int
    fingerprint: bytes
    model: str = ""
    side: dict[str, Vector | Tokens] = field(default_factory=dict)
    profile: bytes | None = None
    frames_per_packet: int = 75
    n_samples: int | None = None
    channels: int = 1
    samples_per_packet: int | None = None
    scaled: bool = False
    entropy: bytes | None = None

    @property
    def version(self) -> int:
        """The oldest that can say all this."""
        plain = self.channels == 1 and self.samples_per_packet is None and not self.scaled and not self.entropy
        return 2 if plain and not has_tokens(self.side) else 3

    def pack(self):
        """The header's bytes."""
        self._check()
        kind = SIDE_PROFILE if self.profile else SIDE_SENT if self.side else SIDE_NONE
        body = pack_text(self.model, MOST_NAME) + bytes([kind]) + self.side_bytes()
        if self.version > 2:
            flags = SCALED * self.scaled | CODED * bool(self.entropy)
            samples = self.samples_per_packet or self.frames_per_packet * self.hop_length
            body = _MORE.pack(self.channels, samples, flags) + body + (self.entropy or b"")
        size = _FIXED.size + len(body) + _CRC.size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes of side information; a header holds {MOST_BYTES}")
        n_samples = UNKNOWN if self.n_samples is None else min(self.n_samples, UNKNOWN)
        shape = (self.sample_rate, self.hop_length, self.n_q, self.bits, self.frames_per_packet, n_samples)
        data = _FIXED.pack(MAGIC, self.version, size, self.fingerprint, *shape) + body
        return data + _CRC.pack(zlib.crc32(data))

    def side_bytes(self):
        """The side information, as the header has it."""
        return self.profile or (pack_side(self.side) if self.side else b"")

    def sizes(self, frames, coded=None):
        """Of a file with so many frames: bytes of `codes` alone (`coded`, where they are entropy coded), of the `side`
        information, of the `container` around both, and in `total`."""
        head, side = self.pack(), len(self.side_bytes())
        codes, more = self.layout(head).sizes(frames)
        codes = codes if coded is None else coded
        container = len(head) - side + more
        return {"codes": codes, "side": side, "container": container, "total": codes + side + container}

    @classmethod
    def unpack(cls, data):
        """The header at the beginning of `data` and its length in bytes; (None, 0) if more bytes are needed.

        Raises ValueError in one line for damaged or foreign data.
        """
        if data[:3] != MAGIC[: len(data)]:
            raise ValueError("not a .psc file")
        if len(data) > 3 and data[3] not in VERSIONS:
            raise ValueError(f"a .psc file of version {data[3]}; this program knows versions 2 and 3")
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
        channels, samples, flags = _MORE.unpack(fields.take(_MORE.size)) if data[3] > 2 else (1, None, 0)
        model, kind = fields.text(), fields.byte()
        side = fields.unpack_side() if kind == SIDE_SENT else {}
        profile = fields.take(8) if kind == SIDE_PROFILE else None
        entropy = fields.take(8) if flags & CODED else None
        if samples == frames_per_packet * hop_length:
            samples = None
        header = cls(sample_rate, hop_length, n_q, bits, fingerprint, model, side, profile, frames_per_packet)
        header = replace(
            header, channels=channels, samples_per_packet=samples, scaled=bool(flags & SCALED), entropy=entropy
        )
        if kind > SIDE_PROFILE or fields.at != len(data) - _CRC.size or header.version > data[3] or flags > 3:
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
        most = self.frames_per_packet * self.hop_length
        samples = most if self.samples_per_packet is None else self.samples_per_packet
        if not 1 <= self.channels <= 255 or not 1 <= samples <= most:
            raise ValueError("malformed header: channels, or samples a packet")

    def layout(self, packed):
        """The `packets.Layout` behind this header, of which `packed` are the bytes."""
        (key,) = _CRC.unpack(packed[-_CRC.size :])
        samples, sized = self.samples_per_packet or 0, self.version > 2
        return Layout(self.n_q, self.bits, self.frames_per_packet, self.hop_length, key, samples, sized, self.scaled)


@dataclass
class Stream:
    """What a `.psc` file holds: `codes` `[K, T]` int64 of `n_samples` samples, under a `header`.

    `lost`: the stretches `(start, stop)` of frames that could not be read; there `codes` repeats its neighbours, and
    decoders are silent. `damage` says in words what was wrong with the file. `scales`: of the packets, where they bring
    one (None: lost); `coded`: bytes of its codes in the file it was read from, where they were entropy coded.
    """

    header: Header
    codes: np.ndarray
    n_samples: int
    lost: list[tuple[int, int]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    scales: list[float | None] = field(default_factory=list)
    coded: int | None = None

    @property
    def seconds(self):
        return self.n_samples / self.header.sample_rate

    def sizes(self):
        """Bytes of its parts, see `Header.sizes`."""
        return self.header.sizes(self.codes.shape[1], self.coded)


class Writer:
    """A stream as bytes, while its codes come: `begin()`, `push(codes)` ..., `finish(n_samples)`.

    `entropy`: the coder (packets.PacketWriter) of the model that the header names, if it names one.
    """

    def __init__(self, header, entropy=None):
        if bool(entropy) != bool(header.entropy):
            raise ValueError("an entropy coder, and a header that names its model, need each other")
        self._head = header.pack()
        self._packets = PacketWriter(header.layout(self._head), entropy)
        self.push, self.finish = self._packets.push, self._packets.finish

    @property
    def coded(self):
        """Bytes of its codes so far, where they are entropy coded; else None."""
        return self._packets.payload if self._packets.entropy else None

    def begin(self):
        return self._head


class Reader:
    """A stream from bytes, while they come: `push(data)` and `finish()` return lists of `packets.Packet`.

    `header` is None until it has come whole, `n_samples` until the end has. Both raise ValueError, in one line, for
    what is not a `.psc` file or has a damaged header; other damage is told in `damage`. `entropy`: a function of
    a `Header` that names a model to its coder (None: it is not here, and the stream is refused).
    """

    def __init__(self, entropy=lambda header: None):
        self.header, self._packets, self._begun, self._entropy = None, None, bytearray(), entropy

    def push(self, data):
        if self.header is not None:
            return self._packets.push(data)
        self._begun += data
        self.header, size = Header.unpack(self._begun)
        if self.header is None:
            return []
        layout, named = self.header.layout(self._begun[:size]), self.header.entropy
        entropy = self._entropy(self.header) if named else None
        if named and entropy is None:
            raise ValueError(f"entropy coded by the language model {named.hex()}, which is not here")
        self._packets = PacketReader(layout, self.header.sample_rate, entropy)
        return self._packets.push(self._begun[size:])

    def finish(self):
        if self.header is None:
            raise ValueError("it ends within its header" if self._begun else "empty file")
        return self._packets.finish(self.header.n_samples)

    @property
    def n_samples(self):
        return self._packets and self._packets.n_samples

    @property
    def coded(self):
        """Bytes of codes so far, where they are entropy coded."""
        return self._packets.payload if self._packets and self.header.entropy else None

    @property
    def damage(self):
        return self._packets.damage if self._packets else []


def write(path, stream, entropy=None):
    """Write `stream` to `path`, atomically; `entropy` as `Writer`'s. ValueError where a code does not fit its bits."""
    with atomic_path(path) as partial:
        partial.write_bytes(pack(stream, entropy))


def read(path, *entropy):
    """Read the `Stream` of `path`; damaged packets cost what is in them and a Python warning. `entropy`: `Reader`'s.

    Raises UserError, naming the file, for anything that is not a `.psc` file or whose header is damaged.
    """
    try:
        stream = unpack(Path(path).read_bytes(), *entropy)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for line in stream.damage:
        warnings.warn(f"{path}: {line}", stacklevel=2)
    return stream


def pack(stream, entropy=None):
    """The bytes of `stream`."""
    writer = Writer(replace(stream.header, n_samples=stream.n_samples), entropy)
    codes = writer.push(np.asarray(stream.codes), stream.scales)
    return writer.begin() + codes + writer.finish(stream.n_samples)


def unpack(data, *entropy):
    """The `Stream` of bytes `data`. Raises ValueError in one line for a damaged header or foreign data."""
    reader = Reader(*entropy)
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
    scales = [scale for p in packets for scale in _scales(p, reader.header)] if reader.header.scaled else []
    return Stream(reader.header, np.concatenate(codes, 1), reader.n_samples, lost, reader.damage, scales, reader.coded)


def _scales(packet, header):
    """Of a packet, or None for each of those that were lost."""
    return [packet.scale] if packet.codes is not None else [None] * (packet.frames // header.frames_per_packet)


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
