"""Text as a speech synthesiser sees it: normalised, then cut into units, each an integer.

Three kinds of units: `pieces` and `characters`, by a SentencePiece model of the corpus's own text, which assumes no
language, and `phonemes`, by phonemizer with espeak-ng, of a language that is named.
"""

import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from pscodec.data.kaldi import read_data_dir
from pscodec.utils.errors import UserError
from pscodec.utils.files import atomic_path, write_text

KINDS = ("pieces", "characters", "phonemes")
NOTE, MODEL = "units.json", "pieces.model"
PAD = 0  # beside shorter texts; units count from 1


def normalise(text):
    """NFKC, lower case, one space between words. Numbers and abbreviations stay as they are written: to read them out
    is a matter of languages."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def texts_of(folder):
    """Utterance -> text of a data dir, for those that have one. Raises UserError where none has."""
    texts = {utt: u.text for utt, u in read_data_dir(folder).items() if u.text and u.text.strip()}
    if not texts:
        raise UserError(f"{folder}: no utterance has a text (file `text`)")
    return texts


@dataclass
class Units:
    """A text's units. `symbols` are phonemes, `model` a SentencePiece model; `language` is espeak-ng's name of it."""

    kind: str
    symbols: tuple[str, ...] = ()
    language: str | None = None
    model: bytes = b""

    def __post_init__(self):
        if self.kind == "phonemes":
            self.numbers = {symbol: i for i, symbol in enumerate(self.symbols, 1)}
            self.phonemiser = Phonemiser(self.language)
        else:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def __len__(self):
        """How many there are, PAD with them."""
        return 1 + (len(self.symbols) if self.kind == "phonemes" else len(self.pieces))

    def __call__(self, text: str) -> list[int]:
        """Raises UserError for an empty text, and for what the units have no symbol for."""
        text = normalise(text)
        if not text:
            raise UserError("an empty text")
        if self.kind == "phonemes":
            phonemes = self.phonemiser([text])[0]
            unknown = [p for p in phonemes if p not in self.numbers]
            units = [self.numbers[p] for p in phonemes if p in self.numbers]
        else:
            found = [(i, self.pieces.id_to_piece(i), p) for i, p in self._encoded(text)]
            unknown = [surface for i, _, surface in found if i == self.pieces.unk_id()]
            units = [1 + i for i, _, _ in found]
        if unknown:
            raise UserError(f"{unknown[0]!r} in {text!r}: not among the {self.kind} of the texts that were trained on")
        if not units:
            raise UserError(f"{text!r}: nothing of it is spoken")
        return units

    def _encoded(self, text):
        ids, surfaces = self.pieces.encode(text, out_type=int), self.pieces.encode(text, out_type=str)
        return zip(ids, surfaces, strict=True)

    @property
    def fingerprint(self):
        """Of what a text becomes, hex."""
        told = json.dumps([self.kind, self.language, self.symbols], ensure_ascii=False).encode() + self.model
        return hashlib.sha256(told).hexdigest()[:16]

    def save(self, folder):
        """Into `folder`: a note, and the SentencePiece model."""
        folder = Path(folder)
        if self.model:
            with atomic_path(folder / MODEL) as partial:
                partial.write_bytes(self.model)
        note = {"kind": self.kind, "language": self.language, "symbols": list(self.symbols)}
        write_text(folder / NOTE, json.dumps(note, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, folder):
        """What `save` wrote. Raises UserError."""
        folder = Path(folder)
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            model = (folder / MODEL).read_bytes() if note["kind"] != "phonemes" else b""
            return cls(note["kind"], tuple(note["symbols"]), note["language"], model)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{folder}: no text units; stage 2 (pscodec.bin.text_units) makes them ({error})") from None


def learn_units(texts, kind="pieces", size=200, language="en-us"):
    """The `Units` of a list of texts: at most `size` pieces, or all characters, or all phonemes of `language`."""
    texts = [normalise(text) for text in texts]
    if kind not in KINDS:
        raise UserError(f"text units are {', '.join(KINDS)}, not {kind!r}")
    if kind == "phonemes":
        found = {symbol for phonemes in Phonemiser(language)(texts) for symbol in phonemes}
        return Units(kind, tuple(sorted(found)), language)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="char" if kind == "characters" else "unigram",
            vocab_size=size if kind == "pieces" else 8000,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"SentencePiece: {str(error).splitlines()[-1].strip()}") from None
    return Units(kind, model=model.getvalue())


class Phonemiser:
    """Texts -> lists of IPA symbols without stress, `_` between words, punctuation kept; by phonemizer with espeak-ng.

    Raises UserError without them, and for a language that espeak-ng does not have.
    """

    def __init__(self, language):
        try:
            from phonemizer.backend import EspeakBackend
            from phonemizer.logger import get_logger
            from phonemizer.punctuation import Punctuation
            from phonemizer.separator import Separator
        except ImportError:
            raise UserError("phonemes need the package phonemizer: pip install pscodec[tts]") from None
        self.marks = f"([{re.escape(Punctuation.default_marks())}])"
        self.separator = Separator(phone=" ", word=" _ ")
        try:
            quiet = get_logger(verbosity="quiet")  # what it counts words for is of no use here
            self.backend = EspeakBackend(language, preserve_punctuation=True, logger=quiet)
        except RuntimeError as error:
            raise UserError(f"phonemes of {language}: {error}") from None

    def __call__(self, texts):
        lines = self.backend.phonemize(texts, separator=self.separator, strip=True)
        return [re.sub(self.marks, r" \1 ", line).split() for line in lines]
