"""Streams and long recordings in figures: do they equal one pass, and what do they cost over an hour?

    python tools/bench/streaming.py --exp exp/pscodec_base --speech downloads/mini --check equal hour
    python tools/bench/streaming.py --config conf/pscodec_base.yaml --speech downloads/mini --check equal bf16 pushes

equal   60 s in chunks and in pushes against one pass: codes that differ, the largest gap of their distances, waveform
bf16    bf16 in one pass and in chunks against fp32: share of codes that differ, signal-to-noise ratio of the waveform
pushes  milliseconds a push of 20, 80 and 1,000 ms takes, encoded and decoded
hour    `--minutes` of speech through encode_long and decode_long: seconds a minute and memory, first and last

The speech is the recordings below a folder, one after the other, over again. With --config the weights are random, and
the codebook entries latents of the speech.
"""

import argparse
import copy
import time
from itertools import cycle
from pathlib import Path

import torch

from pscodec.data.audio import load_audio
from pscodec.models.optimise import optimise
from pscodec.streaming import StreamDecoder, StreamEncoder, decode_long, encode_long
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.weights import load_weights


def recordings(folder, sample_rate, seconds):
    """Speech as blocks `[1, 1, n]`, together `seconds` long."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".flac", ".opus"))
    if not paths:
        raise UserError(f"{folder}: no recordings")
    missing = int(seconds * sample_rate)
    for path in cycle(paths):
        wav = load_audio(path, sample_rate)[0][None, :, :missing]
        yield wav
        missing -= wav.shape[-1]
        if missing == 0:
            return


def load(args):
    """The codec and a speaker's vectors (random ones, which stand for any speaker's)."""
    torch.manual_seed(0)
    if args.exp:
        model = build_only((args.exp / "hyperparams.yaml").read_text(encoding="utf-8"), "codec").eval()
        load_weights(args.exp, {"codec": model})
    else:
        model = build_only(resolve(compose(args.config, args.preset)), "codec").eval()
        with torch.inference_mode():
            z = model.encoder(model.pad(torch.cat([*recordings(args.speech, model.sample_rate, 10)], -1)))
        for group, part in zip(model.quantizer.groups, z.chunk(len(model.quantizer.groups), 1), strict=True):
            residual = group.project_in(part.transpose(1, 2)).flatten(0, 1)
            for layer in group.layers:
                layer.entries.data.copy_(residual[torch.randperm(len(residual))[: layer.size]])
                residual = residual - layer.lookup(layer.nearest(residual)).detach()
    dim = model.quantizer.decode(torch.zeros(1, model.n_q, 1, dtype=torch.long)).shape[1]
    return model, {"z_vp": torch.randn(1, dim, 1), "z_mel": torch.randn(1, dim, 1)} if model.takes_prompt else {}


@torch.inference_mode()
def gaps(model, z, codes, others):
    """For each frame that differs: by how much the two first differing entries differ in distance from their target."""
    found, at = [], 0
    for group, part in zip(model.quantizer.groups, z.chunk(len(model.quantizer.groups), 1), strict=True):
        residual, same = group.project_in(part.transpose(1, 2))[0].double(), torch.ones(z.shape[-1], dtype=torch.bool)
        for layer in group.layers:
            mine, other = (layer.entries[c[0, at]].double() for c in (codes, others))
            differ = same & (codes[0, at] != others[0, at])
            found.append(((residual - mine).norm(dim=1) - (residual - other).norm(dim=1))[differ].abs())
            residual, same, at = residual - mine, same & ~differ, at + 1
    return torch.cat(found)


def snr(wav, reference):
    return 10 * torch.log10(reference.pow(2).sum() / (wav - reference).pow(2).sum()).item()


def streamed(stream, x, size):
    return torch.cat([*(stream.push(piece) for piece in x.split(size, -1)), stream.finish()], -1)


def equal(model, side, wav, precision):
    codes = model.encode(wav)
    reference = model.decode(codes, side)
    with torch.inference_mode():
        z = model.encoder(model.pad(wav))
    print(f"one pass: {codes.shape[-1]} frames, {len(codes.unique())} different codes, gain {reference.std():.3f}")
    for name, seconds, long in [("chunks", s, True) for s in (0.5, 2, 10)] + [("pushes", s, False) for s in (0.08, 1)]:
        if long:
            coded = torch.cat([*encode_long(model, [wav], seconds)], -1)
            decoded = torch.cat([*decode_long(model, [codes], side, seconds)], -1)
        else:
            coded = streamed(StreamEncoder(model), wav, round(seconds * model.sample_rate))
            decoded = streamed(StreamDecoder(model, side), codes, round(seconds * model.frame_rate))
        gap = gaps(model, z, codes, coded)
        worst = f", distances within {gap.max():.1e}" if len(gap) else ""
        print(f"  {name} of {seconds:g} s: {len(gap)} codes differ{worst}; ", end="")
        print(f"waveform within {(decoded - reference).abs().max():.1e}", flush=True)


def bf16(model, side, wav, precision):
    exact = optimise(copy.deepcopy(model), "fp32")
    codes = exact.encode(wav)
    reference = exact.decode(codes, side)
    fast = optimise(copy.deepcopy(model), "bf16")
    for name, coded, decoded in [
        ("one pass", fast.encode(wav), fast.decode(codes, side)),
        ("chunks of 1 s", *(torch.cat([*c], -1) for c in (encode_long(fast, [wav]), decode_long(fast, [codes], side)))),
    ]:
        share = (coded != codes).float().mean()
        print(
            f"  bf16, {name}: {share:.2%} of the codes differ, SNR of the same codes {snr(decoded, reference):.1f} dB"
        )


def pushes(model, side, wav, precision):
    model = optimise(copy.deepcopy(model), precision)
    encoder, decoder = StreamEncoder(model), StreamDecoder(model, side)
    for seconds in (0.02, 0.08, 1):
        times = []
        for piece in wav.split(round(seconds * model.sample_rate), -1)[: 6 + round(4 / seconds)]:
            start = time.process_time()
            codes = encoder.push(piece)
            middle = time.process_time()
            decoder.push(codes)
            times.append((middle - start, time.process_time() - middle))
        encode, decode = (1000 * torch.tensor(times[5:]).mean(0)).tolist()
        print(f"  pushes of {1000 * seconds:g} ms: encode {encode:.1f} ms, decode {decode:.1f} ms of processor time")


def rss():
    """Resident memory in MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def hour(model, side, wav, precision, speech, minutes):
    model = optimise(model, precision)
    blocks = recordings(speech, model.sample_rate, 60 * minutes)
    frames, samples, last, peak = 0, 0, time.process_time(), 0.0

    def counted():
        nonlocal frames
        for codes in encode_long(model, blocks):
            frames += codes.shape[-1]
            yield codes

    for wav in decode_long(model, counted(), side):
        peak = max(peak, rss())
        before, samples = samples, samples + wav.shape[-1]
        minute = samples // (60 * model.sample_rate)
        if minute > before // (60 * model.sample_rate):
            now = time.process_time()
            print(f"  minute {minute}: {now - last:.2f} s of processor time, {rss():.0f} MiB", flush=True)
            last = now
    print(f"  {frames} frames, {samples / model.sample_rate:.2f} s of waveform, at most {peak:.0f} MiB")


@one_line_errors
@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--exp", type=Path)
    source.add_argument("--config", type=Path)
    parser.add_argument("--preset", type=Path, action="append", default=[])
    parser.add_argument("--speech", type=Path, required=True, help="a folder of recordings")
    parser.add_argument("--check", nargs="+", choices=("equal", "bf16", "pushes", "hour"), required=True)
    parser.add_argument("--precision", default="fp32", help="of pushes and hour: auto, fp32, bf16")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, side = load(args)
    wav = torch.cat([*recordings(args.speech, model.sample_rate, args.seconds)], -1)
    encoder, decoder = StreamEncoder(model), StreamDecoder(model, side)
    print(f"latency: encoder {encoder.latency} samples, decoder {decoder.latency}; {rss():.0f} MiB")
    del encoder, decoder
    for check in args.check:
        print(check)
        if check == "hour":
            hour(model, side, wav, args.precision, args.speech, args.minutes)
        else:
            {"equal": equal, "bf16": bf16, "pushes": pushes}[check](model, side, wav, args.precision)


if __name__ == "__main__":
    main()
