"""WER and CER: how much of what is said is heard, by a speech recogniser's transcript (metrics/whisper.py)."""

import functools

from pscodec.metrics.base import MetricError
from pscodec.utils.errors import UserError
from pscodec.utils.packages import lacking

SPACELESS = ("zh", "yue", "ja", "th", "lo", "my")  # languages that are written without spaces between words


def wer(ref, hyp, language="en"):
    """Word error rate: (substitutions + deletions + insertions) / words of `ref`, after `normalise`. 0 is best; it can
    pass 1. Of two texts, or of two lists of as many, whose errors and words are summed first (pooled).

    Raises MetricError where nothing is left of `ref`.
    """
    errors, words = word_errors(ref, hyp, language)
    return errors / words


def cer(ref, hyp, language="en"):
    """Character error rate, as `wer`; the spaces between words count."""
    errors, characters = character_errors(ref, hyp, language)
    return errors / characters


def word_errors(ref, hyp, language="en"):
    """`(errors, words of the reference)` of two texts, or lists of texts."""
    return _errors("process_words", ref, hyp, language)


def character_errors(ref, hyp, language="en"):
    """`(errors, characters of the reference)` of two texts, or lists of texts."""
    return _errors("process_characters", ref, hyp, language)


def _errors(process, ref, hyp, language):
    refs, hyps = ([texts] if isinstance(texts, str) else texts for texts in (ref, hyp))
    if len(refs) != len(hyps):
        raise ValueError(f"{len(refs)} references, {len(hyps)} transcripts")
    refs, hyps = ([normalise(text, language) for text in texts] for texts in (refs, hyps))
    if process == "process_characters" and language in SPACELESS:
        refs, hyps = ([text.replace(" ", "") for text in texts] for texts in (refs, hyps))
    if not all(refs):
        raise MetricError("the reference has no words")
    import jiwer

    counts = getattr(jiwer, process)(refs, hyps)
    errors = counts.substitutions + counts.deletions + counts.insertions
    return errors, counts.hits + counts.substitutions + counts.deletions


def normalise(text, language="en"):
    """`text` without what is not heard, as Whisper's paper compares (appendix C): case, punctuation, and in English
    spellings, contractions and numbers; in languages written without spaces each character is a word."""
    words = _normaliser(language)(text).split()
    return " ".join(word for word in words if any(map(str.isalnum, word)))  # the English one leaves a last full stop


@functools.lru_cache(maxsize=8)
def _normaliser(language):
    if why := missing():
        raise UserError(why)
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    if language == "en":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=language in SPACELESS, preserve_marks=True)


def missing():
    """What must be installed, in one line, or None."""
    return lacking(["jiwer", "whisper_normalizer"], "scores")
