"""The `.psc` file: a header, the prompt as vectors, and codes in packets of about a second. Little endian throughout.

    offset  size  what
    0       4     "PSC1"
    4       8     fingerprint of the model (first bytes of the SHA-256 of its weights)
    12      4     sample rate, Hz                           uint32
    16      2     hop length, samples a frame               uint16
    18      1     codebooks a frame, K                      uint8
    19      1     bits a code                               uint8
    20      2     frames a packet                           uint16
    22      8     samples of the signal                     uint64
    30      1     number of side vectors                    uint8
    then, for each side vector: name length (uint8), name (ASCII), dimension (uint16), values (float16)
    then the CRC-32 of everything so far                    uint32
    then the packets: codes of its frames, frame by frame, codebook by codebook, most significant bit first, padded
    with zeros to whole bytes, and the CRC-32 of these bytes (uint32). The last packet holds what frames are left.

Nothing in it is executed or unpickled, and what is read is bounded by the file's own size.
"""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

MAGIC = b"PSC1"
_HEADER = struct.Struct("<4s8sIHBBHQB")
_CRC = struct.Struct("<I")


@dataclass
class Stream:
    """What a `.psc` file holds: `codes` `[K, T]` int64, `side` name -> float16 `[D]`, and how to read them."""

    codes: np.ndarray
    n_samples: int
    sample_rate: int
    hop_length: int
    bits: int
    fingerprint: bytes
    side: dict[str, np.ndarray] = field(default_factory=dict)
    frames_per_packet: int = 75

    @property
    def seconds(self):
        return self.n_samples / self.sample_rate

    def sizes(self):
        """Bytes of `codes` alone, of the `side` vectors, and of the `total` file, container included."""
        k, t = self.codes.shape
        packets = [min(self.frames_per_packet, t - i) for i in range(0, t, self.frames_per_packet)]
        codes = sum(-(-k * self.bits * n // 8) for n in packets)
        side = sum(1 + len(name) + 2 + 2 * len(vector) for name, vector in self.side.items())
        return {
            "codes": codes,
            "side": side,
            "total": _HEADER.size + side + _CRC.size + codes + _CRC.size * len(packets),
        }


def write(path, stream):
    """Write `stream` to `path`, atomically. Raises ValueError for a code that does not fit its bits."""
    with atomic_path(path) as partial:
        partial.write_bytes(pack(stream))


def read(path):
    """Read the `Stream` of `path`. Raises UserError, naming the file, for anything that is not a whole `.psc` file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        return unpack(data)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def pack(stream):
    """The bytes of `stream`."""
    codes = np.asarray(stream.codes)
    k, frames = codes.shape
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << stream.bits):
        raise ValueError(f"codes outside 0..{(1 << stream.bits) - 1}")
    head = _HEADER.pack(
        MAGIC,
        stream.fingerprint,
        stream.sample_rate,
        stream.hop_length,
        k,
        stream.bits,
        stream.frames_per_packet,
        stream.n_samples,
        len(stream.side),
    )
    for name, vector in stream.side.items():
        head += struct.pack("<B", len(name)) + name.encode("ascii") + struct.pack("<H", len(vector))
        head += np.asarray(vector, "<f2").tobytes()
    parts = [head, _CRC.pack(zlib.crc32(head))]
    for start in range(0, frames, stream.frames_per_packet):
        payload = pack_codes(codes[:, start : start + stream.frames_per_packet], stream.bits)
        parts += [payload, _CRC.pack(zlib.crc32(payload))]
    return b"".join(parts)


def unpack(data):
    """The `Stream` of bytes `data`. Raises ValueError in one line for damaged, truncated or foreign data."""
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise ValueError("not a .psc file")
    _, fingerprint, sample_rate, hop_length, k, bits, per_packet, n_samples, n_side = _HEADER.unpack_from(data)
    if not (sample_rate and hop_length and k and 1 <= bits <= 24 and per_packet):
        raise ValueError("damaged header")
    at, side = _HEADER.size, {}
    try:
        for _ in range(n_side):
            length = data[at]
            name = data[at + 1 : at + 1 + length].decode("ascii")
            (dim,) = struct.unpack_from("<H", data, at + 1 + length)
            at += 3 + length
            side[name] = np.frombuffer(data, "<f2", dim, at)
            at += 2 * dim
        (crc,) = _CRC.unpack_from(data, at)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError):
        raise ValueError("damaged header") from None
    if crc != zlib.crc32(data[:at]):
        raise ValueError("damaged header (checksum)")
    at += _CRC.size

    frames = max(1, -(-n_samples // hop_length))
    packets, rest = divmod(frames, per_packet)
    sizes = [per_packet] * min(packets, len(data)) + ([rest] if rest else [])  # a hostile count costs no memory
    expected = at + sum(-(-k * bits * n // 8) + _CRC.size for n in sizes)
    if packets > len(data) or expected != len(data):
        raise ValueError(
            f"{len(data)} bytes where the header promises {n_samples / sample_rate:.2f} s of {k} codes a frame"
        )
    codes = []
    for number, n in enumerate(sizes):
        payload = data[at : at + -(-k * bits * n // 8)]
        at += len(payload)
        if _CRC.unpack_from(data, at)[0] != zlib.crc32(payload):
            raise ValueError(f"packet {number} is damaged (checksum)")
        at += _CRC.size
        codes.append(unpack_codes(payload, k, n, bits))
    return Stream(np.concatenate(codes, 1), n_samples, sample_rate, hop_length, bits, fingerprint, side, per_packet)


def pack_codes(codes, bits):
    """Codes `[K, T]` -> ceil(K * T * bits / 8) bytes."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((codes.T[..., None] >> shifts & 1).astype(np.uint8).ravel()).tobytes()


def unpack_codes(payload, k, frames, bits):
    """The inverse of `pack_codes`: int64 `[k, frames]`."""
    digits = np.unpackbits(np.frombuffer(payload, np.uint8), count=k * frames * bits).reshape(frames, k, bits)
    return (digits.astype(np.int64) << np.arange(bits - 1, -1, -1)).sum(-1).T
