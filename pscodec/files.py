"""Recordings of any length to `.psc` files and back, and pipes: `-` is standard input or output.

They go through the codec piece by piece (pscodec/streaming.py), so that memory does not grow with them; codecs that
cannot be streamed take a recording whole.
"""

import contextlib
import itertools
import struct

import numpy as np
import soundfile
import torch

from pscodec.bitstream import Reader, Writer, conceal
from pscodec.data.audio import Resampler, audio_blocks, pcm16, silence
from pscodec.inference import OWN, PROMPT
from pscodec.pipes import PIPE, open_input, open_output, packets_of, spooled_input
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path

LARGEST_WAV = 4_000_000_000  # bytes; longer ones become RF64


def encode_file(coder, source, target, prompt=OWN, raw_rate=None, shown=None):
    """Code recording `source` to `.psc` file `target` (paths, or `-`). Returns its header, its samples and the bytes of
    its codes where they are entropy coded (else None).

    `prompt` as in `Coder.encode`; OWN is the recording's first 30 s, which a pipe waits for. `raw_rate`: `source`
    is signed 16-bit little endian samples at so many Hz, of the codec's channels in turn, coded as they come. `shown`
    passes on what it is given, blocks and how many they are (None: nobody knows), for those who wait. Raises UserError
    naming the file, with nothing written to a path.
    """
    with contextlib.ExitStack() as stack:
        if raw_rate:
            file = stack.enter_context(open_input(source))
            rate, length, blocks = raw_rate, None, _raw_blocks(file, raw_rate, coder.model)
        else:
            file = stack.enter_context(spooled_input()) if source == PIPE else None
            rate, length, blocks = audio_blocks(source, coder.model.piece, file, coder.model.channels)
        if coder.model.side_of == "self":
            prompt = OWN
        if prompt is OWN and coder.model.sees:
            begun = _begin(blocks, PROMPT * rate)
            blocks = itertools.chain(begun, blocks)
            prompt = (torch.cat(begun, 1), rate)
        new = coder.model.sample_rate
        header = coder.header(prompt, None if length is None else -(-length * new // rate))
        writer = Writer(header, coder.entropy(header))
        out = stack.enter_context(open_output(target))
        out.write(writer.begin())
        n_samples = 0
        side = coder.side(header, [prompt]) if coder.search else None
        if shown:
            blocks = shown(blocks, None if length is None else -(-length // (coder.model.piece * rate)))
        for wav, codes, scales in coder.encode_pieces(_resampled(blocks, rate, new), side):
            n_samples += wav.shape[-1]
            out.write(writer.push(codes, scales))
            out.flush()
        if n_samples == 0:
            raise UserError("an empty recording")
        out.write(writer.finish(n_samples))
        out.flush()
        return header, n_samples, writer.coded


def _begin(blocks, n_samples):
    """The first blocks, until they have `n_samples` or nothing is left; at least one."""
    begun, count = [], 0
    for block in blocks:
        begun.append(block)
        count += block.shape[-1]
        if count >= n_samples:
            break
    return begun or [torch.zeros(1, 0)]


def _resampled(blocks, rate, new):
    resampler, block = Resampler(rate, new), None
    for block in blocks:
        yield resampler.push(block)
    if block is not None:
        yield resampler.push(block[:, :0], last=True)


@torch.inference_mode()
def decode_file(coder, source, target, profiles=(), raw=False):
    """Decode `.psc` file `source` to a 16-bit WAV file, or with `raw` to its samples alone; paths, or `-`.

    Returns the header, the samples written, and the lines that say what was damaged; that is silent, and what comes
    after keeps its place. `profiles` as in `Coder.decode`. Raises UserError, with nothing written to a path.
    """
    with contextlib.ExitStack() as stack:
        reader, file = Reader(coder.entropy), stack.enter_context(open_input(source))
        packets = packets_of(reader, file)
        try:
            first = next(packets, None)  # with the header
        except ValueError as error:
            raise UserError(str(error)) from None
        lost, at = [], 0
        side = coder.side(reader.header, profiles)
        write = stack.enter_context(_sink(target, reader.header, raw))
        codes = _codes(itertools.chain([first] if first else [], packets), reader.header, lost)
        if not coder.model.chunk and PIPE not in (source, target):
            codes = _gathered(codes, round(coder.model.piece * coder.model.frame_rate))
        for wav in coder.decode_pieces(codes, side):
            if reader.n_samples is not None:
                wav = wav[:, : max(0, reader.n_samples - at)]
            write(pcm16(silence(wav, at, coder.in_samples(lost), coder.fade)).T)
            at += wav.shape[-1]
        return reader.header, at, reader.damage


def _gathered(blocks, frames):
    """Blocks of codes, nobody waiting for them, in ones of at least `frames`: weights are read anew for each."""
    held, count = [], 0
    for codes, _ in blocks:
        held.append(codes)
        count += codes.shape[1]
        if count >= frames:
            yield np.concatenate(held, 1), None
            held, count = [], 0
    if held:
        yield np.concatenate(held, 1), None


def _codes(packets, header, lost):
    """Codes `[K, t]` of `packets`, a packet's worth at most, each with its scale; lost stretches are concealed, and
    noted in `lost`."""
    before, at = np.zeros((header.n_q, 0), np.int64), 0
    for packet in packets:
        if packet.codes is None:
            lost.append((at, at + packet.frames))
            at += packet.frames
            gap, packet = packet.frames, next(packets)  # a lost stretch is known by what follows it
            codes = conceal(gap, before, packet.codes)
            n = header.frames_per_packet
            yield from ((codes[:, i : i + n], None) for i in range(0, gap, n))
        before, at = packet.codes, at + packet.frames
        yield packet.codes, packet.scale


# ---- where bytes come from and go to


@contextlib.contextmanager
def _sink(target, header, raw):
    """A function that takes int16 samples, numpy `[n, C]`, to `target`."""
    if target != PIPE and not raw:
        large = header.n_samples is None or 2 * header.channels * header.n_samples > LARGEST_WAV
        shape = {"samplerate": header.sample_rate, "channels": header.channels, "subtype": "PCM_16"}
        with atomic_path(target) as partial:
            with soundfile.SoundFile(partial, "w", format="RF64" if large else "WAV", **shape) as file:
                yield file.write
        return
    with open_output(target) as out:
        if not raw:
            out.write(_wav_head(header))

        def write(samples):
            out.write(samples.astype("<i2").tobytes())
            out.flush()

        yield write


def _wav_head(header):
    """Of a WAV file that cannot be mended when its length is known: then the largest length stands for it."""
    most, frame = 0xFFFFFFFF - 36, 2 * header.channels
    size = most if header.n_samples is None else min(frame * header.n_samples, most)
    rates = header.sample_rate, frame * header.sample_rate
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, header.channels, *rates, frame, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + b"data" + struct.pack("<I", size)


def _raw_blocks(file, rate, model):
    """16-bit samples of `file`, as they come -> `[C, n]`, a `piece` of `model` at most."""
    rest, channels = b"", model.channels
    frame = 2 * channels
    while data := file.read1(frame * model.piece * rate):
        data = rest + data
        rest = data[len(data) // frame * frame :]
        samples = np.frombuffer(data, "<i2", len(data) // frame * channels).reshape(-1, channels)
        yield torch.from_numpy(samples.T.astype(np.float32) / 32768)
