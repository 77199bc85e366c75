#!/usr/bin/env python3
"""What a training costs: arithmetic of a step, counted; hours and GPU-hours, computed from what a GPU does a second.

  python tools/bench/training_cost.py --config recipes/LibriTTS/codec/conf/pscodec_base.yaml --peak 989
  python tools/bench/training_cost.py --speed 120     # s of speech a second, by tools/bench/train_step.py

Multiply-accumulates (MACs) are those of convolutions and matrix products, counted where they happen in a forward pass
of one item (utils/macs.py); Fourier transforms, activations and Adam are not in them. A step of brains/codec.py is

  trained parts of the codec   forward, and gradients of inputs and of weights                                3
  CAM++, frozen                forward                                                                        1
  discriminators               their turn: both signals, forward and both gradients                           6
                               the codec's: the recording forward, the decoded forward and input's gradient   3
                               (update: simultaneous has the answers: the decoded one's input gradient        1)

A MAC is two FLOPs. Hours are steps x seconds a step / 3600; a step takes (its speech / GPUs) / speed, and the time in
which the gradients travel, in full: how much of that goes on beside the arithmetic is not known here.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from pscodec.prompts.campplus import CAMPPlus
from pscodec.types import Prompt
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.hparams import build, compose, resolve
from pscodec.utils.macs import count_macs

CONF = Path(__file__).parents[2] / "recipes/LibriTTS/codec/conf"
FRAMES = 100  # features a second


@dataclass
class Cost:
    """Of one item: MACs of a forward pass of the codec's trained parts, of CAM++ and of the discriminators (which judge
    one signal); `judging`: how many of the latter a step takes; `parameters` that are trained in codec and
    discriminators; `segment` in seconds."""

    trained: int
    frozen: int
    discriminators: int
    judging: int
    parameters: tuple[int, int]
    segment: float

    @property
    def step(self):
        """MACs that a training step spends on an item."""
        return 3 * self.trained + self.frozen + self.judging * self.discriminators

    @property
    def gradients(self):
        """Bytes that each process gives to the others a step, once for the codec, once for the discriminators."""
        return 4 * sum(self.parameters)


def cost(hp):
    """`Cost` of the training that the built configuration `hp` describes."""
    codec, discriminators = hp["codec"].eval(), hp["discriminators"]
    rate, frames = hp["sample_rate"], round(hp["prompt"] * FRAMES)
    prompt = Prompt(torch.zeros(1, 80, frames), torch.zeros(1, 80, frames))
    total = count_macs(codec, torch.zeros(1, 1, round(hp["segment"] * rate)), prompt).total
    speakers = [module for module in codec.modules() if isinstance(module, CAMPPlus)]
    frozen = sum(count_macs(module, prompt.fbank).total for module in speakers)
    judged = round((hp["adversarial_segment"] or hp["segment"]) * rate)
    return Cost(
        total - frozen,
        frozen if hp["voiceprint"] == "crop" else 0,  # else stage 2 has done it
        count_macs(discriminators, torch.zeros(1, 1, judged)).total,
        {"alternating": 9, "simultaneous": 7}[hp["update"]],
        tuple(sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (codec, discriminators)),
        hp["segment"],
    )


def plans(gpus, batch, steps, items):
    """Yield `(n, batch, steps)` for each number n of `gpus`. A batch that does not divide by n, or leaves a GPU with
    fewer than `items` items, grows by the least whole factor that mends it, with so many fewer steps."""
    for n in gpus:
        factor = 1
        while batch * factor % n or batch * factor // n < min(items, batch):
            factor += 1
        yield n, batch * factor, round(steps / factor)


def send_seconds(gradients, gpus, bandwidth):
    """Seconds of a ring all-reduce of `gradients` bytes over `gpus` with `bandwidth` bytes a second each way."""
    return 2 * (gpus - 1) / gpus * gradients / bandwidth


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONF / "pscodec_base.yaml", help="a variant (%(default)s)")
    parser.add_argument("--preset", type=Path, action="append", default=[], help="laid over both; may come again")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="(1 8 64)")
    parser.add_argument("--items", type=int, default=5, help="least items of a batch a GPU (%(default)s)")
    parser.add_argument("--speed", type=float, nargs="+", default=[], help="measured s of speech a second and GPU")
    parser.add_argument(
        "--peak", type=float, default=989, help="TFLOP/s of a GPU, dense bf16 (%(default)s: H100, H200)"
    )
    parser.add_argument("--utilisation", type=float, nargs="+", default=[10, 20, 30], help="%% of it (10 20 30)")
    parser.add_argument("--link", type=float, default=50, help="GB/s each way and GPU, for gradients (%(default)s)")
    args = parser.parse_args(argv)
    if min(*args.gpus, args.items, *args.speed, args.peak, *args.utilisation, args.link) <= 0:
        raise UserError("--gpus, --items, --speed, --peak, --utilisation and --link must be positive")
    torch.manual_seed(0)
    hp = build(resolve(compose(args.config, args.preset)))
    found, seconds = cost(hp), hp["batch_size"] * hp["segment"]
    tell(found, hp)
    per_second = 2 * found.step / found.segment  # FLOPs of a second of speech
    speeds = [("measured", speed) for speed in args.speed]
    speeds = speeds or [(f"{u:g} %", u / 100 * args.peak * 1e12 / per_second) for u in args.utilisation]
    head = ["GPUs", "batch", "steps", "speed", "speech, s/s and GPU", "s a step", "of it sending", "hours", "GPU-hours"]
    print("| " + " | ".join(head) + " |\n|" + "--:|" * len(head))
    for gpus, batch, steps in plans(args.gpus, hp["batch_size"], hp["total_steps"], args.items):
        send = send_seconds(found.gradients, gpus, args.link * 1e9)
        for name, speed in speeds:
            step = batch * found.segment / gpus / speed + send
            hours = steps * step / 3600
            row = [gpus, batch, steps, name, f"{speed:.0f}", f"{step:.3f}", f"{send:.3f}", f"{hours:.1f}"]
            print("| " + " | ".join(map(str, [*row, f"{hours * gpus:.0f}"])) + " |")
    print(f"\nall of them see {hp['total_steps'] * seconds / 3600:.0f} h of speech")


def tell(found, hp):
    """Print what was counted."""
    giga = {name: getattr(found, name) / 1e9 for name in ("trained", "frozen", "discriminators")}
    print(f"an item: {found.segment:g} s of speech, {hp['prompt']:g} s of prompt; forward, GMACs:")
    print(", ".join(f"{name} {value:.2f}" for name, value in giga.items()))
    shares = [3 * found.trained, found.frozen, found.judging * found.discriminators]
    told = ", ".join(f"{100 * share / found.step:.0f} %" for share in shares)
    print(
        f"a training step of an item: {found.step / 1e9:.1f} GMACs, {2 * found.step / 1e12:.3f} TFLOPs ({told} of it)"
    )
    codec, discriminators = (n / 1e6 for n in found.parameters)
    print(
        f"trained parameters: codec {codec:.2f} M, discriminators {discriminators:.2f} M; "
        f"gradients of a step: {found.gradients / 1e6:.0f} MB\n"
    )


if __name__ == "__main__":
    main()
