"""Figure 2 of the TiCodec paper: whether the parts of an utterance have one time-invariant code.

    python -m pscodec.bin.invariance --exp exp/ticodec exp/ticodec_consistency --split test --out exp/figure2

Takes m, and its tokens, of every utterance of the split, of its first and of its last half. Writes OUT.tsv (a row an
utterance: cosines of the m of two parts, shares of tokens that they have in common), OUT.md (means with 95 % intervals)
and OUT.light.png, OUT.dark.png.
"""

from itertools import combinations

import torch
import torch.nn.functional as F

from pscodec.bin.figures import compare
from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.progress import progress

PAIRS = list(combinations(("whole", "first", "last"), 2))
MEASURES = ("cosine", "tokens")
COLUMNS = [f"{measure}_{a}_{b}" for measure in MEASURES for a, b in PAIRS]


@torch.inference_mode()
def agreement(codec, wav):
    """`{column: number}` of an utterance `wav` `[1, 1, L]` at the codec's rate."""
    half = wav.shape[2] // 2
    parts = {"whole": wav, "first": wav[:, :, :half], "last": wav[:, :, half:]}
    m = {name: codec.tire(codec.encoder.tap(codec.pad(part))) for name, part in parts.items()}
    tokens = {name: codec.group_quantizer(vector).codes for name, vector in m.items()}
    row = {f"cosine_{a}_{b}": F.cosine_similarity(m[a], m[b], dim=1).item() for a, b in PAIRS}
    return row | {f"tokens_{a}_{b}": (tokens[a] == tokens[b]).float().mean().item() for a, b in PAIRS}


def measure(exp, folder, checkpoint, allow_pipes, device):
    """`{utt: row}` of one experiment. Raises UserError for a codec without time-invariant codes."""
    coder = load_codec(exp, checkpoint, device, precision=None)
    if not hasattr(coder.model, "tire"):
        raise UserError(f"{exp}: this codec has no time-invariant code")
    rows = {}
    for utt, u in progress(read_data_dir(folder, allow_pipes).items(), f"parts of {folder}"):
        wav, rate = load_audio(u.path, None, u.start, u.end)
        rows[utt] = agreement(coder.model, resample(wav, rate, coder.model.sample_rate)[None].to(coder.device))
    return rows


def panels(means):
    """One for each measure, a group for each pair of parts, a bar for each experiment."""
    titles = zip(MEASURES, ("cosine of m", "share of equal tokens"), strict=True)
    return {
        title: {" and ".join(pair): _bars(means, f"{kind}_{'_'.join(pair)}") for pair in PAIRS}
        for kind, title in titles
    }


def _bars(means, column):
    return {name: (row[column]["mean"], row[column]["ci95"]) for name, row in means.items()}


@one_line_errors
def main(argv=None):
    compare(__doc__, argv, measure, {column: column for column in COLUMNS}, panels)


if __name__ == "__main__":
    main()
