"""Range coding (constriction's) of symbols whose probabilities are integers, in as few bytes as will do."""

import constriction
import numpy as np

from pscodec.utils.errors import UserError

ONE = 1 << 24  # what the frequencies of all symbols sum to, the library's precision
_FAMILY = constriction.stream.model.Categorical(perfect=False)


def frequencies(weights):
    """Integer frequencies `[..., N]`, each at least 1, all told ONE, nearly in proportion to `weights`.

    `weights`: float64 that hold integers, not negative, not all 0, with a sum below 2**53. Every operation is exact or
    correctly rounded, so the result is the same on every machine.
    """
    spare = ONE - weights.shape[-1]  # beyond one for each
    share = np.floor(weights * (spare / weights.sum(-1, keepdims=True)))
    rest = spare - share.sum(-1, keepdims=True)
    largest = weights.argmax(-1)[..., None]
    np.put_along_axis(share, largest, np.take_along_axis(share, largest, -1) + rest, -1)
    return share + 1


def encode(symbols, freqs):
    """Symbols `[n]` of frequencies `[n, N]` -> bytes."""
    coder = constriction.stream.queue.RangeEncoder()
    symbols = symbols.astype(np.int32)
    coder.encode(symbols, _FAMILY, _params(freqs))
    data = coder.get_compressed().astype(">u4").tobytes()
    for size in range(max(0, len(data) - 8), len(data)):  # zeros follow what is read: the shortest that means the same
        short = int.from_bytes(data[:size], "big")
        for number in (short, short + 1):
            if number < 1 << 8 * size or not size:
                found = number.to_bytes(size, "big") if size else b""
                if np.array_equal(_decode_all(found, freqs), symbols):
                    return found
    return data


def _decode_all(data, freqs):
    try:
        return Decoder(data).decode(freqs)
    except UserError:
        return None


class Decoder:
    """What `encode` made, symbol by symbol: `decode(freqs)` of the next `n` frequencies `[n, N]` -> int32 `[n]`."""

    def __init__(self, data):
        words = data + bytes(8 + -len(data) % 4)
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))

    def decode(self, freqs):
        try:
            return self._coder.decode(_FAMILY, _params(freqs))
        except (AssertionError, ValueError) as error:
            raise UserError(f"codes that its language model cannot have written ({error})") from None


def _params(freqs):
    # the library adds one to each and scales the sum to ONE: so little is left to scale that its arithmetic is exact
    return (freqs - 1).astype(np.float32)
