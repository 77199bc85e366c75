#!/usr/bin/env python3
"""Seconds of speech that training goes through in a second, and where the time goes, beside a plain implementation.

  python tools/bench/train_step.py --config recipes/LibriTTS/codec/conf/pscodec_base.yaml [--preset FILE] [--threads 2]

`ours` is the training loop of the recipes (brains/codec) with the configuration's codec and discriminators. `plain` is
HifiCodec in its authors' configuration (hificodec_public.yaml) trained as their program does it, written here from its
description: fp32, nn.Conv1d with its weight norm at every call, Adam over one tensor after another, the discriminators
on both signals in each of the two turns, with gradients for their weights in both. The discriminators, the batch and
the threads are the same; both judge the whole segment. Steps take turns, so that both meet the same neighbours.
The arithmetic of a step, that of layers alone, is counted as tools/bench/training_cost.py does.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from torch import nn
from training_cost import cost

from pscodec.brains.codec import CodecBrain
from pscodec.layers.conv import Conv1d, ConvTranspose1d
from pscodec.types import Evidence, Prompt
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import one_line_errors
from pscodec.utils.hparams import build, compose, resolve
from pscodec.utils.machine import best_precision, keep_memory, peak_memory
from pscodec.utils.progress import progress

CONF = Path(__file__).parents[2] / "recipes/LibriTTS/codec/conf"


class Ours:
    """The recipes' own step. `spent`: seconds a part, summed."""

    def __init__(self, hp, args, folder):
        self.hp, self.args, self.spent = hp, args, defaultdict(float)
        precision = best_precision(args.device) if args.precision == "auto" else args.precision
        self.brain = CodecBrain(
            modules={"codec": hp["codec"], "discriminators": hp["discriminators"]},
            hparams=hp,
            run_opts={"device": args.device, "precision": precision, "noprogressbar": True},
            checkpointer=AtomicCheckpointer(folder, {}),
        )
        hp["losses"].to(args.device)
        self.brain.on_fit_start()
        self.brain.modules.train()
        brain = self.brain
        brain.modules.codec.forward = self._timed("codec forward", brain.modules.codec.forward)
        brain._discriminator_step = self._timed("discriminators", brain._discriminator_step)
        brain.hparams.losses.forward = self._timed("losses forward", brain.hparams.losses.forward)
        brain._judge_and_learn = self._timed("discriminators", brain._judge_and_learn)
        brain._judge = self._timed("discriminators", brain._judge)
        brain._backward = self._timed("backward and Adam", brain._backward)
        brain._step = self._timed("backward and Adam", brain._step)

    def _timed(self, name, function):
        def timed(*args, **options):
            before, begin = sum(self.spent.values()), now(self.args.device)
            result = function(*args, **options)
            inner = sum(self.spent.values()) - before  # of parts that this one called
            self.spent[name] += now(self.args.device) - begin - inner
            return result

        return timed

    def step(self, wav, prompt):
        self.brain.fit_batch((wav, prompt))


class Plain:
    """The step of HifiCodec's public program."""

    def __init__(self, hp, discriminators, device):
        self.codec, self.losses = hp["codec"].to(device).train(), hp["losses"].to(device)
        self.discriminators, self.discriminator_loss = discriminators.to(device), hp["discriminator_loss"]
        for layer in self.codec.modules():
            if isinstance(layer, Conv1d):
                layer.forward = nn.Conv1d.forward.__get__(layer)
            elif isinstance(layer, ConvTranspose1d):
                layer.forward = nn.ConvTranspose1d.forward.__get__(layer)
        self.optimizers = [torch.optim.AdamW(m.parameters(), 2e-4, (0.5, 0.9)) for m in (self.codec, discriminators)]

    def step(self, wav, prompt):
        evidence = Evidence(wav, self.codec(wav))
        real, fake = self.discriminators(wav), self.discriminators(evidence.output.wav_hat.detach())
        self._descend(1, self.discriminator_loss(real, fake))
        evidence.real, evidence.fake = self.discriminators(wav), self.discriminators(evidence.output.wav_hat)
        self._descend(0, self.losses(evidence)[0])

    def _descend(self, which, loss):
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


def now(device):
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONF / "pscodec_base.yaml", help="a variant (%(default)s)")
    parser.add_argument("--preset", type=Path, action="append", default=[], help="laid over both; may come again")
    parser.add_argument("--batch-size", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--segment", type=float, default=1.0, help="seconds (%(default)s)")
    parser.add_argument("--update", choices=("alternating", "simultaneous"), default="alternating", help="of ours")
    parser.add_argument("--accumulation", type=int, default=1, help="of ours (%(default)s)")
    parser.add_argument("--torch-compile", action="store_true", help="of ours")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (%(default)s)")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of ours")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine (cuda: 989, an H100 or H200's dense bf16)")
    args = parser.parse_args(argv)
    args.peak = args.peak or (None if args.device == "cpu" else 989)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_memory()
    keys = {"batch_size": args.batch_size, "segment": args.segment, "log_steps": 10**9, "collapse_after": 10**9}
    keys |= {"adversarial_start": 0, "adversarial_segment": 0, "quantize_start": 0}
    keys |= {"update": args.update, "accumulation": args.accumulation, "torch_compile": args.torch_compile}

    def settings(config):
        torch.manual_seed(0)
        return build(resolve(compose(config, args.preset), keys))

    ours, plain = settings(args.config), settings(CONF / "hificodec_public.yaml")
    # as judges they are ours: the comparison is of how a step is made, not of who judges
    plain |= {"losses": settings(args.config)["losses"], "discriminator_loss": ours["discriminator_loss"]}
    if "pitch" in plain["losses"].terms:  # of a decoder that tells one, which HifiCodec's does not
        plain["losses"].terms.pop("pitch")
    wav = 0.1 * torch.randn(args.batch_size, 1, round(args.segment * 24000), device=args.device)
    frames = round(ours["prompt"] / 0.01)
    prompt = Prompt(torch.randn(len(wav), 80, frames), torch.randn(len(wav), 80, frames)).to(args.device)
    judged = {"discriminators": settings(args.config)["discriminators"], "update": "alternating"}
    costs = {"ours": settings(args.config), "plain": settings(CONF / "hificodec_public.yaml") | judged}
    flops = {name: 2 * args.batch_size * cost(hp).step for name, hp in costs.items()}
    times, memory = defaultdict(list), {}
    with tempfile.TemporaryDirectory() as folder:
        systems = {
            "ours": Ours(ours, args, folder),
            "plain": Plain(plain, settings(args.config)["discriminators"], args.device),
        }
        for i in progress(range(-1, args.steps), "steps"):
            for name, system in systems.items():
                begin = now(args.device)
                if args.device != "cpu":
                    torch.cuda.reset_peak_memory_stats()
                system.step(wav, prompt)
                if i >= 0:
                    times[name].append(now(args.device) - begin)
                elif name == "ours":
                    system.spent.clear()
                if args.device != "cpu":
                    memory[name] = torch.cuda.max_memory_allocated()
        spent = systems["ours"].spent
    seconds = args.batch_size * args.segment
    device = f"{args.device}, {torch.get_num_threads()} threads" if args.device == "cpu" else args.device
    print(f"{args.batch_size} x {args.segment:g} s, {device}, torch {torch.__version__}; {args.steps} steps, median")
    for name, each in times.items():
        step, rate = median(each), flops[name] / median(each) / 1e12
        share = f" ({100 * rate / args.peak:.1f} % of {args.peak:g})" if args.peak else ""
        print(f"{name:6} {step:8.3f} s a step {seconds / step:8.2f} s of speech a second {rate:7.3f} TFLOP/s{share}")
    ratios = sorted(p / o for o, p in zip(times["ours"], times["plain"], strict=True))
    print(f"ours is {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    total = sum(times["ours"])
    shares = {**spent, "the rest": total - sum(spent.values())}
    print("ours spends " + ", ".join(f"{100 * s / total:.0f} % on {name}" for name, s in shares.items()))
    for name, most in memory.items():
        print(f"GPU memory in a step of {name}: {most / 2**20:.0f} MB, the weights of both in it")
    print(f"peak memory of this process, both systems: {peak_memory() / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
