"""A trained codec in use: an experiment folder becomes something that codes speech."""

import hashlib
import math
from pathlib import Path

import torch

from pscodec.bitstream import Stream
from pscodec.data.audio import resample
from pscodec.features import FBank, LogMel
from pscodec.types import Prompt
from pscodec.utils.checkpoint import load_weights
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only


def load_codec(exp, which="best", device="cpu"):
    """The `Coder` of experiment folder `exp`, of its `best` (lowest validation score) or `last` checkpoint.

    Builds the codec alone: no discriminators, no optimizers, no training data. Raises UserError in one line.
    """
    exp = Path(exp)
    if not (exp / "hyperparams.yaml").is_file():
        raise UserError(f"{exp}: no hyperparams.yaml, so not an experiment")
    model = build_only((exp / "hyperparams.yaml").read_text(encoding="utf-8"), "codec")
    meta = load_weights(exp, {"codec": model}, which)
    return Coder(model.eval().to(device), meta)


class Coder:
    """Wraps a `Codec` for whole utterances. `meta` says which checkpoint it is (step, score)."""

    def __init__(self, model, meta=None):
        self.model, self.meta = model, meta or {}
        self.device = next(model.parameters()).device
        self.fingerprint = _fingerprint(model)
        self.bits = math.ceil(math.log2(model.codebook_size))
        self._fbank, self._mel = FBank(), LogMel(model.sample_rate)

    def prompt(self, wav, sample_rate):
        """The `Prompt` of an utterance `wav` `[1, L]`. Raises UserError below 25 ms."""
        if wav.shape[-1] < 0.025 * sample_rate:
            raise UserError("a prompt must be at least 25 ms long")
        fbank = self._fbank(resample(wav, sample_rate, FBank.sample_rate))
        mel = self._mel(resample(wav, sample_rate, self.model.sample_rate))
        return Prompt(fbank=fbank[None], mel=mel)

    @torch.inference_mode()
    def encode(self, wav, sample_rate, prompt):
        """`wav` `[1, L]` and the speaker's `prompt` (types.Prompt; None: without one) -> bitstream.Stream."""
        wav = resample(wav, sample_rate, self.model.sample_rate)
        codes = self.model.encode(wav[None].to(self.device))[0]
        side = self.model.side(prompt and prompt.to(self.device))
        side = {name: z.flatten().half().cpu().numpy() for name, z in side.items()}
        return Stream(
            codes.cpu().numpy(),
            wav.shape[-1],
            self.model.sample_rate,
            self.model.hop_length,
            self.bits,
            self.fingerprint,
            side,
        )

    @torch.inference_mode()
    def decode(self, stream):
        """bitstream.Stream -> `wav` `[1, n_samples]` at the codec's rate. UserError for another model's stream."""
        if stream.fingerprint != self.fingerprint:
            raise UserError(f"coded by model {stream.fingerprint.hex()}, this is model {self.fingerprint.hex()}")
        codes = torch.from_numpy(stream.codes).to(self.device)[None]
        side = {k: torch.from_numpy(v.copy()).float().to(self.device)[None, :, None] for k, v in stream.side.items()}
        return self.model.decode(codes, side, stream.n_samples)[0].cpu()


def _fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()[:8]
