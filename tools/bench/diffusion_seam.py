#!/usr/bin/env python3
"""Whether one hears where the windows of a LaDiffCodec meet: recordings generated as one and in windows.

    python tools/bench/diffusion_seam.py --exp EXP --data data/NAME/test [--seconds 16] [--number 10] [--steps 10]

Utterances of a speaker are joined until the time is full, coded, and generated from the same noise twice: in windows,
and as one. Prints, in standard deviations of the latents: how far the two are apart, within the stretches that two
windows share and outside; how far two samples from other noise are apart; and how much a latent changes from frame to
frame, in those stretches and outside. Then PESQ and STOI of both against the recording. Means over recordings with 95 %
intervals.
"""

import argparse
import itertools
from pathlib import Path

import torch

from pscodec.commands.many import add_sampling, sampling
from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.inference import load_codec
from pscodec.metrics.pesq import pesq
from pscodec.metrics.stoi import stoi
from pscodec.metrics.summary import format_mean, mean_ci
from pscodec.models.ladiffcodec import LaDiffCodec
from pscodec.models.sampling import Sampling
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="experiment of a LaDiffCodec")
    parser.add_argument("--data", required=True, type=Path, help="a data dir")
    parser.add_argument("--seconds", type=float, default=16.0, help="of a recording (%(default)s)")
    parser.add_argument("--number", type=int, default=10, help="recordings (%(default)s)")
    parser.add_argument("--device", default="cpu")
    add_sampling(parser)
    args = parser.parse_args(argv)
    coder = load_codec(args.exp, device=args.device, sampling=dict(sampling(args)))
    if not isinstance(coder.model, LaDiffCodec):
        raise UserError(f"{args.exp}: not a LaDiffCodec")
    rows = []
    for wav in progress(list(recordings(args, coder.model.sample_rate)), "generate"):
        rows.append(compare(coder, wav))
    model = coder.model
    window, shared = (frames / model.autoencoder.frame_rate for frames in (model.window, model.shared))
    print(f"{len(rows)} recordings of {args.seconds:g} s, windows of {window:.2f} s that share {shared:.2f} s")
    for name in rows[0]:
        print(f"{name:52s} {format_mean(mean_ci([row[name] for row in rows]))}")


def recordings(args, sample_rate):
    """`[1, L]` of one speaker each, speakers taking turns."""
    speakers, length = {}, round(args.seconds * sample_rate)
    for utterance in read_data_dir(args.data).values():
        speakers.setdefault(utterance.spk, []).append(utterance)
    found = []
    for utterances in speakers.values():
        parts = []
        for u in utterances:
            wav, rate = load_audio(u.path, None, u.start, u.end)
            parts.append(resample(wav.mean(0, keepdim=True), rate, sample_rate))
            if sum(part.shape[1] for part in parts) >= length:
                found.append(torch.cat(parts, 1)[:, :length])
                break
        if len(found) == args.number:
            return found
    raise UserError(f"{args.data}: {len(found)} speakers have {args.seconds:g} s, not {args.number}")


@torch.inference_mode()
def compare(coder, wav):
    """Distances and scores of one recording, `{what: number}`."""
    model = coder.model
    window, shared = model.window, model.shared
    prompt = coder.prompt(wav.cpu(), model.sample_rate).to(coder.device)
    codes = model.encode(model.pad(wav[None].to(coder.device)))
    side = model.side(prompt)
    heard = model.upsampler(model.discrete.fuse(model.quantizer.decode(codes), side))
    if heard.shape[-1] <= window:
        raise UserError(f"a recording of {heard.shape[-1]} frames is one window of {window}: more --seconds")
    other = Sampling(**{**vars(model.sampling), "seed": model.sampling.seed + 1})
    pieces = model.generate(heard)
    model.window = heard.shape[-1]
    try:
        whole, another = model.generate(heard), model.generate(heard, other)
    finally:
        model.window = window
    length = heard.shape[-1]
    seam = torch.zeros(length, dtype=torch.bool)
    starts = [min(start, length - window) for start in range(0, length - shared, window - shared)]
    for one, following in itertools.pairwise(starts):  # the last window ends with the recording
        seam[following : one + window] = True
    apart = (pieces - whole).square().mean((0, 1)).sqrt().cpu()
    steps = {
        name: (z[..., 1:] - z[..., :-1]).square().mean((0, 1)).sqrt().cpu()
        for name, z in (("windows", pieces), ("one", whole))
    }
    row = {
        "windows from one, where they overlap": apart[seam].mean(),
        "windows from one, elsewhere": apart[~seam].mean(),
        "one from another sample": (whole - another).square().mean((0, 1)).sqrt().mean(),
        "from frame to frame in windows, where they overlap": steps["windows"][seam[1:]].mean(),
        "from frame to frame in windows, elsewhere": steps["windows"][~seam[1:]].mean(),
        "from frame to frame in one, at the same places": steps["one"][seam[1:]].mean(),
    }
    row = {name: value.item() for name, value in row.items()}
    ref = wav[0].double().numpy()
    for name, z in (("windows", pieces), ("one", whole)):
        hyp = model.decoder(model.synthesis @ z + model.mean)[0, 0, : len(ref)].double().cpu().numpy()
        row |= {f"PESQ, {name}": pesq(ref, hyp, model.sample_rate), f"STOI, {name}": stoi(ref, hyp, model.sample_rate)}
    return row


if __name__ == "__main__":
    main()
