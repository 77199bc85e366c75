"""Rates of errors of words and characters as metrics: of a signal, by what Whisper hears in it."""

import hashlib

import numpy as np

from pscodec.metrics import wer, whisper
from pscodec.metrics.base import MetricError

# wer, cer: against the text. dwer, dcer: against what is heard in the recording itself, where there is no text.
WORDS = {"wer": "words", "cer": "characters", "dwer": "words", "dcer": "characters"}


def missing(model):
    """What must be installed for `Words(model)`, in one line, or None. Raises UserError for what is no model."""
    return whisper.missing(model) or wer.missing()


class Words:
    """The metrics of WORDS by one `Whisper(model)`, which hears each signal once. Build one object a process."""

    def __init__(self, model):
        self.whisper, self.heard = whisper.Whisper(model), {}

    def __call__(self, name, ref, hyp, sample_rate, text=None, language=None):
        """`(errors / count, count)`, the count that of the reference's words or characters: rates of many signals are
        pooled by it. 0 is best. Raises MetricError where there is no text, or no words in it.

        Without a `language`, that of the recording is guessed once, and holds for the decoded signal, too.
        """
        language = language or self._guess(ref, sample_rate)
        if name.startswith("d"):
            text = self._hear(ref, sample_rate, language)
        if not text:
            raise MetricError("there is no text")
        count_errors = wer.word_errors if WORDS[name] == "words" else wer.character_errors
        errors, count = count_errors(text, self._hear(hyp, sample_rate, language), language)
        return errors / count, count

    def _hear(self, wav, sample_rate, language):
        return self._once((language,), wav, lambda: self.whisper(wav, sample_rate, language))

    def _guess(self, wav, sample_rate):
        return self._once(("guess",), wav, lambda: self.whisper.language(wav, sample_rate))

    def _once(self, what, wav, compute):
        """The text that `compute` gives of `wav`, computed once."""
        key = (*what, hashlib.sha1(np.ascontiguousarray(wav)).hexdigest())
        if key not in self.heard:
            self.heard[key] = compute()
        return self.heard[key]
