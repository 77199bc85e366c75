#!/usr/bin/env python3
"""Whether a separator of embeddings holds on mixtures longer than the segments that it was trained on.

    python tools/bench/separation_length.py --exp EXP --data data/NAME/test [--seconds 2 4 12] [--number 20]

Talkers of the folder's clean speech are paired; utterances of each are joined until the longest time is full, at the
same active level. The same mixtures are separated as a whole, cut at each length. Prints the loss between two guesses
that need no separator (0: the mean of the sources for each, 1: the mixture) and the gain in STOI over the mixture,
means over mixtures with 95 % intervals.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch

from pscodec.data.kaldi import read_data_dir
from pscodec.data.levels import active_level
from pscodec.data.mixture import fit, joint_gain, level_gain, load_source, read_mixtures, talkers
from pscodec.losses.separation import EmbeddingLoss, ordered
from pscodec.metrics.stoi import stoi
from pscodec.metrics.summary import mean_ci
from pscodec.separation import load_separator
from pscodec.types import Separation
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress


@one_line_errors
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="experiment of a separator")
    parser.add_argument("--data", required=True, type=Path, help="a folder of mixtures, whose clean speech is taken")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 4.0, 12.0])
    parser.add_argument("--number", type=int, default=20, help="mixtures (%(default)s)")
    args = parser.parse_args()
    unmixer = load_separator(args.exp)
    if not unmixer.in_embedding:
        raise UserError(f"{args.exp}: not a separator of embeddings")
    rows = {seconds: ([], []) for seconds in args.seconds}
    for sources in progress(list(mixtures(args, unmixer.sample_rate)), "separate", args.number):
        for seconds, (relative, gains) in rows.items():
            loss, gain = separate(unmixer, sources[:, : round(seconds * unmixer.sample_rate)])
            relative.append(loss)
            gains.append(gain)
    print(f"{args.exp}, {args.number} mixtures\nseconds  loss               STOI gain")
    for seconds, found in rows.items():
        loss, gain = (mean_ci(values) for values in found)
        print(f"{seconds:7g}  {loss['mean']:.3f} ± {loss['ci95']:.3f}  {gain['mean']:.3f} ± {gain['ci95']:.3f}")


def mixtures(args, sample_rate):
    """Sources `[2, L]` of `max(seconds)` of two talkers each, all pairs equally often."""
    _, meta = read_mixtures(args.data)
    utterances = read_data_dir(meta["clean"])
    heard = {}
    for utt, name in talkers(utterances, meta.get("one_speaker", ())).items():
        heard.setdefault(name, []).append(utt)
    names = sorted(heard)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    rng, length = random.Random(0), round(max(args.seconds) * sample_rate)
    for i in range(args.number):
        wavs = []
        for name in pairs[i % len(pairs)]:
            parts = []
            while sum(len(part) for part in parts) < length:
                parts.append(load_source(utterances[rng.choice(heard[name])], sample_rate)[0])
            wav = torch.cat(parts)
            wavs.append(level_gain(active_level(wav[None], sample_rate)[0]) * fit(wav, 0, length))
        sources = torch.stack(wavs)
        yield sources * joint_gain(sources, always=True)


@torch.inference_mode()
def separate(unmixer, sources):
    """(loss between the two guesses, gain in STOI) of the mixture of `sources` `[2, L]`."""
    mix, rate = sources.sum(0), unmixer.sample_rate
    z_mix, z_sources, frames = unmixer.frozen.embed(mix[None, None], sources[None])
    separation = Separation(unmixer.system.separator(z_mix), z_sources, frames, z_mix)
    loss, order = EmbeddingLoss()(separation)
    mean, mixture = EmbeddingLoss().trivial(separation)
    z = ordered(separation.estimates, order)
    wavs = unmixer.frozen.decode(z, {}, len(mix), unmixer.frozen.scale(mix[None, None]))[0]
    refs, hyps, mix = (x.double().numpy() for x in (sources, wavs, mix))
    gain = np.mean([stoi(ref, hyp, rate) - stoi(ref, mix, rate) for ref, hyp in zip(refs, hyps, strict=True)])
    return ((loss - mean) / (mixture - mean)).item(), float(gain)


if __name__ == "__main__":
    main()
