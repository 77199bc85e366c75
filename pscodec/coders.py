"""Any codec behind one call, by name: ours, EnCodec, DAC and Lyra with the weights of their authors, Opus, Codec2.

code = open_coder("encodec:6")
wav_hat, sample_rate, rates = code(wav, sample_rate)    # [1, L'] at the codec's rate; bit/s, from bytes
"""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pscodec import released
from pscodec.data.audio import resample
from pscodec.inference import Coder, load_codec
from pscodec.layers import seanet
from pscodec.models import dac, encodec
from pscodec.quantizers.factorised import FactorisedRVQ
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.utils.errors import UserError
from pscodec.utils.weights import read_public

NAMES = (
    "an experiment or pscodec_small_24k (:2 with two codebooks), "
    "encodec:6, dac:6, opus:6, lyra:3.2 (kbit/s), codec2:3200"
)
ENCODEC = "encodec_24khz-d7cc33bc.th"
DAC = "weights_24khz_8kbps_0.0.4.pth"
LYRA = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")


def open_coder(name):
    """The codec that `name` means, see NAMES. Raises UserError naming what is not installed, or no codec.

    What it codes is its own prompt. `stamp` of the result changes when the codec does.
    """
    kind, _, option = name.partition(":")
    if kind in OTHERS and not (Path(kind) / "hyperparams.yaml").is_file():
        return OTHERS[kind](option)
    folder, _, books = name.rpartition(":") if name.rpartition(":")[2].isdigit() else (name, "", "")
    if not (released.folder(folder) / "hyperparams.yaml").is_file():
        raise UserError(f"no codec {name}; there are {NAMES}")
    return Neural(load_codec(folder, precision="auto", n_q=int(books) if books else None))


class Neural:
    """A codec that this project computes."""

    def __init__(self, coder):
        self.coder = coder
        self.stamp = f"{coder.fingerprint.hex()} {coder.model.n_q}"

    def __call__(self, wav, sample_rate):
        stream = self.coder.encode(wav, sample_rate)
        sizes, seconds = stream.sizes(), wav.shape[-1] / sample_rate
        wav_hat = self.coder.decode(stream).mean(0, keepdim=True)
        rates = {f"bitrate_{part}": 8 * sizes[part] / seconds for part in ("codes", "total")}
        return wav_hat, self.coder.model.sample_rate, rates


def open_encodec(kbps):
    """EnCodec at 24 kHz as its authors' package has it, in this project's format (its own has a few bytes more)."""
    found = Path(torch.hub.get_dir()) / "checkpoints" / ENCODEC
    state = published(found, "EnCodec", f"https://dl.fbaipublicfiles.com/encodec/v0/{ENCODEC}")
    books = GroupResidualVQ(128, codebook_size=1024, n_residual=32, update="ema", drawn=(2, 4, 8, 16, 32))
    model = encodec.EnCodec(seanet.Encoder(mode="reflect"), books, seanet.Decoder(mode="reflect"))
    return neural("encodec", model, state, found, kbps)


def open_dac(kbps):
    """DAC at 24 kHz, of the sizes that the file of its weights says."""
    found = Path.home() / ".cache/descript" / DAC
    state = published(
        found, "DAC", f"https://github.com/descriptinc/descript-audio-codec/releases/download/0.0.4/{DAC}"
    )
    try:
        sizes, state = state["metadata"]["kwargs"], state["state_dict"]
        strides, width = sizes["encoder_rates"], sizes["encoder_dim"]
        dim = sizes.get("latent_dim") or width * 2 ** len(strides)
        books = FactorisedRVQ(dim, sizes["codebook_size"], sizes["n_codebooks"], sizes["codebook_dim"], kmeans_steps=0)
        decoder = dac.Decoder(dim, sizes["decoder_dim"], sizes["decoder_rates"])
        model = dac.DAC(dac.Encoder(dim, width, strides), books, decoder, sizes["sample_rate"])
    except (KeyError, TypeError):
        raise UserError(f"{found}: not the weights of DAC") from None
    return neural("dac", model, state, found, kbps)


def published(path, who, where):
    """The file `path` of somebody's weights, nothing of it unpickled."""
    if not path.is_file():
        raise UserError(f"the weights of {who} are not there: {path} (from {where})")
    return read_public(path)


def neural(name, model, state, path, kbps):
    """`model` with weights `state`, at `kbps` (text; empty for all of its codebooks), as a `Neural`."""
    try:
        model.load_public(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if kbps:
        books = number(name, kbps) * 1000 / (model.bitrate / model.n_q)
        if books != round(books) or round(books) not in model.quantizer.n_q_choices:
            raise UserError(f"{name}:{kbps}: it has 1 to {model.n_q} codebooks of {model.bitrate / model.n_q:g} bit/s")
        model.quantizer.n_q = round(books)
    return Neural(Coder(model.eval(), name=name))


class Program:
    """A codec of two programs: `encode` and `decode` map (input, output, option) to command lines. Samples go in and
    come out raw, 16 bits, at `rate` Hz; coded files end as `suffix` says. Debian's `package` brings the programs."""

    def __init__(self, name, option, rate, suffix, encode, decode, package):
        self.option, self.rate, self.suffix, self.encode, self.decode = option, rate, suffix, encode, decode
        self.stamp = f"{name} {option}"
        for program in (encode("", "", option)[0], decode("", "", option)[0]):
            if shutil.which(program) is None:
                raise UserError(f"{name}: {program} is not installed (Debian's package {package} has it)")

    def __call__(self, wav, sample_rate):
        seconds = wav.shape[-1] / sample_rate
        with tempfile.TemporaryDirectory() as folder:
            wav_in, coded, wav_out = (os.path.join(folder, name) for name in ("in", f"coded{self.suffix}", "out"))
            write_raw(wav_in, resample(wav, sample_rate, self.rate))
            call(self.encode(wav_in, coded, self.option))
            call(self.decode(coded, wav_out, self.option))
            return read_raw(wav_out), self.rate, {"bitrate_total": 8 * os.path.getsize(coded) / seconds}


def open_opus(kbps):
    """Opus at 16 kHz, for speech, in its Ogg files."""
    raw = ["--raw", "--raw-rate", "16000", "--raw-chan", "1"]
    number("opus", kbps)

    def encode(source, target, kbps):
        return ["opusenc", "--quiet", "--speech", "--bitrate", kbps, *raw, source, target]

    def decode(source, target, _):
        return ["opusdec", "--quiet", "--rate", "16000", source, target]

    return Program("opus", kbps, 16000, ".opus", encode, decode, "opus-tools")


def open_codec2(mode):
    """Codec2 at 8 kHz; `mode` 3200, 2400, 1600, 1400, 1300, 1200, 700C, 450."""
    if not mode:
        raise UserError("codec2 needs its mode, as in codec2:3200")
    return Program(
        "codec2",
        mode,
        8000,
        ".c2",  # then c2enc writes a header
        lambda source, target, mode: ["c2enc", mode, source, target],
        lambda source, target, mode: ["c2dec", mode, source, target],
        "codec2",
    )


class Lyra:
    """Lyra v2 (SoundStream; 16 kHz, 50 frames a second, 4 bits a codebook) at `kbps` 3.2, 6 or 9.2, by the networks of
    its repository, of which `folder` has copies. Its bits go into packets without a header.

    The networks keep what they heard from frame to frame, and nothing sets that back: each recording opens them."""

    rate, hop, bits = 16000, 320, 4

    def __init__(self, kbps, folder):
        books = round(number("lyra", kbps) * 1000 * self.hop / self.rate / self.bits, 6)
        if books not in (16, 30, 46):
            raise UserError(f"lyra:{kbps}: it has 3.2, 6 and 9.2 kbit/s")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError("lyra: ai-edge-litert is not installed (pip install ai-edge-litert)") from None
        for name in LYRA:
            if not (folder / name).is_file():
                where = "https://github.com/google/lyra, lyra/model_coeffs"
                raise UserError(f"the networks of Lyra are not there: {folder / name} (from {where})")
        self.books, self.stamp = np.int32(books), f"lyra {kbps}"
        self.open = [functools.partial(Interpreter, str(folder / name), num_threads=1) for name in LYRA]

    def __call__(self, wav, sample_rate):
        codes, heard = self.encode(resample(wav, sample_rate, self.rate)), -(-wav.shape[-1] * self.rate // sample_rate)
        rates = {"bitrate_total": codes.size * self.bits * sample_rate / wav.shape[-1]}
        return self.decode(codes)[:, :heard], self.rate, rates

    def encode(self, wav):
        """`wav` `[1, L]` at `rate` -> codes `[T, books]` (numpy)."""
        encoder, quantizer = (open_network() for open_network in self.open[:2])
        latents, quantize = encoder.get_signature_runner(), quantizer.get_signature_runner("encode")
        found = []
        for frame in F.pad(wav, (0, -wav.shape[-1] % self.hop)).view(-1, 1, self.hop).numpy():
            frames = latents(input_audio=frame)["output_0"]
            found.append(
                quantize(input_frames=frames, num_quantizers=self.books)["output_0"][: self.books, 0, 0].copy()
            )
        return np.stack(found)

    def decode(self, codes):
        """Codes -> `[1, T * hop]`."""
        quantizer, decoder = (open_network() for open_network in self.open[1:])
        latents, synthesise = quantizer.get_signature_runner("decode"), decoder.get_signature_runner()
        found, sent = [], np.full((46, 1, 1), -1, np.int32)  # -1: not sent
        for frame in codes:
            sent[: self.books, 0, 0] = frame
            made = synthesise(input_audio=latents(encoding_indices=sent)["output_0"])
            found.append(torch.from_numpy(made["output_0"].copy()))
        return torch.cat(found, 1)


def open_lyra(kbps):
    """Lyra; the environment's LYRA_MODELS says where its networks are."""
    return Lyra(kbps, Path(os.environ.get("LYRA_MODELS") or Path.home() / ".cache/lyra"))


OTHERS = {"encodec": open_encodec, "dac": open_dac, "opus": open_opus, "codec2": open_codec2, "lyra": open_lyra}


def number(name, text):
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} needs its kbit/s, as in {name}:6, not {text!r}") from None


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{command[0]}: {told[-1]}")


def write_raw(path, wav):
    """`wav` `[1, L]` as 16-bit samples without a header."""
    Path(path).write_bytes((wav[0].numpy() * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())


def read_raw(path):
    """What `write_raw` wrote: `[1, L]`."""
    return torch.from_numpy(np.frombuffer(Path(path).read_bytes(), "<i2").astype(np.float32) / 32768)[None]
