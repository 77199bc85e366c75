"""Codecs here beside their public implementations on PyPI: one network, one set of random weights, 24 kHz.

    pip install --no-deps encodec einops
    python tools/bench/public_speed.py --threads 1 2                              # encodec 0.1.1, 6 kbit/s
    python tools/bench/public_speed.py --codec dac --seconds 4 --rounds 3         # speechbrain's DAC, 24 kbit/s

`file` is a WAV file to a file of codes and back, `model` a waveform in memory to codes and back. The codecs take
their turns in every round, both directions of each; figures are medians over the rounds: times real time, and, behind
each, how many times as fast as the package in the same round. A round more warms up. Before that it is told how many
of the codes are the package's, and how far signals of the package's codes are apart.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median

import torch
from codec_speed import DAC, RATE, Encodec

from pscodec.commands.bench import timed
from pscodec.data.audio import load_audio, save_audio
from pscodec.files import decode_file, encode_file
from pscodec.inference import Coder
from pscodec.models import dac
from pscodec.models.optimise import optimise
from pscodec.quantizers.factorised import FactorisedRVQ
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.machine import keep_memory
from pscodec.utils.progress import progress

KBPS = 6
CONFIG = Path(__file__).parents[2] / "recipes/LibriTTS/codec/conf/encodec_public.yaml"
WAYS = ("encode model", "decode model", "encode file", "decode file")


class TheirEncodec(Encodec):
    n_q = 8

    def __init__(self):
        super().__init__(KBPS)
        with torch.no_grad():  # entries where latents are, so that all codes are in use
            z = self.model.encoder(0.1 * torch.randn(1, 1, RATE))[0]
            for k, layer in enumerate(self.model.quantizer.vq.layers):
                layer._codebook.embed.copy_(0.8**k * z.std(1) * torch.randn(1024, 128) + (z.mean(1) if k == 0 else 0))
                layer._codebook.inited.fill_(1)

    def codes(self, wav):
        return self.model.encode(wav)[0][0]

    def wav(self, codes):
        return self.model.decode([(codes, None)])

    @staticmethod
    def ours():
        return build_only(resolve(compose(CONFIG)), "codec")


class TheirDAC(DAC):
    n_q = 32

    def codes(self, wav):
        return self.model.encode(wav)[1]

    def wav(self, codes):
        return self.model.decode(self.model.quantizer.from_codes(codes)[0])

    @staticmethod
    def ours():
        strides, latent_dim = (2, 4, 5, 8), 1024
        encoder, decoder = dac.Encoder(latent_dim, 64, strides), dac.Decoder(latent_dim, 1536, strides[::-1])
        return dac.DAC(encoder, FactorisedRVQ(latent_dim, 1024, 32, 8, kmeans_steps=0), decoder, sample_rate=RATE)


class Ours:
    def __init__(self, theirs, precision):
        model = theirs.ours()
        model.load_public(theirs.model.state_dict())
        model.eval().quantizer.n_q = theirs.n_q
        self.coder = Coder(model)
        optimise(model, precision)

    def codes(self, wav):
        return self.coder.model.encode(wav)

    def wav(self, codes):
        return self.coder.model.decode(codes, {}).float()

    def encode(self, wav, coded):
        encode_file(self.coder, wav, coded)

    def decode(self, coded, wav):
        decode_file(self.coder, coded, wav)


PACKAGES = {"encodec": TheirEncodec, "dac": TheirDAC}


def once(codec, wav, folder, name):
    """Seconds of each of WAYS."""
    times = {}
    codes = timed(times, "encode model", codec.codes, wav)
    timed(times, "decode model", codec.wav, codes)
    timed(times, "encode file", codec.encode, folder / "in.wav", folder / name)
    timed(times, "decode file", codec.decode, folder / name, folder / f"{name}.wav")
    return times


@torch.inference_mode()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", choices=PACKAGES, default="encodec")
    parser.add_argument("--wav", type=Path, help="a recording; default: noise")
    parser.add_argument("--precision", nargs="+", choices=("auto", "fp32", "bf16"), default=["fp32", "auto"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)

    warnings.simplefilter("ignore")  # encodec's weight norm is an old one
    keep_memory()
    torch.manual_seed(0)
    try:
        theirs = PACKAGES[args.codec]()
    except ImportError as error:
        sys.exit(f"error: {error}; pip install --no-deps encodec einops")
    codecs = {args.codec: theirs} | {f"ours, {p}": Ours(theirs, p) for p in dict.fromkeys(args.precision)}
    length = round(args.seconds * RATE / 320) * 320
    wav = 0.1 * torch.randn(1, length) if args.wav is None else load_audio(args.wav, RATE, 0, args.seconds)[0]
    wav, times = wav[None, :, : wav.shape[-1] // 320 * 320], {}
    seconds, codes = wav.shape[-1] / RATE, theirs.codes(wav)
    print(f"{seconds:g} s, {args.rounds} rounds, torch {torch.__version__}")
    for name, codec in list(codecs.items())[1:]:
        same = (codec.codes(wav) == codes).float().mean()
        expected, heard = (c.wav(codes)[..., : length - RATE // 5] for c in (theirs, codec))
        apart = (heard[..., : expected.shape[-1]] - expected).norm() / expected.norm()
        print(f"{name}: {100 * same:.2f} % of the codes are the package's, signals of one set {apart:.1g} apart")
    with tempfile.TemporaryDirectory() as folder:
        save_audio(Path(folder) / "in.wav", wav[0], RATE)
        for i in progress(range(-1, args.rounds), "rounds"):
            for n in args.threads:
                torch.set_num_threads(n)
                for name, codec in codecs.items():
                    for way, took in once(codec, wav, Path(folder), name).items():
                        if i >= 0:
                            times.setdefault((name, n, way), []).append(took)
    print(f"{'codec':14}threads" + "".join(f"{way:>22}" for way in WAYS))
    for n in args.threads:
        for name in codecs:
            cells = []
            for way in WAYS:
                pairs = zip(times[args.codec, n, way], times[name, n, way], strict=True)
                ratio = median(package / own for package, own in pairs)
                cells.append(f"{seconds / median(times[name, n, way]):14.1f} ({ratio:5.2f})")
            print(f"{name:14}{n:7}{''.join(cells)}")


if __name__ == "__main__":
    main()
