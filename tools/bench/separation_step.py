#!/usr/bin/env python3
"""Mixtures a second in training: Codecformer-EL (live and from a cache), Codecformer, SepFormer, on the same mixtures.

    python tools/bench/separation_step.py --codec CODEC_EXP --data DIR [--segment 4] [--steps 5] [--epochs 20]

DIR is a folder of mixtures. Every system trains in its paper's sizes on the same segments: forward, backward, Adam.
Each has the one of --batches that is fastest for it, as in the paper each has its own. A cache costs one pass of the
encoder over mixtures and sources, spread over --epochs epochs of training.
"""

import argparse
import time

import torch
from torch.utils.data import DataLoader

from pscodec.data.mixture import MixtureDataset, collate
from pscodec.downstream.codec import FrozenCodec
from pscodec.downstream.separator import Codecformer
from pscodec.downstream.sepformer import SepFormer
from pscodec.downstream.systems import join
from pscodec.inference import load_codec
from pscodec.losses.separation import EmbeddingLoss, SiSnrLoss
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.machine import best_precision, keep_memory

LONG = 5.0  # seconds: a step of that length gains nothing from a larger batch


@one_line_errors
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True, help="experiment folder of a codec")
    parser.add_argument("--data", required=True, help="a folder of mixtures")
    parser.add_argument("--segment", type=float, default=4.0, help="seconds (%(default)s)")
    parser.add_argument("--batches", default="1 4 16", help="batch sizes to try (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs that a cache serves (%(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.precision = best_precision(args.device) if args.precision == "auto" else args.precision
    if args.device == "cpu":
        keep_memory()
    sizes = sorted(int(b) for b in args.batches.split())
    dataset = MixtureDataset(args.data, segment=args.segment)
    rate = dataset.sample_rate
    long = [i for i, m in enumerate(dataset.mixtures) if m.length >= args.segment * rate][: sizes[-1]]
    if len(long) < sizes[-1]:
        raise UserError(f"{args.data}: {len(long)} mixtures of {args.segment} s, the largest batch needs {sizes[-1]}")
    batch = next(iter(DataLoader([dataset[i] for i in long], sizes[-1], collate_fn=collate)))
    batch = {k: v.to(args.device) for k, v in batch.items() if isinstance(v, torch.Tensor)}

    frozen = FrozenCodec(load_codec(args.codec, device=args.device, precision=None).model, rate)
    print(f"{args.device}, {args.precision}, {torch.get_num_threads()} threads, {args.segment} s at {rate} Hz")
    with autocast(args), torch.no_grad():
        encode = 1 / best_rate(
            lambda items: frozen.embed(items["mix"], items["sources"], items["lengths"]), batch, sizes, args
        )
        z_mix, z_sources, frames = frozen.embed(batch["mix"], batch["sources"], batch["lengths"])
    cached = {"z_mix": z_mix, "z_sources": z_sources, "frames": frames}
    n_src, rates = dataset.meta["n_src"], {}
    net = Codecformer(frozen.latent_dim, n_src, activation=frozen.codec.activation)
    systems = (
        ("SepFormer", join(SepFormer(n_src)), SiSnrLoss(), batch),
        ("Codecformer", join(net, frozen), SiSnrLoss(), batch),
        ("Codecformer-EL, live", join(net, frozen), EmbeddingLoss(), batch),
        ("Codecformer-EL, cached", join(net, frozen), EmbeddingLoss(), cached),
    )
    for name, system, loss, items in systems:
        step = trainer(system.to(args.device).train(), loss, args)
        rates[name] = best_rate(step, items, sizes, args)
    pure = rates["Codecformer-EL, cached"]
    rates["Codecformer-EL, cached"] = 1 / (1 / pure + encode / args.epochs)
    for name, value in rates.items():
        print(
            f"{name:<24} {value:8.2f} mixtures/s  {value / rates['Codecformer']:6.2f} x Codecformer "
            f" {value / rates['SepFormer']:6.2f} x SepFormer"
        )
    print(f"encoding a mixture and its sources: {1000 * encode:.1f} ms, once in {args.epochs} epochs")
    print(f"cached, the encoding left out: {pure:.2f} mixtures/s")


def autocast(args):
    return torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.precision == "bf16")


def trainer(system, loss, args):
    params = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(params, 1e-5)

    def step(items):
        with autocast(args):
            separation = system(items, loss.domain)
        optimizer.zero_grad(set_to_none=True)
        loss(separation)[0].backward()
        torch.nn.utils.clip_grad_norm_(params, 5.0)
        optimizer.step()

    return step


def best_rate(step, batch, sizes, args):
    """Items a second of `step`, at the batch size that is best for it; of so many timed steps the median counts."""
    rates = {}
    for size in sizes:
        items = {k: v[:size] for k, v in batch.items()}
        try:
            times = [timed(step, items, args) for _ in range(args.steps + 1)][1:]
        except torch.OutOfMemoryError:
            break
        rates[size] = size / sorted(times)[len(times) // 2]
        if min(times) > LONG:
            break
    return max(rates.values())


def timed(step, items, args):
    begin = time.perf_counter()
    step(items)
    if args.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
