"""EnCodec: SEANet with LSTM layers around residual quantization, one model for several bitrates.

Source: Defossez et al., EnCodec (2022), figure 1 and sections 3.1 and 3.2; the layout of weights of its public code.
"""

import re
from dataclasses import replace

from torch import Tensor

from pscodec.layers.conv import Conv1d
from pscodec.models.base import Codec
from pscodec.models.public import parametrized, take
from pscodec.types import CodecOutput, Prompt


class EnCodec(Codec):
    """`layers.seanet`'s Encoder and Decoder, causal with weight norm or not causal with a norm over time, and a
    `GroupResidualVQ` of one group between them, whose `drawn` says which numbers of codebooks a batch is coded with.

    `chunk`, `overlap`: seconds that are coded at once, and shared by two neighbours; 0: the whole, as when causal. A
    chunk is divided by its level and what it decodes to multiplied by it; in training a segment is a chunk.
    Raises ValueError for chunks that are not whole frames, and for overlaps of more than half of one.
    """

    activation = "elu"
    piece = 10  # a fifth faster than 2: the weights of LSTM layers are read anew for each

    def __init__(self, encoder, quantizer, decoder, sample_rate=24000, chunk=0.0, overlap=0.0):
        super().__init__(encoder, quantizer, decoder, sample_rate)
        self.chunk, self.overlap = round(chunk * sample_rate), round(overlap * sample_rate)
        if self.chunk % self.hop_length or not 0 <= 2 * self.overlap <= self.chunk:
            raise ValueError(f"chunks are whole frames of {self.hop_length} samples and overlap by at most a half")

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        if not self.chunk:
            return super().forward(wav, prompt)
        level = self.level(wav)
        output = super().forward(wav / level, prompt)
        return replace(output, wav_hat=output.wav_hat * level)

    def level(self, wav: Tensor) -> Tensor:
        """Root mean square of the mean of the channels: `[B, C, L]` -> `[B, 1, 1]`, as in the authors' code, where the
        paper does not say what a chunk is normalised by."""
        return wav.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt() + 1e-8

    def load_public(self, state):
        """Take the weights `state` of an `EncodecModel` of the authors' package, 24 or 48 kHz.

        Raises ValueError where they do not fit this configuration: sizes, norm, `ema` codebooks, or signals that are
        not mirrored at their ends (mode: reflect), which weights alone do not show.
        """
        padded = [layer for layer in self.modules() if isinstance(layer, Conv1d) and any(layer.ends)]
        if any(layer.ends_mode != "reflect" for layer in padded):
            raise ValueError("the public EnCodec mirrors signals at their ends (mode: reflect)")
        normed = any(".norm." in key for key in state)
        renamed = {_from_public(key, normed): value for key, value in state.items()}
        for name, value in renamed.items():
            if name.endswith(".started") and value.numel() == 1:  # a flag there is a vector of one float
                renamed[name] = value.bool().reshape(())
        take(self, renamed, own=("idle", "steps"))


BOOKS = {"inited": "started", "cluster_size": "counts", "embed": "entries", "embed_avg": "sums"}


def _from_public(key, normed):
    """Name of a public weight in this project, whose convolutions stand before a norm or (`normed` False) alone."""
    if book := re.fullmatch(r"quantizer\.vq\.layers\.(\d+)\._codebook\.(\w+)", key):
        return f"quantizer.groups.0.layers.{book[1]}.{BOOKS.get(book[2], book[2])}"
    key = key.replace(".model.", ".layers.", 1)
    key = re.sub(r"\.(conv|convtr)\.\1\.", ".0." if normed else ".", key)
    key = re.sub(r"\.(conv|convtr)\.norm\.", ".1.", key)
    return parametrized(key)
