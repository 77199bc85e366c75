"""Packets of codes, entropy coded by a language model (packets.PacketWriter's `entropy`)."""

import numpy as np

from pscodec.entropy import ranges


class EntropyCoder:
    """Codes `[n_q, T]` of a stream with `network` (network.Network), in packets of at most `frames` frames. Every
    packet is coded from nothing. Raises ValueError for what the network has not learned."""

    def __init__(self, network, n_q, frames):
        if frames > network.shape.longest:
            raise ValueError(f"packets of {frames} frames; the language model knows {network.shape.longest} at most")
        if n_q % network.shape.groups or not network.shape.groups <= n_q <= network.shape.n_q:
            raise ValueError(f"{n_q} codebooks; the language model knows {network.shape.n_q}")
        self.network, self.books = network, network.shape.books(n_q)

    def encode(self, codes):
        """A packet's codes `[n_q, T]` -> bytes."""
        if not codes.size:
            return b""
        return ranges.encode(codes.T.ravel(), self._frequencies(codes))

    def bits(self, codes):
        """What a packet's codes cost by their probabilities, before they are bytes."""
        chosen = np.take_along_axis(self._frequencies(codes), codes.T.reshape(-1, 1), 1)
        return -np.log2(chosen / ranges.ONE).sum()

    def _frequencies(self, codes):
        """Of every code in its order in the file, `[T * n_q, size]`. All frames at once: that changes nothing."""
        n = self.network
        frames = np.concatenate([n.start(), n.embed(self.books, codes[:, :-1], 1)])
        return n.step(n.begin(), frames, self.books).reshape(codes.size, -1)

    def decode(self, data, frames):
        """The bytes of a packet of so many frames -> its codes, int64 `[n_q, frames]`, a frame at a time."""
        n, memory, decoder = self.network, self.network.begin(), ranges.Decoder(data)
        x, found = n.start(), []
        for at in range(1, frames + 1):
            codes = decoder.decode(n.step(memory, x, self.books)[0]).astype(np.int64)
            found.append(codes)
            if at < frames:
                x = n.embed(self.books, codes[:, None], at)
        return np.stack(found, 1) if found else np.zeros((len(self.books), 0), np.int64)
