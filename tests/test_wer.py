"""WER and CER worked out by hand, and Whisper's transcripts of real recordings."""

import pytest
import torch

from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.metrics import whisper
from pscodec.metrics.base import MetricError
from pscodec.metrics.wer import cer, normalise, wer, word_errors
from pscodec.metrics.whisper import Whisper
from pscodec.utils.errors import UserError

SAID = "The conference cannot be extended."


def test_word_errors_by_hand():
    # b -> x, d left out, e put in twice: 1 substitution, 1 deletion, 2 insertions of 4 words
    assert word_errors("a b c d", "e a x e c") == (4, 4)
    assert wer("a b c d", "e a x e c") == 1.0
    assert wer("red green blue black", "red green blue") == 0.25
    assert wer(["a b c d", "a"], ["a b c d", "b"]) == 1 / 5  # pooled, not the mean of 0 and 1
    assert wer("a", "b c d") == 3.0


def test_character_errors_by_hand():
    assert cer("abc de", "abd de") == pytest.approx(1 / 6)  # the space counts
    assert cer("你好 世界", "你好世間", "zh") == 1 / 4  # there none does
    assert wer("你好世界", "你好世間", "zh") == 1 / 4  # and each character is a word


def test_what_is_not_heard_does_not_count():
    assert normalise("Mr. Smith can't pay twenty-five dollars!") == normalise("mister smith can not pay $25")
    assert wer("C’est là, déjà.", "c'est là déjà", "fr") == 0.0
    assert wer("C'est là", "c'est la", "fr") > 0.0  # accents are heard
    assert normalise("हिन्दी", "hi") == "हिन्दी"  # vowel signs stay


def test_empty_texts():
    assert wer("a b", "") == 1.0
    with pytest.raises(MetricError, match="no words"):
        wer("...", "a")
    with pytest.raises(ValueError, match="2 references"):
        wer(["a", "b"], ["a"])


@pytest.fixture(scope="module")
def tiny():
    return Whisper("tiny.en")


@pytest.fixture(scope="module")
def recording(mini_corpus):
    return mini_corpus / "en_US_f_Allison/conf-nonextended.wav"


def test_a_recording_is_written_down_at_any_rate(tiny, recording, tmp_path):
    wav, rate = load_audio(recording)
    for other in (8000, 24000):
        save_audio(tmp_path / f"{other}.wav", resample(wav, rate, other), other)
    heard = [tiny.transcribe(path) for path in (recording, *sorted(tmp_path.glob("*.wav")))]
    assert [wer(SAID, text) for text in heard] == [0.0, 0.0, 0.0]
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    assert wer(SAID, tiny(wav + 3 * wav.std() * noise, rate)) > 0.2


def test_silence_has_no_words(tiny):
    assert tiny(torch.zeros(1, 16000), 16000) == ""
    with pytest.raises(MetricError, match="NaN"):
        tiny(torch.full((1, 16000), float("nan")), 16000)


def test_languages(tiny, mini_corpus):
    assert tiny.languages == ["en"]
    with pytest.raises(MetricError, match="does not know the language fr"):
        tiny(torch.ones(1, 16000), 16000, "fr")
    base = Whisper("base")
    path = mini_corpus / "fr_CA_f_June/conf-noempty.wav"
    assert wer(path.with_suffix(".txt").read_text(), base.transcribe(path, "fr"), "fr") == 0.0


def test_weights_are_checked_and_named(monkeypatch):
    name, parts = "tiny.en", whisper.MODELS["tiny.en"].parts
    monkeypatch.setitem(whisper.MODELS, name, whisper.Published(parts, "0" * 64))
    with pytest.raises(UserError, match="not those that were published"):
        Whisper(name)
    monkeypatch.setitem(whisper.MODELS, name, whisper.Published(("no_such_models/model.bin",), "0" * 64))
    with pytest.raises(UserError, match=r"no-such-models is not installed; pip install 'pscodec\[scores\]'"):
        Whisper(name)
    with pytest.raises(UserError, match="there are tiny.en, base"):
        Whisper("tinny")


def test_another_models_folder(tmp_path):
    for name, data in whisper.read_published("tiny.en").items():
        (tmp_path / name).write_bytes(data)
    assert Whisper(tmp_path).languages == ["en"]
    (tmp_path / "model.bin").write_bytes(b"no")
    with pytest.raises(UserError, match="not a model of Whisper"):
        Whisper(tmp_path)
