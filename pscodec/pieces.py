"""A codec's network on recordings of any length: in batches, in pieces, in chunks."""

import numpy as np
import torch

from pscodec.chunks import cut, decode_chunks, encode_chunks, join
from pscodec.data.audio import silence
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.utils.errors import UserError

BATCH = 60.0  # seconds coded at once, of one recording or of several of one length; of longer ones piece by piece
FADE = 0.02  # seconds from speech to the silence of a lost stretch, and back


class Pieces:
    """What `model`, a `Codec`, makes of signals at its own rate, and of codes; with `search` (search.Search), which
    wants to know with what side (`Coder.side`) they will be decoded, the codes that it finds."""

    def __init__(self, model, search=None):
        self.model, self.device, self.search = model, next(model.parameters()).device, search

    def codes_of(self, wavs, sides=None):
        """Codes `[K, T]` (numpy) of each of `wavs` `[C, L]` at the codec's rate, and the scales of their packets."""
        codes, none = [None] * len(wavs), [[] for _ in wavs]
        if self.search:
            return [self.search.codes(wav, side) for wav, side in zip(wavs, sides, strict=True)], none
        if self.model.chunk:
            pieces = [list(self.encode_pieces([wav])) for wav in wavs]
            codes = [np.concatenate([found for _, found, _ in coded], 1) for coded in pieces]
            return codes, [[scale for *_, scales in coded for scale in scales] for coded in pieces]
        for group in self._groups([(-(-w.shape[-1] // self.model.hop_length),) for w in wavs]):
            if wavs[group[0]].shape[-1] > BATCH * self.model.sample_rate:  # alone, and too long to be computed at once
                pieces = self.encode_pieces(wavs[group[0]].split(self.model.piece * self.model.sample_rate, 1))
                codes[group[0]] = np.concatenate([found for _, found, _ in pieces], 1)
                continue
            batch = torch.stack([self.model.pad(wavs[i][None])[0] for i in group])
            for i, found in zip(group, self.model.encode(batch.to(self.device)).cpu().numpy(), strict=True):
                codes[i] = found
        return codes, none

    def wavs_of(self, streams, sides):
        """The waveforms `[C, n_samples]`, float32, of `bitstream.Stream`s, each with its side (`Coder.side`); what was
        lost is silent."""
        wavs = [torch.zeros(self.model.channels, 0)] * len(streams)
        for group in self._groups([(s.codes.shape[1], *side) for s, side in zip(streams, sides, strict=True)]):
            side = {name: torch.cat([sides[i][name] for i in group]) for name in sides[group[0]]}
            first = streams[group[0]]
            if self.model.chunk:
                found = [self._joined(streams[i], sides[i], self.model.chunk // self.model.hop_length) for i in group]
            elif first.codes.shape[1] > BATCH * self.model.frame_rate:
                found = [self._joined(first, side, round(self.model.piece * self.model.frame_rate))]
            else:
                codes = torch.cat([self.codes(streams[i].codes) for i in group])
                found = self.model.decode(codes, side).float().cpu()
            for i, wav in zip(group, found, strict=True):
                wavs[i] = silence(wav[:, : streams[i].n_samples], 0, self.in_samples(streams[i].lost), self.fade)
        return wavs

    def _joined(self, stream, side, frames):
        """The waveform `[C, L]` of a stream, so many frames after so many."""
        blocks = np.split(stream.codes, range(frames, stream.codes.shape[1], frames), 1)
        scales = stream.scales or [None] * len(blocks)
        if len(scales) != len(blocks):
            raise UserError(f"{len(scales)} scales for {len(blocks)} packets")
        return torch.cat(list(self.decode_pieces(zip(blocks, scales, strict=True), side)), 1)

    @torch.inference_mode()
    def encode_pieces(self, wavs, side=None):
        """Blocks `[C, n]` of a recording at the codec's rate -> triples of each, the codes `[K, t]` (numpy) that it
        completes, and the scales of their packets; the last one may have an empty block. A codec of chunks cuts them
        anew; another one that cannot be streamed answers only at the end."""
        if self.search:
            yield from ((wav, codes, []) for wav, codes in self.search.pieces(wavs, side))
            return
        if self.model.chunk:
            new = 0  # where in a chunk what was not in the one before begins
            for wav, codes, scale in encode_chunks(self.model, cut(wavs, self.model.chunk, self.model.overlap)):
                yield wav[:, new:], codes, [scale]
                new = self.model.overlap
            return
        stream, whole = self._streamed(StreamEncoder), [torch.zeros(self.model.channels, 0)]
        for wav in wavs:
            if stream:
                codes = stream.push(wav[None].to(self.device))[0].cpu().numpy()
            else:
                whole.append(wav)
                codes = np.zeros((self.model.n_q, 0), np.int64)
            yield wav, codes, []
        codes = stream.finish() if stream else self.model.encode(torch.cat(whole, 1)[None].to(self.device))
        yield torch.zeros(self.model.channels, 0), codes[0].cpu().numpy(), []

    @torch.inference_mode()
    def decode_pieces(self, sent, side):
        """Blocks of codes `[K, t]` (numpy), each with the scale of its packet (None: it has none, or is lost) ->
        waveforms `[C, n]`, float32, as they are completed. Of a codec of chunks, a block is a packet."""
        if self.model.chunk:
            chunks = decode_chunks(self.model, ((self.codes(codes), scale) for codes, scale in sent), side)
            yield from join(chunks, self.model.overlap)
            return
        stream, blocks = self._streamed(StreamDecoder, side), (self.codes(codes) for codes, _ in sent)
        if stream is None:
            whole = list(blocks)
            yield (
                self.model.decode(torch.cat(whole, -1), side)[0].float().cpu()
                if whole
                else torch.zeros(self.model.channels, 0)
            )
            return
        for block in blocks:
            yield stream.push(block)[0].float().cpu()
        yield stream.finish()[0].float().cpu()

    def _streamed(self, kind, *args):
        """A StreamEncoder or StreamDecoder, None for a codec that refuses."""
        try:
            return kind(self.model, *args)
        except UserError:
            return None

    def codes(self, codes):
        """Codes `[K, t]` (numpy), as they were read -> `[1, K, t]` for the model; UserError if it has no such entry."""
        if codes.size and codes.max() >= self.model.codebook_size:
            raise UserError(f"code {codes.max()} in a codebook of {self.model.codebook_size}")
        return torch.from_numpy(codes).to(self.device)[None]

    def in_samples(self, lost):
        """Stretches of frames as stretches of samples."""
        frames, samples = 1, self.model.hop_length
        if self.model.chunk:  # whole packets
            frames, samples = self.model.chunk // self.model.hop_length, self.model.chunk - self.model.overlap
        return [(start // frames * samples, stop // frames * samples) for start, stop in lost]

    @property
    def fade(self):
        return round(FADE * self.model.sample_rate)

    def _groups(self, kinds):
        """Indices of items of one kind (its frames, and what else must agree), together as many as make BATCH seconds;
        empty ones left out."""
        alike = {}
        for i, kind in enumerate(kinds):
            alike.setdefault(kind, []).append(i)
        for (n, *_), indices in alike.items():
            most = max(1, int(BATCH * self.model.frame_rate / max(1, n)))
            if n:
                yield from (indices[at : at + most] for at in range(0, len(indices), most))
