"""how fast a codec is here: real-time factors, latency, memory"""

from pathlib import Path

from pscodec.commands.many import add_precision

DETAILS = """
  pscodec bench --exp exp/pscodec_frames_mini
  pscodec bench --config conf/pscodec_base.yaml --threads 1 2 --precision fp32 bf16     random weights will do

`model` is waveform to codes and back in memory, `file` WAV file to .psc file and back, the speaker enrolled before.
Every figure is the median of the rounds, which take the settings in turn, so that all meet the same neighbours. Where
fp32 is among several precisions, the others' differences from it are told too: codes, and PESQ of the same codes
decoded by both.
"""


def add_arguments(parser):
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exp", type=Path, help="experiment folder with a trained codec")
    which.add_argument("--config", type=Path, help="YAML of a recipe; the weights are random")
    parser.add_argument("--preset", type=Path, action="append", default=[], help="laid over --config; may come again")
    parser.add_argument("--wav", type=Path, help="a recording to code; default: noise")
    parser.add_argument("--seconds", type=float, default=30.0, help="of it, or of noise (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[], help="default: torch's choice")
    add_precision(parser, nargs="+", default=["auto"])


def run(args):
    import tempfile

    import torch

    from pscodec.utils.machine import keep_memory, peak_memory
    from pscodec.utils.progress import progress

    keep_memory()
    threads = args.threads or [torch.get_num_threads()]
    coders = {precision: load(args, precision) for precision in dict.fromkeys(args.precision)}
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = Clip(next(iter(coders.values())), Path(folder), args.seconds, args.wav)
        for i in progress(range(-1, args.rounds), "bench"):  # one round more: the first only warms up
            for precision, coder in coders.items():
                for n in threads:
                    torch.set_num_threads(n)
                    for name, seconds in clip.times(coder).items():
                        if i >= 0:
                            times.setdefault((precision, n, name), []).append(seconds)
    model = next(iter(coders.values())).model
    print(f"{args.exp or args.config}: {clip.seconds:g} s at {model.sample_rate} Hz, torch {torch.__version__}")
    print(f"times faster than real time; a frame's push in ms (a frame lasts {1e3 / model.frame_rate:.1f} ms)")
    print(table(times, clip.seconds))
    for precision, coder in coders.items():
        if precision != "fp32" and "fp32" in coders:
            print(f"{precision} against fp32: {clip.difference(coders['fp32'], coder)}")
    print(f"algorithmic latency: {clip.latency}")
    print(f"peak memory of this process: {peak_memory() / 2**20:.0f} MB")


def load(args, precision):
    """The `Coder` to measure: of a trained experiment, or of a recipe's YAML with random weights. `precision` None
    leaves it as in training."""
    import torch

    from pscodec.inference import Coder, load_codec
    from pscodec.models.optimise import optimise
    from pscodec.utils.hparams import build_only, compose, resolve

    if args.exp:
        return load_codec(args.exp, precision=precision)
    torch.manual_seed(0)
    coder = Coder(build_only(resolve(compose(args.config, args.preset)), "codec").eval(), name=args.config.stem)
    if precision:
        optimise(coder.model, precision)
    return coder


class Clip:
    """A recording, as waveform and file, to be coded by several Coders of one codec."""

    def __init__(self, coder, folder, seconds, path=None):
        import torch

        from pscodec.data.audio import load_audio, save_audio

        model = coder.model
        if path is None:
            generator = torch.Generator().manual_seed(0)
            self.wav = 0.1 * torch.randn(1, model.channels, round(seconds * model.sample_rate), generator=generator)
        else:
            self.wav = load_audio(path, model.sample_rate, 0.0, seconds, model.channels)[0][None]
        self.folder, self.seconds = folder, self.wav.shape[-1] / model.sample_rate
        save_audio(folder / "in.wav", self.wav[0], model.sample_rate)
        self.profile = coder.enroll((self.wav[0], model.sample_rate)) if model.takes_prompt else None
        self.profiles = [self.profile] if self.profile else []
        self.latency = "not for streams"

    def times(self, coder):
        """Seconds that each way through `coder` takes: name -> seconds."""
        from pscodec.files import decode_file, encode_file

        psc, model, times = self.folder / "coded.psc", coder.model, {}
        encode, decode = network(coder)
        codes = timed(times, "encode model", encode, self.wav)
        timed(times, "encode file", encode_file, coder, self.folder / "in.wav", psc, self.profile)
        timed(times, "decode model", decode, codes)
        timed(times, "decode file", decode_file, coder, psc, self.folder / "out.wav", self.profiles)
        return times | ({} if model.chunk else self._pushes(coder, codes))

    def difference(self, reference, coder):
        """What `coder` does otherwise than `reference`, in words."""
        import torch

        from pscodec.metrics.base import MetricError
        from pscodec.metrics.pesq import pesq

        sent = [network(c)[0](self.wav) for c in (reference, coder)]
        codes = [torch.as_tensor(getattr(s, "codes", s)) for s in sent]
        share = (codes[0] != codes[1]).float().mean().item()
        ref, hyp = (network(c)[1](sent[0])[0, 0].float().numpy() for c in (reference, coder))
        try:
            quality = f"{pesq(ref, hyp, reference.model.sample_rate):.2f} (4.64 at most)"
        except MetricError as error:
            quality = f"undefined here ({error})"
        return f"{100 * share:.2f} % of the codes differ; PESQ {quality}"

    def _pushes(self, coder, codes):
        """Median seconds of a push of one frame; sets `latency`."""
        import statistics

        from pscodec.streaming import StreamDecoder, StreamEncoder
        from pscodec.utils.errors import UserError

        model, hop = coder.model, coder.model.hop_length
        try:
            streams = {"encode": StreamEncoder(model), "decode": StreamDecoder(model, coder.silent_side)}
        except UserError as error:
            self.latency = str(error)
            return {}
        inputs = {"encode": self.wav.split(hop, -1), "decode": codes.split(1, -1)}
        self.latency = ", ".join(f"{1e3 * s.latency / model.sample_rate:.1f} ms to {k}" for k, s in streams.items())
        medians = {}
        for name, stream in streams.items():
            each = []
            for piece in inputs[name][:75]:
                once = {}
                timed(once, name, stream.push, piece)
                each.append(once[name])
            medians[f"{name} push"] = statistics.median(each)
        return medians


def network(coder):
    """Functions that take a waveform `[1, C, L]` to what stands for its codes, and that to a waveform."""
    if not coder.model.chunk:
        return coder.model.encode, lambda codes: coder.model.decode(codes, coder.silent_side)
    rate = coder.model.sample_rate
    return lambda wav: coder.encode(wav[0], rate), lambda stream: coder.decode(stream)[None]


def timed(times, name, function, *args):
    """`function(*args)`; what it took goes to `times[name]`, in seconds."""
    import time

    start = time.perf_counter()
    result = function(*args)
    times[name] = time.perf_counter() - start
    return result


def table(times, seconds):
    """One row a precision and number of threads: medians of `times` (precision, threads, name) -> list of seconds."""
    from statistics import median

    names = list(dict.fromkeys(name for _, _, name in times))
    rows = [["precision", "threads", *names]]
    for precision, n in dict.fromkeys(key[:2] for key in times):
        found = [median(times[precision, n, name]) for name in names]
        cells = [
            f"{1e3 * t:.1f}" if k.endswith("push") else f"{seconds / t:.1f}" for k, t in zip(names, found, strict=True)
        ]
        rows.append([precision, str(n), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
