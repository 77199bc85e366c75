"""Kaldi data folders and archives: what is read, what is written, and what is refused in one line."""

import io
import pickle

import kaldiio
import numpy as np
import pytest
import soundfile

from pscodec.data.audio import Pipe
from pscodec.data.kaldi import (
    Utterance,
    choose_prompts,
    load_matrices,
    read_data_dir,
    read_table,
    validate_data_dir,
    write_data_dir,
    write_table,
)
from pscodec.utils.errors import UserError


def put(folder, **tables):
    """Write tables as they are: `wav_scp` becomes wav.scp."""
    folder.mkdir(exist_ok=True)
    for name, text in tables.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def audio(tmp_path):
    """Four recordings of 1, 2, 3 and 4 s at 8 kHz: r1.wav ..."""
    for n in (1, 2, 3, 4):
        soundfile.write(tmp_path / f"r{n}.wav", np.full(8000 * n, 0.1), 8000)
    return tmp_path


@pytest.fixture
def good(audio):
    """A sound data folder of two speakers: a-1, a-2 and b-1."""
    return put(
        audio / "d",
        wav_scp=f"a-1 {audio}/r1.wav\na-2 {audio}/r2.wav\nb-1 {audio}/r3.wav\n",
        utt2spk="a-1 a\na-2 a\nb-1 b\n",
        spk2utt="a a-1 a-2\nb b-1\n",
        text="a-1 one\na-2 two  words\nb-1\n",
        utt2dur="a-1 1.0\na-2 2.0\nb-1 3.0\n",
        utt2prompt="a-1 a-2\na-2 a-1\nb-1 b-1\n",
    )


def test_read(good, audio):
    found = read_data_dir(good)
    assert list(found) == ["a-1", "a-2", "b-1"]
    assert found["a-2"] == Utterance("a-2", "a", f"{audio}/r2.wav", 2.0, "two  words", 0.0, None)
    assert found["b-1"].text == ""
    assert validate_data_dir(good) == found


def test_durations_come_from_headers_and_text_is_optional(good):
    for name in ("utt2dur", "text", "spk2utt", "utt2prompt"):
        (good / name).unlink()
    found = validate_data_dir(good)
    assert [u.duration for u in found.values()] == [1.0, 2.0, 3.0] and found["a-1"].text is None


def test_relative_paths_are_of_the_current_folder(good, audio, monkeypatch):
    put(good, wav_scp="a-1 r1.wav\na-2 r2.wav\nb-1 r3.wav\n")
    with pytest.raises(UserError, match="r1.wav"):
        validate_data_dir(good)
    monkeypatch.chdir(audio)
    assert validate_data_dir(good)["a-1"].path == "r1.wav"


def test_segments(audio):
    folder = put(
        audio / "s",
        wav_scp=f"rec1 {audio}/r4.wav\nrec2 {audio}/r2.wav\n",
        segments="u1 rec1 0.5 1.25\nu2 rec1 1.25 3.25\nu3 rec2 0.5 -1\n",
        utt2spk="u1 s\nu2 s\nu3 s\n",
    )
    found = validate_data_dir(folder)
    cuts = [(u.start, u.end, u.duration) for u in found.values()]
    assert cuts == [(0.5, 1.25, 0.75), (1.25, 3.25, 2.0), (0.5, None, 1.5)]
    assert found["u2"].path == f"{audio}/r4.wav"
    # What is written of it reads the same.
    write_data_dir(audio / "copy", found)
    again = validate_data_dir(audio / "copy")
    assert {u.utt: (u.path, u.start, u.start + u.duration) for u in again.values()} == {
        u.utt: (u.path, u.start, u.start + u.duration) for u in found.values()
    }
    assert (audio / "copy/segments").read_text().splitlines()[2] == "u3 u3 0.5000 2.0000"


BROKEN = [
    ({"wav_scp": "a-1 {a}/r1.wav\na-1 {a}/r2.wav\n"}, ["wav.scp:2", "a-1 comes twice"]),
    ({"wav_scp": "a-1 {a}/r1.wav\n\nb-1 {a}/r2.wav\n"}, ["wav.scp:2", "empty line"]),
    ({"wav_scp": "a-1\na-2 {a}/r2.wav\nb-1 {a}/r3.wav\n"}, ["wav.scp", "a-1 has no path"]),
    ({"wav_scp": "a-1 {a}/r1.wav\na-2 {a}/r2.wav\n"}, ["b-1", "utt2spk", "not in wav.scp"]),
    ({"utt2spk": "a-1 a\na-2 a\n"}, ["b-1", "not in utt2spk"]),
    ({"utt2spk": "a-1 a\na-2 a a\nb-1 b\n"}, ["utt2spk", "a-2 has no single speaker"]),
    ({"text": "a-1 one\na-2 two\n"}, ["b-1", "not in text"]),
    ({"utt2dur": "a-1 1\na-2 0\nb-1 3\n"}, ["a-2", "must be positive"]),
    ({"utt2dur": "a-1 1\na-2 two\nb-1 3\n"}, ["utt2dur", "a-2", "'two'"]),
    ({"utt2dur": "a-1 1\na-2 nan\nb-1 3\n"}, ["utt2dur", "a-2", "'nan'"]),
    ({"wav_scp": "a-1 {a}/no.wav\na-2 {a}/r2.wav\nb-1 {a}/r3.wav\n"}, ["a-1 is missing", "no.wav"]),
    ({"wav_scp": "a-1 {a}/zero.wav\na-2 {a}/r2.wav\nb-1 {a}/r3.wav\n"}, ["a-1 is an empty file", "zero.wav"]),
    ({"wav_scp": "a-2 {a}/r2.wav\na-1 {a}/r1.wav\nb-1 {a}/r3.wav\n"}, ["wav.scp", "not sorted", "a-1 comes after a-2"]),
    ({"utt2spk": "b-1 b\na-1 a\na-2 a\n"}, ["utt2spk", "not sorted"]),
    ({"spk2utt": "a a-1\nb b-1\n"}, ["a-2", "not in spk2utt"]),
    ({"spk2utt": "a a-1 a-2 b-1\nb b-1\n"}, ["spk2utt", "b-1 comes twice"]),
    ({"spk2utt": "a a-1 b-1\nb a-2\n"}, ["b-1 is of b in utt2spk, but of a in spk2utt"]),
    ({"utt2prompt": "a-1 a-2\na-2 a-9\nb-1 b-1\n"}, ["utt2prompt", "a-9"]),
    ({"utt2prompt": "a-1 a-2\na-2 b-1\nb-1 b-1\n"}, ["utt2prompt", "b-1, is of another speaker"]),
    ({"segments": "a-1 rec 0 1\na-2 a-2 0 1\nb-1 b-1 0 1\n"}, ["segments", "a-1 is cut from rec"]),
    ({"segments": "a-1 a-1 0.5 0.5\na-2 a-2 0 1\nb-1 b-1 0 1\n"}, ["segments", "a-1", "must be positive"]),
    ({"segments": "a-1 a-1 0.5\na-2 a-2 0 1\nb-1 b-1 0 1\n"}, ["segments", "a-1 needs a recording, a start"]),
    ({"segments": "a-1 a-1 0 9\na-2 a-2 0 1\nb-1 b-1 0 1\n"}, ["segments", "a-1 ends at 9.0 s", "1.0 s"]),
    ({"wav_scp": "a-1 touch {a}/ran |\na-2 {a}/r2.wav\nb-1 {a}/r3.wav\n"}, ["wav.scp", "a-1 is a pipe", "not allowed"]),
]


@pytest.mark.parametrize(("tables", "words"), BROKEN, ids=[" ".join(words) for _, words in BROKEN])
def test_broken_folders_are_told_in_one_line(good, audio, tables, words):
    (audio / "zero.wav").touch()
    put(good, **{name: text.replace("{a}", str(audio)) for name, text in tables.items()})
    with pytest.raises(UserError) as caught:
        validate_data_dir(good)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message
    assert not (audio / "ran").exists()


def test_what_is_missing_is_named(good, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such data folder"):
        read_data_dir(tmp_path / "nowhere")
    (good / "utt2spk").unlink()
    with pytest.raises(UserError, match="utt2spk: no such file"):
        read_data_dir(good)
    (good / "wav.scp").write_bytes(b"a \xff\xfe\n")
    with pytest.raises(UserError, match="wav.scp: not UTF-8"):
        read_data_dir(good)
    put(good, wav_scp="", utt2spk="", text="", utt2dur="")
    with pytest.raises(UserError, match="no utterances"):
        validate_data_dir(good)


def test_pipes_need_permission_and_durations(good, audio):
    put(good, wav_scp=f"a-1 cat {audio}/r1.wav |\na-2 {audio}/r2.wav\nb-1 {audio}/r3.wav\n")
    found = validate_data_dir(good, allow_pipes=True)
    assert isinstance(found["a-1"].path, Pipe) and not isinstance(found["a-2"].path, Pipe)
    (good / "utt2dur").unlink()
    with pytest.raises(UserError, match="add utt2dur"):
        read_data_dir(good, allow_pipes=True)


def test_written_tables_are_sorted_as_in_the_c_locale(tmp_path):
    write_table(tmp_path / "t", {"b": 1, "é": 2, "B": 3, "a-b": 4, "ab": 5, "a": ""})
    assert (tmp_path / "t").read_text(encoding="utf-8") == "B 3\na\na-b 4\nab 5\nb 1\né 2\n"
    assert read_table(tmp_path / "t")["a"] == ""


@pytest.mark.parametrize(("key", "value"), [("", "x"), ("a b", "x"), ("a\t", "x"), ("a", "x\ny")])
def test_what_fits_no_line_is_refused(tmp_path, key, value):
    with pytest.raises(UserError, match="does not fit"):
        write_table(tmp_path / "t", {key: value})
    assert not (tmp_path / "t").exists()


def test_write_then_read(audio):
    utterances = [
        Utterance("b-1", "b", f"{audio}/r3.wav", 3.0),
        Utterance("a-2", "a", f"{audio}/r2.wav", 2.0, "two\n words "),
        Utterance("a-1", "a", f"{audio}/r1.wav", 1.00004),
    ]
    put(audio / "d", segments="stale", utt2prompt="stale")  # of an earlier run: they would contradict the new tables
    write_data_dir(audio / "d", utterances)
    assert sorted(p.name for p in (audio / "d").iterdir()) == ["spk2utt", "text", "utt2dur", "utt2spk", "wav.scp"]
    assert (audio / "d/spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert (audio / "d/utt2dur").read_text() == "a-1 1.0000\na-2 2.0000\nb-1 3.0000\n"
    assert (audio / "d/text").read_text() == "a-1\na-2 two words\nb-1\n"
    assert list(validate_data_dir(audio / "d")) == ["a-1", "a-2", "b-1"]


def test_write_refuses_twins_and_nothing(tmp_path):
    with pytest.raises(UserError, match="a comes twice .x.wav, y.wav."):
        write_data_dir(tmp_path / "d", [Utterance("a", "s", "x.wav", 1.0), Utterance("a", "s", "y.wav", 1.0)])
    with pytest.raises(UserError, match="no utterances"):
        write_data_dir(tmp_path / "d", [])


def speakers(**counts):
    return {f"{s}-{n}": Utterance(f"{s}-{n}", s, "x.wav", 1.0) for s, count in counts.items() for n in range(count)}


def test_prompts():
    utterances = speakers(a=20, b=2, lone=1)
    prompts, alone = choose_prompts(utterances, 0)
    assert alone == ["lone-0"] and prompts["lone-0"] == "lone-0"
    assert prompts["b-0"] == "b-1" and prompts["b-1"] == "b-0"
    assert list(prompts) == sorted(utterances)
    for utt in (u for u in utterances if u != "lone-0"):
        assert prompts[utt] != utt and utterances[prompts[utt]].spk == utterances[utt].spk
    assert len({prompts[f"a-{n}"] for n in range(20)}) > 5
    # A function of seed and speaker: order and other speakers do not matter, the seed does.
    mixed = dict(sorted((utterances | speakers(c=5)).items(), reverse=True))
    assert {u: p for u, p in choose_prompts(mixed, 0)[0].items() if u[0] != "c"} == prompts
    assert choose_prompts(utterances, 1)[0] != prompts


def test_matrices_are_read_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = {"a": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.array([1.5, -2.0], np.float32)}
    with kaldiio.WriteHelper("ark,scp:f.ark,f.scp") as writer:
        for utt, array in wanted.items():
            writer(utt, array)
    found = load_matrices("f.scp")
    assert list(found) == ["a", "b"] and len(found) == 2 and "a" in found and "c" not in found
    for utt, array in wanted.items():
        assert found[utt].dtype == np.float32 and np.array_equal(found[utt], array)
    assert np.array_equal(pickle.loads(pickle.dumps(found))["b"], wanted["b"])  # as loader workers get it
    monkeypatch.chdir("/")  # the ark is also found beside the scp
    assert np.array_equal(load_matrices(tmp_path / "f.scp")["a"], wanted["a"])
    (tmp_path / "f.ark").unlink()
    with pytest.raises(UserError, match="f.ark is missing"):
        found["a"]
    with pytest.raises(UserError, match="g.scp: no such file"):
        load_matrices(tmp_path / "g.scp")


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickles_no_pipes_no_other_formats(tmp_path):
    ark, ran = tmp_path / "f.ark", tmp_path / "ran"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for content in (b"PKL" + pickle.dumps(Trap(ran)), b"NPY" + buffer.getvalue(), b"[ 1 2 ]\n", b"\0BFM \4"):
        ark.write_bytes(b"a " + content)
        (tmp_path / "f.scp").write_text(f"a {ark}:2\n")
        with pytest.raises(UserError, match="f.scp"):
            load_matrices(tmp_path / "f.scp")["a"]
    (tmp_path / "f.scp").write_text(f"a touch {ran} |\n")
    with pytest.raises(UserError, match="needs a place"):
        load_matrices(tmp_path / "f.scp")["a"]
    assert not ran.exists()
