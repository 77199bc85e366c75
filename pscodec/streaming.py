"""Codecs on signals without an end: from a microphone, or hours long, in bounded memory.

Nothing is computed twice and nothing is cut: every layer keeps the inputs that its next outputs need (layers/push),
so codes and waveform are those of one pass over the whole recording up to rounding, whatever the pieces. Coding a long
file is streaming with large pieces.

A codec can be streamed where its encoder and `synthesise` see a bounded stretch of the signal; what normalises or
attends over the whole of it raises UserError by name. CasAN's windows are bounded; they are its latency, 40 s unless
told. Signals are at the codec's `sample_rate`; resampling is the caller's. Precision is the model's (models/optimise);
autocast is not heeded. Recording a network (in the constructors) is not thread-safe; pushing different streams is.
"""

from bisect import bisect_left

import torch

from pscodec.layers.push_graph import Pushed
from pscodec.utils.errors import UserError

PIECE = 2  # seconds pushed at once where more is at hand; longer ones cost memory and gain no speed


class StreamEncoder:
    """`model` (models.base.Codec, in eval mode) as an encoder of pieces of waveform.

    `latency`: samples that must have come before the first frame of codes goes out, that frame's own hop_length among
    them. Frame t goes out when t * hop_length + latency samples have come, or at the end.

    Weights are read once, here; those of an optimised model (models/optimise) are shared, of others packed anew.
    """

    def __init__(self, model, batch=1):
        _check_whole(model)
        self.model, self.batch = model, batch
        self.device = next(model.parameters()).device
        self.pushed = Pushed(model, model.encoder)
        self.latency = bisect_left(range(1 << 30), 1, key=self.pushed.ready)
        self.n_samples = 0

    def reset(self):
        """Begin a new signal."""
        self.pushed.reset()
        self.n_samples = 0

    @torch.inference_mode()
    def push(self, wav):
        """The next `wav` `[batch, C, n]`, any n >= 0 -> the codes that it completes, `[batch, K, t]` int64, t >= 0."""
        shape = self.batch, self.model.channels
        if wav.dim() != 3 or wav.shape[:2] != shape:
            raise ValueError(f"expected wav [{shape[0]}, {shape[1]}, n], got {list(wav.shape)}")
        self.n_samples += wav.shape[-1]
        return self._codes(self.pushed.push(wav.to(self.device).float()))

    @torch.inference_mode()
    def finish(self):
        """The remaining codes `[batch, K, t]`, the last frame filled up with zeros as `Codec.pad` does; then reset.

        All told ceil(L / hop_length) frames of L samples, at least one.
        """
        hop = self.model.hop_length
        missing = max(1, -(-self.n_samples // hop)) * hop - self.n_samples
        rest = torch.zeros(self.batch, self.model.channels, missing, device=self.device)
        codes = self._codes(self.pushed.push(rest, last=True))
        self.reset()
        return codes

    def _codes(self, z):
        if z.shape[-1] == 0:
            return torch.empty(self.batch, self.model.n_q, 0, dtype=torch.long, device=z.device)
        return self.model.quantizer(z).codes


class StreamDecoder:
    """`model` (models.base.Codec, in eval mode) as a decoder of frames of codes; `side` is `model.side(prompt)`, {} for
    none.

    `latency`: samples by which the waveform lags the codes: n frames complete the first n * hop_length - latency
    samples at least. Speech that is coded, decoded and played as it comes is late by the two latencies together.
    """

    @torch.inference_mode()
    def __init__(self, model, side, batch=1):
        _check_whole(model)
        if model.sampling is not None:
            raise UserError(f"{type(model).__name__} generates a recording as a whole, so it is not for streams")
        self.model, self.batch = model, batch
        self.device = next(model.parameters()).device
        if not side:
            side = model.no_side(model.quantizer.decode(self._no_codes(1)))
        self.pushed = Pushed(model, lambda z_q: model.synthesise(z_q, side))
        first, many = bisect_left(range(1 << 30), 1, key=self.pushed.ready), 1 << 20  # frames
        behind = [n * model.hop_length - self.pushed.ready(n) for n in (first - 1, many)]
        self.latency = max(behind)
        self.begun = False

    def reset(self):
        """Begin a new signal of the same speaker."""
        self.pushed.reset()
        self.begun = False

    @torch.inference_mode()
    def push(self, codes):
        """The next `codes` `[batch, K, t]`, any t >= 0 -> the waveform that they complete, `[batch, C, n]`, n >= 0."""
        if codes.dim() != 3 or codes.shape[0] != self.batch or codes.shape[1] not in self.model.quantizer.n_q_choices:
            raise ValueError(f"expected codes [{self.batch}, {self.model.n_q}, t], got {list(codes.shape)}")
        self.begun = self.begun or codes.shape[-1] > 0
        return self._push(codes, last=False)

    @torch.inference_mode()
    def finish(self):
        """The rest of the waveform, `[batch, C, n]`, all told hop_length samples a frame; then reset."""
        wav = self._push(self._no_codes(0), last=True)
        self.reset()
        return wav

    def _no_codes(self, frames):
        return torch.zeros(self.batch, self.model.n_q, frames, dtype=torch.long, device=self.device)

    def _push(self, codes, last):
        if not self.begun:
            return torch.empty(self.batch, self.model.channels, 0, device=self.device)
        return self.pushed.push(self.model.quantizer.decode(codes.to(self.device)), last)


def _check_whole(model):
    if model.chunk:
        seconds = model.chunk / model.sample_rate
        raise UserError(
            f"{type(model).__name__} codes chunks of {seconds:g} s, each at its own level, so it is not for streams"
        )


def encode_long(model, wavs, seconds=PIECE, batch=1):
    """Blocks of waveform `[batch, C, n]`, an iterable, any n -> a generator of codes `[batch, K, t]`, as they come.

    Joined they equal `model.encode` of the joined blocks. What is computed at once is `seconds` long, whatever the
    blocks, so memory does not depend on the length of the recording.
    """
    stream = StreamEncoder(model, batch)
    for piece in _pieces(wavs, round(seconds * model.frame_rate) * model.hop_length):
        yield stream.push(piece)
    yield stream.finish()


def decode_long(model, codes, side, seconds=PIECE, batch=1):
    """Blocks of codes `[batch, K, t]`, an iterable, any t -> a generator of waveform `[batch, 1, n]`, as it comes.

    Joined it equals `model.decode` of the joined blocks; see `encode_long`. The last frame is given whole: cropping to
    the recording's own length is the caller's.
    """
    stream = StreamDecoder(model, side, batch)
    for piece in _pieces(codes, round(seconds * model.frame_rate)):
        yield stream.push(piece)
    yield stream.finish()


def _pieces(blocks, length):
    """Blocks `[B, C, n]` of any n, joined and cut to `length` each (the last: what is left)."""
    length, held, count = max(1, length), [], 0
    for block in blocks:
        while count + block.shape[-1] >= length:
            held.append(block[..., : length - count])
            block = block[..., length - count :]
            yield torch.cat(held, -1)
            held, count = [], 0
        held.append(block)
        count += block.shape[-1]
    if count:
        yield torch.cat(held, -1)
