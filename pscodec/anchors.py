"""Codecs of others that stand beside ours in tables: programs (Opus, Codec2) and networks of their own (Lyra, NoLACE).

Each is `code(wav, sample_rate)` -> (`wav_hat` `[1, L']`, its rate, bit/s from bytes), as coders.py has them.
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

from pscodec.data.audio import resample
from pscodec.utils.errors import UserError

LYRA = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
OPUS_ML = "@wasm-audio-decoders/opus-ml"
# Ogg pages (RFC 3533) to packets, those to samples at 16 kHz: module, file, file of samples
NOLACE = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, source, target] = process.argv.slice(1);
const { OpusMLDecoder } = await import(module);
const pages = readFileSync(source), packets = [];
let packet = [];
for (let at = 0; at < pages.length; ) {
  const sizes = pages.subarray(at + 27, at + 27 + pages[at + 26]);
  at += 27 + sizes.length;
  for (const size of sizes) {
    packet.push(pages.subarray(at, at + size));
    at += size;
    if (size < 255) { packets.push(Buffer.concat(packet)); packet = []; }
  }
}
const preSkip = Math.round(packets[0].readUInt16LE(10) / 3);  // of 48 kHz; the decoder skips what it puts out
const decoder = new OpusMLDecoder({ speechQualityEnhancement: "nolace", sampleRate: 16000, preSkip });
await decoder.ready;
const heard = decoder.decodeFrames(packets.slice(2)).channelData[0];
writeFileSync(target, Int16Array.from(heard, (x) => Math.max(-32768, Math.min(32767, Math.round(32767 * x)))));
"""


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


def opusenc(source, target, kbps):
    """The command for speech; samples come raw at 16 kHz."""
    raw = ["--raw", "--raw-rate", "16000", "--raw-chan", "1"]
    return ["opusenc", "--quiet", "--speech", "--bitrate", kbps, *raw, source, target]


def open_opus(kbps):
    """Opus at 16 kHz, for speech, in its Ogg files."""
    number("opus", kbps)

    def decode(source, target, _):
        return ["opusdec", "--quiet", "--rate", "16000", source, target]

    return Program("opus", kbps, 16000, ".opus", opusenc, decode, "opus-tools")


def open_nolace(kbps):
    """Opus, decoded by libopus 1.5 with NoLACE, a network that mends coded speech. It does so in wideband frames alone,
    so that bandwidth is told the encoder. The environment's OPUS_ML names a folder where npm put the decoder."""
    number("nolace", kbps)
    folder = Path(os.environ.get("OPUS_ML") or Path.home() / ".cache/opus-ml")
    script = folder / "node_modules/@wasm-audio-decoders/opus-ml/index.js"
    if not script.is_file():
        raise UserError(f"the decoder of nolace is not there: {script} (npm install --prefix {folder} {OPUS_ML})")

    def encode(source, target, kbps):
        command = opusenc(source, target, kbps)
        return [*command[:-2], "--set-ctl-int", "4008=1103", *command[-2:]]

    def decode(source, target, _):
        return ["node", "--input-type=module", "--eval", NOLACE, script.as_uri(), source, target]

    return Program("nolace", kbps, 16000, ".opus", encode, decode, "opus-tools, or nodejs")


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
