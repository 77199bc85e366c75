"""Figure 7 of the PSCodec paper: how alike the encoded features are, with and without DRL.

    python -m pscodec.bin.latents --exp exp/with exp/without --data data --split test --out exp/figure7

Computes eq. (3), SSIM(Z_i, Z_j), for each pair of z_q, z_vp and z_mel of every utterance of the split, with its normal
prompt and its whole length. Writes OUT.tsv (a row an utterance), OUT.md (means with 95 % intervals) and
OUT.light.png, OUT.dark.png. Lower is less redundant; below zero the features are opposed, which is no independence.
"""

from itertools import combinations

import torch

from pscodec.bin.figures import compare
from pscodec.data.audio import load_audio
from pscodec.data.prompts import Prompts
from pscodec.inference import load_codec
from pscodec.losses.disentangle import ssim
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress

LATENTS = ("z_q", "z_vp", "z_mel")
PAIRS = {f"{a}_{b}": (a, b) for a, b in combinations(LATENTS, 2)}  # columns
TITLES = {name: f"SSIM({a}, {b})" for name, (a, b) in PAIRS.items()}


@torch.inference_mode()
def latents(coder, wav, sample_rate, prompt):
    """`z_q` `[1, D, T]`, and `z_vp`, `z_mel` `[1, D, 1]` where the codec has them, of `wav` `[1, L]`. Of several
    vectors the mean is taken."""
    model = coder.model
    stream = coder.encode(wav, sample_rate, None)
    z_q = model.quantizer.decode(torch.from_numpy(stream.codes)[None].to(coder.device))
    side = model.side(prompt.to(coder.device))
    return {"z_q": z_q, **{name: z.mean(2, keepdim=True) for name, z in side.items()}}


def similarities(found):
    """SSIM (the paper's c1 and c2) of each pair in `PAIRS` whose two latents are in `found`."""
    return {name: ssim(found[a], found[b]).item() for name, (a, b) in PAIRS.items() if a in found and b in found}


def measure(exp, folder, checkpoint, allow_pipes, device):
    """`{utt: {pair: SSIM}}` of one experiment. Raises UserError for a codec without prompts."""
    coder = load_codec(exp, checkpoint, device)
    if not coder.model.takes_prompt:
        raise UserError(f"{exp}: this codec has no prompt features to compare")
    prompts, scores = Prompts(folder, coder.model.sees, coder.prompt, allow_pipes), {}
    for utt, u in progress(prompts.utterances.items(), f"latents of {exp.name}"):
        if prompts.source(utt) is None:
            print(f"left out: {utt}: its prompt has no features")
            continue
        wav, rate = load_audio(u.path, None, u.start, u.end)
        scores[utt] = similarities(latents(coder, wav, rate, prompts.of(utt)))
    if not any(scores.values()):
        raise UserError(f"{exp}: no two features to compare in {folder}")
    return scores


def panels(means):
    """One, with a group for each pair of features and a bar for each experiment that has both."""
    groups = {
        TITLES[pair]: {name: (row[pair]["mean"], row[pair]["ci95"]) for name, row in means.items() if row[pair]["n"]}
        for pair in PAIRS
    }
    return {"SSIM, eq. (3)": groups}


@one_line_errors
def main(argv=None):
    compare(__doc__, argv, measure, TITLES, panels)


if __name__ == "__main__":
    main()
