"""Codecs on signals without an end: from a microphone, or hours long, in bounded memory.

Nothing is computed twice and nothing is cut: every layer keeps the inputs that its next outputs need (layers/push),
so codes and waveform are those of one pass over the whole recording up to rounding, whatever the pieces. Coding a long
file is streaming with large pieces.

A codec can be streamed where its encoder and `synthesise` see a bounded stretch of the signal; what normalises or
attends over the whole of it raises UserError by name. Signals are at the codec's `sample_rate`; resampling is the
caller's. Under `torch.autocast` the weights would be cast at every push: give the model's weights the precision
instead. Recording a network (in the constructors) is not thread-safe, pushing different streams is.
"""

from bisect import bisect_left

import torch

from pscodec.layers.push_graph import Pushed

PIECE = 2.0  # seconds pushed at once where a whole recording is at hand


class StreamEncoder:
    """`model` (models.base.Codec, in eval mode) as an encoder of pieces of waveform.

    `latency`: samples, from the first to the last that must have come before the first frame of codes can go out,
    that frame's own hop_length samples among them; frame t goes out when t * hop_length + latency samples have come.

    Weights are read once; a weight norm that the model has not folded yet costs a second copy of the weights.
    """

    def __init__(self, model, batch=1):
        self.model, self.batch = model, batch
        self.pushed = Pushed(model, model.encoder)
        self.latency = bisect_left(range(1 << 30), 1, key=self.pushed.ready)
        self.n_samples = 0

    def reset(self):
        """Begin a new signal."""
        self.pushed.reset()
        self.n_samples = 0

    @torch.inference_mode()
    def push(self, wav):
        """The next `wav` `[batch, 1, n]`, any n >= 0 -> the codes that it completes, `[batch, K, t]` int64, t >= 0."""
        if wav.dim() != 3 or wav.shape[:2] != (self.batch, 1):
            raise ValueError(f"expected wav [{self.batch}, 1, n], got {list(wav.shape)}")
        self.n_samples += wav.shape[-1]
        return self._codes(self.pushed.push(wav.to(next(self.model.parameters()))))

    @torch.inference_mode()
    def finish(self):
        """The remaining codes `[batch, K, t]`, the last frame filled up with zeros as `Codec.pad` does; then reset.

        All told ceil(L / hop_length) frames of L samples, at least one.
        """
        hop = self.model.hop_length
        missing = max(1, -(-self.n_samples // hop)) * hop - self.n_samples
        rest = next(self.model.parameters()).new_zeros(self.batch, 1, missing)
        codes = self._codes(self.pushed.push(rest, last=True))
        self.reset()
        return codes

    def _codes(self, z):
        if z.shape[-1] == 0:
            return torch.empty(self.batch, self.model.n_q, 0, dtype=torch.long, device=z.device)
        return self.model.quantizer(z).codes


class StreamDecoder:
    """`model` (models.base.Codec, in eval mode) as a decoder of frames of codes; `side` is `model.side(prompt)`.

    `latency`: samples by which the waveform lags the codes: n frames complete the first n * hop_length - latency
    samples. A stream that is coded, decoded and played as it comes is delayed by the two latencies together.
    """

    def __init__(self, model, side):
        self.model = model
        self.batch = max([1, *(z.shape[0] for z in side.values())])
        self.pushed = Pushed(model, lambda z_q: model.synthesise(z_q, side))
        many = 1 << 20  # frames, beyond any edge
        self.latency = many * model.hop_length - self.pushed.ready(many)
        self.nothing = None  # an empty z_q, once there were some

    def reset(self):
        """Begin a new signal of the same speaker."""
        self.pushed.reset()
        self.nothing = None  # an empty z_q, once there were some

    @torch.inference_mode()
    def push(self, codes):
        """The next `codes` `[B, K, t]`, any t >= 0 -> the waveform that they complete, `[B, 1, n]`, n >= 0."""
        if codes.dim() != 3 or codes.shape[1] != self.model.n_q:
            raise ValueError(f"expected codes [B, {self.model.n_q}, t], got {list(codes.shape)}")
        if codes.shape[-1] == 0:
            return torch.empty(self.batch, 1, 0)
        z_q = self.model.quantizer.decode(codes)
        self.nothing = z_q[..., :0].clone()
        return self.pushed.push(z_q)

    @torch.inference_mode()
    def finish(self):
        """The rest of the waveform, `[B, 1, n]`, all told hop_length samples a frame; then reset."""
        wav = torch.empty(self.batch, 1, 0)
        if self.nothing is not None:
            wav = self.pushed.push(self.nothing, last=True)
        self.reset()
        return wav


def encode_long(model, wavs, seconds=PIECE, batch=1):
    """Blocks of waveform `[batch, 1, n]`, an iterable, any n -> a generator of codes `[batch, K, t]`, as they come.

    Joined they equal `model.encode` of the joined blocks. What is computed at once is `seconds` long, whatever the
    blocks, so memory does not depend on the length of the recording.
    """
    stream = StreamEncoder(model, batch)
    for piece in _pieces(wavs, round(seconds * model.frame_rate) * model.hop_length):
        yield stream.push(piece)
    yield stream.finish()


def decode_long(model, codes, side, seconds=PIECE):
    """Blocks of codes `[B, K, t]`, an iterable, any t -> a generator of waveform `[B, 1, n]`, as it comes.

    Joined it equals `model.decode` of the joined blocks; see `encode_long`. The last frame is given whole: cropping to
    the recording's own length is the caller's.
    """
    stream = StreamDecoder(model, side)
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
