"""NIST SPHERE files with shorten compression, as LDC ships WSJ0, decoded without any other program.

Shorten (Robinson 1994; versions 1 and 2, "embedded-shorten-v1.09" and "-v2.00" in SPHERE headers) codes blocks of
samples as the Rice-coded residual of a predictor: a difference of order 0 to 3, or linear prediction.
"""

import functools
from pathlib import Path

import numpy as np

from pscodec.utils.errors import UserError

MAGIC = b"ajkg"
DIFF0, DIFF1, DIFF2, DIFF3, QUIT, BLOCKSIZE, BITSHIFT, QLPC, ZERO, VERBATIM = range(10)
S16 = (3, 5)  # sample types: signed 16 bit, big and little endian; the values decoded are the same
LPC_BITS = 5  # fractional bits of the coefficients
HELP = "convert it with sph2pipe and point --wsj0 at the result"


def read_header(path):
    """The fields of a SPHERE file's header, name -> str or int, and its length in bytes; (None, 0) for other files."""
    with open(path, "rb") as file:
        head = file.read(1024)
        if not head.startswith(b"NIST_1A\n"):
            return None, 0
        try:
            size = int(head[8:16])
        except ValueError:
            raise UserError(f"{path}: broken SPHERE header") from None
        head += file.read(max(0, size - len(head)))
    fields = {}
    for line in head[16:size].decode("ascii", "replace").splitlines():
        parts = line.split(None, 2)
        if parts[:1] == ["end_head"]:
            break
        if len(parts) == 3:
            fields[parts[0]] = int(parts[2]) if parts[1] == "-i" else parts[2].strip()
    return fields, size


def is_shortened(path):
    """Whether a file is SPHERE with shorten compression, which libsndfile does not read."""
    fields, _ = read_header(path)
    return fields is not None and "shorten" in str(fields.get("sample_coding", ""))


def read_shortened(path):
    """`(samples int16 [L] or [L, channels], sample_rate)` of such a file. Raises UserError naming it."""
    fields, size = read_header(path)
    try:
        samples = decode(Path(path).read_bytes()[size:])
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: not decoded ({error}); {HELP}") from None
    told = fields.get("sample_count", len(samples))
    if len(samples) != told:
        raise UserError(f"{path}: {len(samples)} samples where its header promises {told}")
    return (samples[:, 0] if samples.shape[1] == 1 else samples), fields["sample_rate"]


class Bits:
    """Reads Rice codes: a number's high part in unary, zeros ended by a one, then its `k` low bits."""

    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        self.find_one = functools.partial(self.bits.tobytes().find, 1)
        self.place = 0

    def unsigned(self, k):
        """One number with `k` low bits."""
        return int(self.block(k, 1)[0])

    def signed(self, k):
        """One number whose sign is its lowest bit of `k + 1`."""
        return int(_unfold(self.block(k + 1, 1))[0])

    def number(self):
        """A number that tells its own `k` first."""
        return self.unsigned(self.unsigned(2))

    def block(self, k, n):
        """`n` unsigned numbers, int64. Raises ValueError where the data end."""
        stops, place, find_one, step = [], self.place, self.find_one, k + 1
        for _ in range(n):
            stop = find_one(place)
            stops.append(stop)
            place = stop + step
        if place > len(self.bits) or -1 in stops:
            raise ValueError("the shorten data end too early")
        stops = np.array(stops, dtype=np.int64)
        begins = np.concatenate([[self.place], stops[:-1] + step])[:n]
        values = stops - begins
        for i in range(1, step):
            values = values << 1 | self.bits[stops + i]
        self.place = place
        return values


def _unfold(values):
    """0, 1, 2, 3 ... -> 0, -1, 1, -2 ..."""
    return (values >> 1) ^ -(values & 1)


def decode(data):
    """Shorten bytes -> samples int16 `[L, channels]`. Raises ValueError for what is not shorten, or of another kind."""
    if data[:4] != MAGIC:
        raise ValueError("no shorten data after the header")
    version = data[4]
    if version not in (1, 2):
        raise ValueError(f"shorten format {version}, only 1 and 2 are known")
    bits = Bits(data[5:])
    kind, channels, blocksize, max_lpc, n_mean = (bits.number() for _ in range(5))
    if kind not in S16:
        raise ValueError(f"sample type {kind} is not 16-bit linear")
    bits.block(8, bits.number())  # bytes to skip
    wrap = max(3, max_lpc)
    history = [np.zeros(wrap, dtype=np.int64) for _ in range(channels)]
    means = [[0] * max(1, n_mean) for _ in range(channels)]
    found = [[] for _ in range(channels)]
    channel = shift = 0
    while (command := bits.unsigned(2)) != QUIT:
        if command == BLOCKSIZE:
            blocksize = bits.number()
        elif command == BITSHIFT:
            shift = bits.unsigned(2)
        elif command == VERBATIM:
            bits.block(8, bits.unsigned(5))
        elif command <= DIFF3 or command in (QLPC, ZERO):
            offset = _offset(means[channel], n_mean, version, shift)
            block = _block(command, bits, history[channel], offset, blocksize, version)
            if n_mean:
                mean = _divide(int(block.sum()) + (blocksize // 2 if version > 1 else 0), blocksize)
                means[channel] = [*means[channel][1:], mean << shift if version > 1 else mean]
            history[channel] = np.concatenate([history[channel], block])[-wrap:]
            found[channel].append(block << shift)
            channel = (channel + 1) % channels
        else:
            raise ValueError(f"unknown shorten command {command}")
    return np.stack([np.concatenate([np.zeros(0, np.int64), *blocks]) for blocks in found], 1).astype(np.int16)


def _offset(means, n_mean, version, shift):
    """What the last blocks' means predict."""
    if n_mean == 0:
        return means[0]
    offset = _divide(sum(means) + (n_mean // 2 if version > 1 else 0), n_mean)
    return offset >> shift if version > 1 else offset


def _divide(a, b):
    """Division as in C, towards zero."""
    return a // b if a >= 0 else -(-a // b)


def _block(command, bits, history, offset, n, version):
    if command == ZERO:
        return np.zeros(n, dtype=np.int64)
    k = bits.unsigned(3)
    if command == QLPC:
        return _linear_prediction(bits, history, offset, n, k, version)
    block = _unfold(bits.block(k + 1, n))
    if command == DIFF0:
        return block + offset
    # order by order, the sum of what was differentiated, from where the history stands
    for order in reversed(range(command)):
        block = np.cumsum(block) + np.diff(history, order)[-1]
    return block


def _linear_prediction(bits, history, offset, n, k, version):
    order = bits.unsigned(2)
    coefficients = [bits.signed(LPC_BITS) for _ in range(order)]
    residual = _unfold(bits.block(k + 1, n)).tolist()
    past = (history - offset).tolist()
    rounding = 1 << LPC_BITS if version > 1 else 0
    for value in residual:
        total = rounding + sum(c * past[-1 - j] for j, c in enumerate(coefficients))
        past.append(value + (total >> LPC_BITS))
    return np.array(past[len(history) :], dtype=np.int64) + offset
