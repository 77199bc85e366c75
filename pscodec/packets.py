"""Codes in packets of about a second, each with a checksum: what is lost of a stream is as little as was damaged.

A full packet is a tag byte (the packet's number modulo 128), the codes of `frames_per_packet` frames and a CRC-32; the
end packet's tag has its top bit set and tells the samples it stands for, in as many frames as they need. Every checksum
starts from the header's, so that no packet of another stream passes. Packets of version 3 say their own size, so that
codes may be entropy coded, and may bring a scale. docs/format.md describes the bytes.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

END = 0x80  # in the tag
MOST_PAYLOAD = 16384  # bytes of codes in a packet
BEHIND = 16  # packets that one may be behind its place; all other numbers lie ahead, as where bytes are gone
MOST_MISSING = 128  # packets whose very bytes are gone, of which a stream's timeline is still believed
SEARCH = 1 << 26  # bytes put through the checksum in search of the next good packet, all told
CODED = 0x8000  # in the size: the payload is entropy coded
_TAG, _SAMPLES, _CRC = struct.Struct("<B"), struct.Struct("<I"), struct.Struct("<I")
_SIZE, _SCALE = struct.Struct("<H"), struct.Struct("<f")


def pack_codes(codes, bits):
    """Codes `[K, T]` -> ceil(K * T * bits / 8) bytes: frame by frame, codebook by codebook, highest bit first."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((codes.T[..., None] >> shifts & 1).astype(np.uint8).ravel()).tobytes()


def unpack_codes(payload, k, frames, bits):
    """The inverse of `pack_codes`: int64 `[k, frames]`."""
    digits = np.unpackbits(np.frombuffer(payload, np.uint8), count=k * frames * bits).reshape(frames, k, bits)
    return (digits.astype(np.int64) << np.arange(bits - 1, -1, -1)).sum(-1).T


@dataclass(frozen=True)
class Layout:
    """What the packets of one stream share: codes a frame, bits a code, frames a packet, samples a frame, `key`, the
    header's checksum, and the samples that a packet stands for, fewer than those of its frames where chunks overlap
    (0: as many). `sized`: they are of version 3; `scaled`: and bring a scale."""

    n_q: int
    bits: int
    frames_per_packet: int
    hop_length: int
    key: int
    samples: int = 0
    sized: bool = False
    scaled: bool = False

    @property
    def samples_per_packet(self):
        return self.samples or self.frames_per_packet * self.hop_length

    def payload(self, frames):
        """Bytes of the codes of so many frames."""
        return -(-self.n_q * self.bits * frames // 8)

    @property
    def extra(self):
        """Bytes of a full packet around its codes."""
        return _TAG.size + self.sized * _SIZE.size + self.scaled * _SCALE.size + _CRC.size

    @property
    def size(self):
        """Bytes of a full packet; an entropy coded one has at most so many."""
        return self.payload(self.frames_per_packet) + self.extra

    def sizes(self, frames):
        """Of a stream of so many frames, not entropy coded: bytes of its codes, and of what packets add to them."""
        full = max(0, frames - 1) // self.frames_per_packet
        rest = frames - full * self.frames_per_packet
        codes = full * self.payload(self.frames_per_packet) + self.payload(rest)
        return codes, (full + 1) * self.extra + _SAMPLES.size


class PacketWriter:
    """Codes, as they come, into packets; a full one leaves with the frame after it.

    `entropy`: a coder (`encode(codes) -> bytes`, `decode(bytes, frames) -> codes`, from nothing at each packet's
    beginning), None: plain. A packet that it does not make smaller stays plain. `payload`: bytes of codes so far.
    """

    def __init__(self, layout, entropy=None):
        self.layout, self.entropy, self.number, self.payload = layout, entropy, 0, 0
        self.held, self.scales = np.zeros((layout.n_q, 0), np.int64), []

    def push(self, codes, scales=()):
        """Codes `[K, t]` -> the packets that they fill; `scales`, where packets have one: those of the next packets.
        Raises ValueError for a code that does not fit its bits."""
        self.scales += scales
        if codes.size and (codes.min() < 0 or codes.max() >= 1 << self.layout.bits):
            raise ValueError(f"codes outside 0..{(1 << self.layout.bits) - 1}")
        held, n = np.concatenate([self.held, codes], 1), self.layout.frames_per_packet
        full = max(0, held.shape[1] - 1) // n * n  # the end packet has a frame at least, in which the signal ends
        self.held = held[:, full:]
        return b"".join(self._packet(0, b"", held[:, i : i + n]) for i in range(0, full, n))

    def finish(self, n_samples):
        """The end packet, of a signal of `n_samples` (all told)."""
        frames = self.number * self.layout.frames_per_packet
        samples = n_samples - self.number * self.layout.samples_per_packet
        if -(-samples // self.layout.hop_length) != self.held.shape[1]:
            raise ValueError(f"{frames + self.held.shape[1]} frames of codes for {n_samples} samples")
        return self._packet(END, _SAMPLES.pack(samples), self.held)

    def _packet(self, tag, samples, codes):
        payload, coded = pack_codes(codes, self.layout.bits), 0
        if self.entropy and len(shorter := self.entropy.encode(codes)) < len(payload):
            payload, coded = shorter, CODED
        data = _TAG.pack(tag | self.number % END) + samples
        if self.layout.sized:
            data += _SIZE.pack(len(payload) | coded)
        if self.layout.scaled:
            data += _SCALE.pack(self.scales.pop(0))
        data += payload
        self.number += 1
        self.payload += len(payload)
        return data + _CRC.pack(zlib.crc32(data, self.layout.key))


@dataclass(frozen=True)
class Packet:
    """`frames` frames: `codes` `[K, frames]` int64, or None where they are lost; `scale` where packets bring one."""

    frames: int
    codes: np.ndarray | None
    scale: float | None = None


class PacketReader:
    """Bytes, as they come, into packets; where they are damaged, on to the next good packet.

    `n_samples` is known after the end packet, or guessed by `finish` where that is lost. `damage` tells what was lost.
    `entropy` as `PacketWriter`'s; without it, entropy coded packets count as damaged. `payload`: bytes of codes so far.
    """

    def __init__(self, layout, sample_rate, entropy=None):
        self.layout, self.sample_rate, self.entropy, self.payload = layout, sample_rate, entropy, 0
        self.n_samples, self.damage = None, []
        self._buffer, self._offset = bytearray(), 0  # what is not read yet, and where it is in the stream
        self._number, self._good = 0, 0  # the next packet's, and where the last good one ended
        self._held, self._taken = 0, 0  # good packets so far, and their bytes
        self._search, self._beyond = SEARCH, 0

    def push(self, data):
        """The next bytes -> list of the packets that they complete."""
        return self._read(data, False)

    def finish(self, promised=None):
        """Nothing follows -> list of the remaining packets. `promised`: samples that the header promises, or None."""
        packets = self._read(b"", True)
        if self.n_samples is None:
            self.n_samples = self._number * self.layout.samples_per_packet
            of = f" of {self._time(promised)}" if promised is not None else ""
            self.damage.append(f"the end is missing: it stops after {self._time(self.n_samples)}{of} s")
        elif self._beyond:
            self.damage.append(f"{self._beyond} bytes after its end are not of it")
        return packets

    def _time(self, samples):
        return f"{samples / self.sample_rate:.2f}"

    def _read(self, data, final):
        self._buffer += data
        packets, at = [], 0
        while self.n_samples is None and self._search > 0 and at < len(self._buffer):
            size, samples = self._size(at, final)
            if size is None and not final:
                break
            number = self._number_of(at, size) if size else None
            if number is None:
                at += 1
                continue
            lost = (number - self._number) * self.layout.frames_per_packet
            if lost:
                start, until = (n * self.layout.samples_per_packet for n in (self._number, number))
                self.damage.append(f"{self._time(start)} to {self._time(until)} s are lost")
                packets.append(Packet(lost, None))
            packets.append(self._codes(at, size, samples))
            at += size
            self._number, self._good = number + 1, self._offset + at
            self._held, self._taken = self._held + 1, self._taken + size
            if samples is not None:
                self.n_samples = number * self.layout.samples_per_packet + samples
        if self.n_samples is not None or self._search <= 0:
            self._beyond += len(self._buffer) - at
            at = len(self._buffer)
        self._offset += at
        del self._buffer[:at]
        return packets

    def _size(self, at, final):
        """Bytes of the packet that may begin here, 0 for none, None if they are still to come; an end's samples."""
        samples, head, frames = None, _TAG.size, self.layout.frames_per_packet
        if self._buffer[at] & END:
            if at + head + _SAMPLES.size > len(self._buffer):
                return None, None
            (samples,) = _SAMPLES.unpack_from(self._buffer, at + head)
            frames, head = -(-samples // self.layout.hop_length), head + _SAMPLES.size
            if frames > self.layout.frames_per_packet:
                return 0, None
        payload = self.layout.payload(frames)
        if self.layout.sized:
            if at + head + _SIZE.size > len(self._buffer):
                return None, None
            size = _SIZE.unpack_from(self._buffer, at + head)[0]
            if size & ~CODED > payload or not (size & CODED or size == payload) or (size & CODED and not self.entropy):
                return 0, None
            payload = size & ~CODED
        size = self.layout.extra + (_SAMPLES.size if samples is not None else 0) + payload
        return (size if at + size <= len(self._buffer) else None), samples

    def _number_of(self, at, size):
        """The number of the packet of `size` bytes that begins here, None if none does."""
        searching = self._offset + at != self._good
        if searching:
            self._search -= size
        crc = zlib.crc32(memoryview(self._buffer)[at : at + size - _CRC.size], self.layout.key)
        if crc != _CRC.unpack_from(self._buffer, at + size - _CRC.size)[0]:
            return None
        # what was passed over says about which number this is, the tag says it exactly
        place = self._number + round((self._offset + at - self._good) / self.layout.size)
        number = place + (self._buffer[at] % END - place + BEHIND) % END - BEHIND
        # good ones are counted, for entropy coded they may be of any size; what else there is may hold full ones
        room = self._held + (self._offset + at - self._taken) // self.layout.size
        believed = number - room <= MOST_MISSING
        return number if number >= self._number and believed else None

    def _codes(self, at, size, samples):
        head, coded, scale = _TAG.size + (0 if samples is None else _SAMPLES.size), False, None
        frames = self.layout.frames_per_packet if samples is None else -(-samples // self.layout.hop_length)
        if self.layout.sized:
            coded = bool(_SIZE.unpack_from(self._buffer, at + head)[0] & CODED)
            head += _SIZE.size
        if self.layout.scaled:
            (scale,) = _SCALE.unpack_from(self._buffer, at + head)
            head += _SCALE.size
        payload = bytes(self._buffer[at + head : at + size - _CRC.size])
        self.payload += len(payload)
        if coded:
            return Packet(frames, self.entropy.decode(payload, frames), scale)
        return Packet(frames, unpack_codes(payload, self.layout.n_q, frames, self.layout.bits), scale)
