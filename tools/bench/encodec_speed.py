"""EnCodec here beside PyPI's encodec 0.1.1: one network, one set of random weights, 24 kHz, 6 kbit/s.

    pip install --no-deps encodec einops
    python tools/bench/encodec_speed.py --threads 1 2

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
from codec_speed import RATE, Encodec

from pscodec.commands.bench import timed
from pscodec.data.audio import load_audio, save_audio
from pscodec.files import decode_file, encode_file
from pscodec.inference import Coder
from pscodec.models.optimise import optimise
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.machine import keep_memory
from pscodec.utils.progress import progress

KBPS, N_Q = 6, 8
CONFIG = Path(__file__).parents[2] / "recipes/LibriTTS/codec/conf/encodec_public.yaml"
WAYS = ("encode model", "decode model", "encode file", "decode file")


class Theirs(Encodec):
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


class Ours:
    def __init__(self, state, precision):
        model = build_only(resolve(compose(CONFIG)), "codec")
        model.load_public(state)
        model.eval().quantizer.n_q = N_Q
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
        theirs = Theirs()
    except ImportError as error:
        sys.exit(f"error: {error}; pip install --no-deps encodec einops")
    state = theirs.model.state_dict()
    codecs = {"encodec": theirs} | {f"ours, {p}": Ours(state, p) for p in dict.fromkeys(args.precision)}
    length = round(args.seconds * RATE / 320) * 320
    wav = 0.1 * torch.randn(1, length) if args.wav is None else load_audio(args.wav, RATE, 0, args.seconds)[0]
    wav, times = wav[None, :, : wav.shape[-1] // 320 * 320], {}
    seconds, codes = wav.shape[-1] / RATE, theirs.codes(wav)
    print(f"{seconds:g} s, {args.rounds} rounds, torch {torch.__version__}")
    for name, codec in list(codecs.items())[1:]:
        same = (codec.codes(wav) == codes).float().mean()
        apart = (codec.wav(codes) - theirs.wav(codes)).norm() / theirs.wav(codes).norm()
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
                pairs = zip(times["encodec", n, way], times[name, n, way], strict=True)
                ratio = median(package / own for package, own in pairs)
                cells.append(f"{seconds / median(times[name, n, way]):14.1f} ({ratio:5.2f})")
            print(f"{name:14}{n:7}{''.join(cells)}")


if __name__ == "__main__":
    main()
