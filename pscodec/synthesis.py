"""Trained models of text and codes in use: a sentence and a recording of a voice become speech.

    synthesiser = pscodec.load_synthesiser("exp/vallE_mini")
    wav = synthesiser("A sentence.", "alice.wav").wav          # [1, L] at synthesiser.sample_rate

The voice comes from the prompt twice: by what the codec itself sends of a speaker (PSCodec's vectors, TiCodec's
tokens), and, where the models go on from it (`continue_prompt`), by its codes and its text before the sentence.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from ruamel.yaml import YAML
from torch import Tensor

from pscodec.bitstream import Stream
from pscodec.data.audio import load_audio
from pscodec.data.text import Units
from pscodec.downstream.sampling import Sampling, write_codes
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only
from pscodec.utils.weights import load_weights

LONGEST = 20.0  # seconds that a sentence may become


@dataclass
class Spoken:
    """`wav` `[1, L]` and its `codes` `[K, T]`; `ended`: whether the model ended it, and did not run into the limit;
    `worth`: nats a code, on average, of the first codebook."""

    wav: Tensor
    codes: Tensor
    ended: bool
    worth: float


@dataclass
class Voice:
    """A prompt, heard: `header` with what the codec sends of it, its `codes` `[1, K, P]` and text `units`."""

    header: object
    codes: Tensor
    units: list[int]


def load_synthesiser(exp, which="best", device="cpu", codec=None, continue_prompt=None):
    """The `Synthesiser` of experiment folder `exp` of the synthesis recipe, with its models in `ar` and, for codes of
    several codebooks, `nar`.

    `which` checkpoint: `best` or `last`. `codec`: where that has moved. `continue_prompt`: see above (None: as it was
    trained). Raises UserError in one line: no such experiment, models that do not belong together, a codec with other
    weights.
    """
    exp = Path(exp)
    keys, first, meta = _model(exp / "ar", which, device)
    coder = load_codec(codec or keys["codec"], device=device)
    if coder.fingerprint.hex() != keys["codec_fingerprint"]:
        raise UserError(f"{codec or keys['codec']}: not the codec whose codes {exp} was trained on")
    rest = None
    if keys["n_q"] > 1:
        theirs, rest, _ = _model(exp / "nar", which, device)
        for name in ("codec_fingerprint", "units_fingerprint", "n_q"):
            if keys[name] != theirs[name]:
                raise UserError(f"{exp}: its two models were trained on different things ({name})")
    if continue_prompt is None:
        continue_prompt = keys["continue_prompt"]
    if continue_prompt and first.aligned:
        raise UserError(f"{exp}: an aligned model does not go on from a prompt (continue_prompt: false)")
    return Synthesiser(first, rest, Units.load(exp / "ar/units"), coder, keys["n_q"], continue_prompt, meta)


def _model(exp, which, device):
    path = exp / "hyperparams.yaml"
    if not path.is_file():
        raise UserError(f"{exp}: no hyperparams.yaml, so not a model of the synthesis recipe")
    text = path.read_text(encoding="utf-8")
    model = build_only(text, "valle")
    meta = load_weights(exp, {"valle": model}, which)
    return YAML().load(text), model.to(device).eval(), meta


class Synthesiser:
    """`first` and `rest` are downstream.valle's models (`rest` None with one codebook), `units` the text's, `coder` the
    codec, `n_q` the codebooks; `meta`: of the first model's checkpoint (step, score)."""

    def __init__(self, first, rest, units, coder, n_q, continue_prompt, meta=None):
        self.first, self.rest, self.units, self.coder = first, rest, units, coder
        self.continue_prompt, self.meta = continue_prompt, meta or {}
        self.sample_rate, self.device = coder.model.sample_rate, coder.device
        self.coder.model.quantizer.n_q = n_q

    def hear(self, prompt, text=None) -> Voice:
        """The `Voice` of a recording, a path or (wav, sample rate), and of its `text`, which is needed where codes go
        on from the prompt's. Raises UserError."""
        recording = load_audio(prompt) if isinstance(prompt, str | Path) else prompt
        codes, units = torch.zeros(1, self.coder.model.n_q, 0, dtype=torch.long), []
        if self.continue_prompt:
            if text is None:
                raise UserError("the models go on from the prompt, so they need its text (--prompt-text)")
            units = self.units(text)
            codes = torch.from_numpy(self.coder.encode(*recording, None).codes)[None].long()
        return Voice(self.coder.header(recording), codes.to(self.device), units)

    @torch.inference_mode()
    def __call__(self, text, voice, sampling=None, seed=0, longest=LONGEST) -> Spoken:
        """`text` spoken by `voice`: what `hear` gave, or the path of a recording. The same `seed` gives the same.
        Raises UserError for a text that is empty, or of symbols that training did not have."""
        voice = voice if isinstance(voice, Voice) else self.hear(voice)
        units = torch.tensor([voice.units + self.units(text)], device=self.device)
        rng = torch.Generator(self.device).manual_seed(seed)
        most = max(1, int(longest * self.coder.model.frame_rate))
        first, ended, worth = write_codes(self.first, units, voice.codes[:, 0], sampling or Sampling(), rng, most)
        codes = first[None] if self.rest is None else self.rest.fill(units, first[None], voice.codes)[0]
        return Spoken(self.say(codes, voice.header), codes, ended, worth)

    def say(self, codes, header):
        """Codes `[K, T]`, in the voice of a header -> `[1, L]`."""
        stream = Stream(header, codes.cpu().numpy(), codes.shape[1] * self.coder.model.hop_length)
        return self.coder.decode(stream)
