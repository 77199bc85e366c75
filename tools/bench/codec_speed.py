"""PSCodec beside the PyPI packages encodec and speechbrain (its DAC), and beside itself as plain torch code.

    pip install --no-deps encodec einops
    python tools/bench/codec_speed.py --config recipes/LibriTTS/codec/conf/pscodec_base.yaml --threads 1 2
    python tools/bench/codec_speed.py --exp pscodec_small_24k --against encodec opus lyra --wav FILE

One clip at 24 kHz, from a WAV file to bytes in a file and back to a WAV file; random weights, but for --exp. Models are
loaded and the speaker is enrolled before. The codecs take their turns in every round; the last columns are medians over
the rounds of this codec's speed by PSCodec's in the same round. `plain` is the same PSCodec in fp32 as it is commonly
written: nn.Conv1d with its weight norm computed at every call, and the whole clip at once. `opus` is Debian's opusenc
and opusdec at 6 kbit/s, programs that are started for every clip, `lyra` Lyra v2's networks; both on one thread.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from pscodec.anchors import call
from pscodec.coders import open_coder
from pscodec.commands.bench import Clip, load, timed
from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.files import decode_file, encode_file
from pscodec.layers.conv import Conv1d, ConvTranspose1d
from pscodec.utils.errors import UserError
from pscodec.utils.machine import keep_memory
from pscodec.utils.progress import progress

RATE = 24000


class PSCodec:
    def __init__(self, args, profile=None):
        self.coder, self.profile = load(args, args.precision), profile

    def encode(self, wav, coded):
        encode_file(self.coder, wav, coded, self.profile)

    def decode(self, coded, wav):
        decode_file(self.coder, coded, wav, [self.profile] if self.profile else [])


class Plain:
    def __init__(self, args):
        coder = load(args, None)
        self.model, self.side = coder.model, coder.silent_side
        for layer in self.model.modules():  # as torch computes them
            if isinstance(layer, Conv1d):
                layer.forward = nn.Conv1d.forward.__get__(layer)
            elif isinstance(layer, ConvTranspose1d):
                layer.forward = nn.ConvTranspose1d.forward.__get__(layer)

    def encode(self, wav, coded):
        np.save(coded, self.model.encode(load_audio(wav)[0][None]).numpy().astype(np.int16))

    def decode(self, coded, wav):
        codes = torch.from_numpy(np.load(f"{coded}.npy").astype(np.int64))
        save_audio(wav, self.model.decode(codes, self.side)[0], RATE)


class Encodec:
    """Its smallest bitrate, 1.5 kbit/s, the fastest, unless told."""

    def __init__(self, kbps=1.5):
        from encodec import EncodecModel

        self.package = import_module("encodec.compress")  # the package's own name `compress` is a function of it
        self.model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
        self.model.set_target_bandwidth(kbps)
        self.model.name = "encodec_24khz"
        self.package.MODELS[self.model.name] = lambda: self.model  # decompress makes (and downloads) one at every call

    def encode(self, wav, coded):
        coded.write_bytes(self.package.compress(self.model, load_audio(wav)[0]))

    def decode(self, coded, wav):
        save_audio(wav, self.package.decompress(coded.read_bytes())[0], RATE)


class DAC:
    """The sizes of its 24 kHz model."""

    def __init__(self):
        from speechbrain.lobes.models.discrete.dac import DAC as Model

        rates = [2, 4, 5, 8]
        self.model = Model(encoder_rates=rates, decoder_rates=rates[::-1], n_codebooks=32, sample_rate=RATE).eval()

    def encode(self, wav, coded):
        x = load_audio(wav)[0][None]
        x = nn.functional.pad(x, (0, -x.shape[-1] % int(self.model.hop_length)))
        np.save(coded, self.model.encode(x)[1].numpy().astype(np.int16))

    def decode(self, coded, wav):
        codes = torch.from_numpy(np.load(f"{coded}.npy").astype(np.int64))
        save_audio(wav, self.model.decode(self.model.quantizer.from_codes(codes)[0])[0], RATE)


class Opus:
    def __init__(self):
        if not shutil.which("opusenc"):
            sys.exit(
                "error: opusenc is not installed (Debian's package opus-tools has it); or leave opus out of --against"
            )

    def encode(self, wav, coded):
        call(["opusenc", "--quiet", "--speech", "--bitrate", "6", str(wav), str(coded)])

    def decode(self, coded, wav):
        call(["opusdec", "--quiet", str(coded), str(wav)])


class Lyra:
    """At 3.2 kbit/s, frame by frame, as its networks are made; opened for every clip."""

    def __init__(self):
        try:
            self.codec = open_coder("lyra:3.2")
        except UserError as error:
            sys.exit(f"error: {error}; or leave lyra out of --against")

    def encode(self, wav, coded):
        np.save(coded, self.codec.encode(resample(*load_audio(wav), self.codec.rate)).astype(np.uint8))

    def decode(self, coded, wav):
        save_audio(wav, self.codec.decode(np.load(f"{coded}.npy")), self.codec.rate)


OTHERS = {"plain": Plain, "encodec": Encodec, "dac": DAC, "opus": Opus, "lyra": Lyra}


def race(codecs, folder, threads, rounds):
    """Seconds: (codec, threads, `encode` or `decode`) -> one a round. A round more warms up."""
    times = {}
    for i in progress(range(-1, rounds), "rounds"):
        for n in threads:
            torch.set_num_threads(n)
            for name, codec in codecs.items():
                once = {}
                timed(once, "encode", codec.encode, folder / "in.wav", folder / name)
                timed(once, "decode", codec.decode, folder / name, folder / f"{name}.wav")
                if i >= 0:
                    for way, seconds in once.items():
                        times.setdefault((name, n, way), []).append(seconds)
    return times


@torch.inference_mode()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path, help="YAML of PSCodec")
    which.add_argument("--exp", type=Path, help="experiment, or a released codec's name")
    parser.add_argument("--preset", type=Path, action="append", default=[])
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of PSCodec")
    parser.add_argument("--against", nargs="*", choices=OTHERS, default=["plain", "encodec", "dac"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wav", type=Path, help="a recording; default: noise")
    args = parser.parse_args(argv)

    warnings.simplefilter("ignore")  # encodec's weight norm is an old one
    keep_memory()
    codecs = {"pscodec": PSCodec(args)}
    for name, make in OTHERS.items():
        if name in args.against:
            try:
                codecs[name] = make(args) if name == "plain" else make()
            except ImportError as error:
                sys.exit(f"error: {error}; pip install --no-deps encodec einops, or leave {name} out of --against")
    with tempfile.TemporaryDirectory() as folder:
        clip = Clip(codecs["pscodec"].coder, Path(folder), args.seconds, args.wav)
        codecs["pscodec"].profile = clip.profile
        times = race(codecs, Path(folder), args.threads, args.rounds)

    print(f"{clip.seconds:g} s, {args.rounds} rounds, torch {torch.__version__}; times faster than real time:")
    print("codec     threads   encode (slowest, fastest)   decode (slowest, fastest)   by pscodec's: encode  decode")
    for n in args.threads:
        for name in codecs:
            cells = []
            for way in ("encode", "decode"):
                speed = sorted(clip.seconds / t for t in times[name, n, way])
                cells.append(f"{median(speed):8.1f} ({speed[0]:.1f}, {speed[-1]:.1f})".ljust(28))
            for way in ("encode", "decode"):
                pairs = zip(times["pscodec", n, way], times[name, n, way], strict=True)
                cells.append(f"{median(ours / theirs for ours, theirs in pairs):8.2f}")
            print(f"{name:9} {n:7} {''.join(cells)}")


if __name__ == "__main__":
    main()
