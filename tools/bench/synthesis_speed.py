"""Codes a second of processor time that a model of text and codes writes, with its cache and without.

    python tools/bench/synthesis_speed.py recipes/LibriTTS/tts/exp/NAME [--seconds 4] [--candidates 1]

Faster than real time is more than the codec's frame rate, which is printed beside.
"""

import argparse
import time
from pathlib import Path

import torch

from pscodec.synthesis import load_synthesiser
from pscodec.utils.errors import one_line_errors


@torch.inference_mode()
def speeds(model, text, frames):
    """`(with, without)` the cache, codes a second of one thread's processor time; `text` `[B, N]`, B candidates."""
    codes = torch.zeros(len(text), frames, dtype=torch.long)
    begin = time.process_time()
    begun = model.begin(text, codes[:, :0], frames)
    for frame in range(frames):
        begun.place = min(begun.place, begun.frames - 1 if begun.frames else begun.place)  # a sentence may be shorter
        model.step(begun, codes[:, frame])
    cached = time.process_time() - begin
    durations = torch.full_like(text, -(-frames // text.shape[1])) if model.aligned else None
    begin = time.process_time()
    for frame in range(0, frames, 10):  # each tenth stands for ten
        model._told(text, codes[:, :frame], durations)
    whole = 10 * (time.process_time() - begin)
    return frames / cached, frames / whole


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exp", type=Path, help="experiment folder of the synthesis recipe")
    parser.add_argument("--seconds", type=float, default=4.0, help="of speech (%(default)s)")
    parser.add_argument("--candidates", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    synthesiser = load_synthesiser(args.exp)
    rate = synthesiser.coder.model.frame_rate
    units = torch.randint(1, len(synthesiser.units), (1, round(12 * args.seconds)))
    cached, whole = speeds(synthesiser.first, units.expand(args.candidates, -1), round(args.seconds * rate))
    print(f"{cached:.0f} codes/s with the cache, {whole:.0f} without; {rate:g} are real time")


if __name__ == "__main__":
    main()
