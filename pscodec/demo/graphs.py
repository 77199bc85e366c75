"""A codec in parts that share their weights, as ONNX: one encoder and one decoder serve every bitrate of a page.

encoder     wav [B, 1, T * hop_length] -> z [B, D, T]
quantizer   z -> codes [B, K, T] int64: one graph a number of codebooks, for a search may choose others with fewer
lookup      codes -> z_q [B, D, T]; one a number, too
side        wav [1, 1, L] of the recording that is the prompt -> what is sent once: [1, D, 1] or tokens [1, N] int64
decoder     z_q and the side information, an input each -> wav
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from pscodec.bin.export_onnx import export
from pscodec.data.audio import Resampler, resample
from pscodec.features import FBank, LogMel
from pscodec.inference import PROMPT
from pscodec.types import Prompt
from pscodec.utils.errors import UserError
from pscodec.utils.progress import progress

SIDE_FRAMES = 5  # times as many for the side: what sees an utterance must be compared over seconds of one


class Graph(nn.Module):
    def __init__(self, codec):
        super().__init__()
        self.codec = codec

    def latents(self, frames):
        """Examples of z, of the codec's own."""
        return self.codec.encoder(self.noise(frames))

    def noise(self, frames):
        return 0.1 * torch.randn(1, self.codec.channels, frames * self.codec.hop_length)


class Encoder(Graph):
    inputs, outputs = ["wav"], ["z"]

    def forward(self, wav):
        return self.codec.encoder(wav)

    def example(self, frames):
        return (self.noise(frames),)


class Quantizer(Graph):
    inputs, outputs = ["z"], ["codes"]

    def forward(self, z):
        return self.codec.quantizer(z).codes

    def example(self, frames):
        return (self.latents(frames),)


class Lookup(Graph):
    inputs, outputs = ["codes"], ["z_q"]

    def forward(self, codes):
        return self.codec.quantizer.decode(codes)

    def example(self, frames):
        return (torch.randint(self.codec.codebook_size, (1, self.codec.n_q, frames)),)


class Side(Graph):
    """Of a recording at the codec's rate, as `inference.Coder.prompt` and `Codec.side` of one at its own."""

    inputs = ["wav"]

    def __init__(self, codec, names):
        super().__init__(codec)
        self.outputs = list(names)
        self.mel = LogMel(codec.sample_rate)

    def forward(self, wav):
        prompt, sees, rate = Prompt(), self.codec.sees, self.codec.sample_rate
        if "wav" in sees:
            prompt.wav = wav
        if "mel" in sees:
            prompt.mel = self.mel(wav[:, 0])
        if "voiceprint" in sees:
            change = _resample if torch.onnx.is_in_onnx_export() else resample
            prompt.fbank = FBank()(change(wav[:, 0], rate, FBank.sample_rate))[None]
        side = self.codec.side(prompt)
        return tuple(side[name] for name in self.outputs)

    def example(self, frames):
        return (self.noise(SIDE_FRAMES * frames),)


def _resample(wav, orig, new):
    """`data.audio.resample` of `[B, L]` as one convolution, by the answers to an impulse at each sample of a period."""
    common = math.gcd(orig, new)
    orig, new = orig // common, new // common
    margin = -(-Resampler(orig, new).context // orig)  # periods to either side that an output may hear
    heard = resample(torch.eye((2 * margin + 1) * orig), orig * common, new * common)
    kernel = heard[:, margin * new : (margin + 1) * new].T
    periods = F.conv1d(F.pad(wav, (margin * orig, (margin + 1) * orig))[:, None], kernel[:, None], stride=orig)
    return periods.transpose(1, 2).flatten(1)[:, : (wav.shape[-1] * new + orig - 1) // orig]


class Decoder(Graph):
    outputs = ["wav"]

    def __init__(self, codec, side):
        super().__init__(codec)
        self.side = side
        self.inputs = ["z_q", *side]

    def forward(self, z_q, *side):
        return self.codec.synthesise(z_q, dict(zip(self.side, side, strict=True)))

    def example(self, frames):
        return self.codec.quantizer.decode(Lookup(self.codec).example(frames)[0]), *self.side.values()


@torch.no_grad()
def write_graphs(coder, n_qs, folder):
    """The graphs of `coder` (inference.Coder, loaded with precision None) for each number of codebooks of `n_qs` into
    `folder`; returns what else their user must know, numbers and names alone, and as `graphs` the names of their files.
    The codec is for nothing else afterwards: its weight norms are folded.

    Raises UserError for a codec of chunks or of several channels, a number of codebooks that it cannot code with, and
    where onnxruntime computes something else than torch.
    """
    codec, folder = coder.model, Path(folder)
    if codec.chunk or codec.channels > 1:
        raise UserError(f"{coder.name}: codes chunks or several channels; a page is for codecs of one channel, whole")
    facts, silent = _facts(coder, n_qs), coder.silent_side
    for layer in codec.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")  # weight norm, folded
    graphs = {"encoder": (Encoder(codec), None), "decoder": (Decoder(codec, silent), None)}
    graphs |= {"side": (Side(codec, silent), None)} if silent else {}
    for n_q in n_qs:
        graphs |= {f"quantizer{n_q}": (Quantizer(codec), n_q), f"lookup{n_q}": (Lookup(codec), n_q)}
    for name, (graph, n_q) in progress(graphs.items(), "export", len(graphs)):
        codec.quantizer.n_q = n_q
        export(graph.eval(), folder / f"{name}.onnx")
    codec.quantizer.n_q = None
    return facts | {"graphs": list(graphs)}


def _facts(coder, n_qs):
    codec, rates = coder.model, []
    for n_q in n_qs:
        try:
            codec.quantizer.n_q = n_q
        except ValueError as error:
            raise UserError(f"{coder.name}: cannot code with {error}") from None
        rates.append({"n_q": n_q, "bitrate": codec.bitrate})
    codec.quantizer.n_q = None
    side = [{"name": name, "entries": codec.side_sizes[name]} for name in coder.silent_side]
    return {
        "name": coder.name,
        "fingerprint": coder.fingerprint.hex(),
        "sample_rate": codec.sample_rate,
        "hop_length": codec.hop_length,
        "bits": coder.bits,
        "rates": rates,
        "side": side,
        "sees_whole_frames": "wav" in codec.sees,
        "prompt_seconds": PROMPT,
    }
