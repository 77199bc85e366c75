"""Stage 2: features are what features.py says, archives are Kaldi's, and being killed or fed rubbish loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from pscodec.bin import extract_features
from pscodec.bin.extract_features import Archive, Settings, extract, main
from pscodec.data.audio import load_audio
from pscodec.data.kaldi import Utterance, load_matrices, read_table, write_data_dir
from pscodec.features import FBank, LogMel
from pscodec.utils.errors import UserError
from pscodec.utils.processes import Workers

ROOT = Path(__file__).parents[1]


def noise(path, seconds, rate=16000, seed=0):
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)), rate)
    return str(path)


def data_dir(folder, paths):
    """A data folder of whole recordings, utterances u00, u01 ..."""
    write_data_dir(folder, [Utterance(f"u{i:02d}", "s", str(path), 1.0) for i, path in enumerate(paths)])
    return folder


@pytest.fixture
def three(tmp_path):
    """16, 24 and 8 kHz; 1, 0.5 and 0.25 s."""
    lengths = [(1.0, 16000), (0.5, 24000), (0.25, 8000)]
    return data_dir(tmp_path / "d", [noise(tmp_path / f"{r}.wav", s, r) for s, r in lengths])


def test_shapes_values_and_kaldi_format(three):
    assert extract(three, Settings()) == (3, 0, {})
    fbank, mel = load_matrices(three / "fbank.scp"), load_matrices(three / "mel.scp")
    # FBank: 1 + (samples - 400) // 160 at 16 kHz; log-Mel: 1 + samples // 240 at 24 kHz.
    assert [fbank[u].shape for u in fbank] == [(98, 80), (48, 80), (23, 80)]
    assert [mel[u].shape for u in mel] == [(101, 80), (51, 80), (26, 80)]
    assert fbank["u00"].dtype == mel["u00"].dtype == np.float32
    wav = load_audio(read_table(three / "wav.scp")["u00"])[0]
    assert np.array_equal(fbank["u00"], FBank()(wav).T.numpy())
    wav = load_audio(read_table(three / "wav.scp")["u01"])[0]
    assert np.array_equal(mel["u01"], LogMel()(wav)[0].T.numpy())
    with kaldiio.ReadHelper(f"ark:{three / 'fbank.ark'}") as reader:  # from front to back, as Kaldi's tools do
        assert {utt: array.shape for utt, array in reader} == {u: fbank[u].shape for u in fbank}
    assert list(read_table(three / "mel.scp").values())[0] == f"{three}/mel.ark:4"
    assert not (three / "xvector.scp").exists() and not list(three.glob("*.part"))


def test_archives_are_byte_for_byte_kaldiios(three, tmp_path):
    extract(three, Settings())
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/w.ark,{tmp_path}/w.scp") as writer:
        for utt, array in load_matrices(three / "mel.scp").items():
            writer(utt, array)
    assert (three / "mel.ark").read_bytes() == (tmp_path / "w.ark").read_bytes()


def test_a_second_run_does_nothing(three, monkeypatch):
    extract(three, Settings())
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in three.glob("*.ark")}
    monkeypatch.setattr(extract_features, "_work", lambda task: pytest.fail("worked again"))
    assert extract(three, Settings()) == (0, 3, {})
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in three.glob("*.ark")} == before


def test_only_what_is_new_is_made(three, tmp_path):
    extract(three, Settings())
    old = dict(load_matrices(three / "mel.scp"))
    paths = list(read_table(three / "wav.scp").values())
    data_dir(three, [*paths, noise(tmp_path / "new.wav", 0.3)])
    assert extract(three, Settings()) == (1, 3, {})
    mel = load_matrices(three / "mel.scp")
    assert len(mel) == 4 and all(np.array_equal(mel[u], old[u]) for u in old)
    data_dir(three, paths[:2])  # one that is gone leaves the scp
    assert extract(three, Settings()) == (0, 2, {}) and list(load_matrices(three / "mel.scp")) == ["u00", "u01"]


def test_other_audio_or_settings_are_not_mixed_up(three):
    extract(three, Settings())
    noise(read_table(three / "wav.scp")["u01"], 0.75, 24000, seed=1)
    assert extract(three, Settings()) == (3, 0, {})
    assert load_matrices(three / "mel.scp")["u01"].shape == (76, 80)
    assert extract(three, Settings(sample_rate=16000)) == (3, 0, {})
    assert load_matrices(three / "mel.scp")["u00"].shape == (67, 80)  # 1 + 16000 // 240
    assert load_matrices(three / "fbank.scp")["u00"].shape == (98, 80)
    exact = load_matrices(three / "fbank.scp")["u00"]
    assert extract(three, Settings(16000, compress=True)) == (3, 0, {})
    packed = load_matrices(three / "fbank.scp")["u00"]
    assert 0 < np.abs(packed - exact).max() < 0.2 and packed.shape == exact.shape
    assert (three / "fbank.ark").stat().st_size < 0.4 * 4 * 80 * (98 + 73 + 23)


def test_segments_are_cut(tmp_path):
    path = noise(tmp_path / "long.wav", 2.0)
    stretches = {"a": (0.5, 1.0), "b": (1.0, 2.0)}
    write_data_dir(tmp_path / "d", [Utterance(u, "s", path, e - s, None, s, e) for u, (s, e) in stretches.items()])
    extract(tmp_path / "d", Settings())
    wav = load_audio(path, start=0.5, end=1.0)[0]
    assert np.array_equal(load_matrices(tmp_path / "d/fbank.scp")["a"], FBank()(wav).T.numpy())


def test_rubbish_is_named_counted_and_left_out(tmp_path, capsys):
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("no audio, a few words")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    noise(tmp_path / "short.wav", 0.0249)
    noise(tmp_path / "shortest.wav", 0.025)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "stereo.wav", 0.1 * np.random.default_rng(0).standard_normal((8000, 2)), 8000)
    names = ["zero", "text", "nan", "empty", "short", "gone", "shortest", "silent", "stereo"]
    folder = data_dir(tmp_path / "d", [tmp_path / f"{name}.wav" for name in names])
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    main(["--data-dir", str(folder)])
    told = capsys.readouterr()
    for utt, name, words in zip(
        ("u00", "u01", "u02", "u03", "u04", "u05"),
        names,
        ("not readable", "not readable", "NaN", "empty", "24.9 ms, less than 25 ms", "no such"),
        strict=False,
    ):
        line = next(line for line in told.err.splitlines() if line.startswith(f"left out: {utt}: "))
        assert f"{name}.wav" in line and words in line
    assert f"warning: {folder}: 6 of 9 utterances have no features" in told.err
    assert "3 utterances made, of 0 already there, 6 left out" in told.out
    fbank = load_matrices(folder / "fbank.scp")
    assert list(fbank) == ["u06", "u07", "u08"] and fbank["u06"].shape == (1, 80)
    assert all(np.isfinite(fbank[u]).all() for u in fbank)
    assert np.allclose(load_matrices(folder / "mel.scp")["u07"], np.log(1e-5))  # silence is the floor
    assert {name: (folder / name).read_bytes() for name in before} == before
    # Mended, it joins; the others are not made again.
    noise(tmp_path / "zero.wav", 1.0)
    made, kept, failed = extract(folder, Settings())
    assert (made, kept, len(failed)) == (1, 3, 5) and "u00" in load_matrices(folder / "mel.scp")


def test_nothing_usable_is_an_error(tmp_path, capsys):
    (tmp_path / "zero.wav").touch()
    folder = data_dir(tmp_path / "d", [tmp_path / "zero.wav"])
    with pytest.raises(SystemExit) as caught:
        main(["--data-dir", str(folder)])
    assert "none of 1 utterances has features" in str(caught.value) and "zero.wav" in str(caught.value)
    assert not (folder / "fbank.scp").exists()


def test_missing_folder_and_weights(tmp_path, three):
    with pytest.raises(UserError, match="no such data folder"):
        extract(tmp_path / "nowhere", Settings())
    with pytest.raises(UserError, match=r"no\.pt"):
        extract(three, Settings(campplus=str(tmp_path / "no.pt")))
    (tmp_path / "bad.pt").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"bad\.pt") as caught:  # told once, not as the fault of every utterance
        extract(three, Settings(campplus=str(tmp_path / "bad.pt")))
    assert "utterances" not in str(caught.value)


def test_features_of_others_are_not_overwritten(three):
    (three / "mel.scp").write_text("u00 somewhere.ark:4\n")
    with pytest.raises(UserError, match="did not make"):
        extract(three, Settings())
    assert (three / "mel.scp").read_text() == "u00 somewhere.ark:4\n"


def test_an_archive_goes_on_where_it_was_broken_off(tmp_path):
    arrays = {f"u{i}": np.full((i + 1, 2), i, np.float32) for i in range(4)}
    archive = Archive(tmp_path, "mel", False)
    for utt in ("u0", "u1", "u2"):
        archive.add(utt, arrays[utt])
    archive.file.close()
    archive.notes.close()
    # The machine goes down: u2's matrix is noted but broken, more was written behind it, the note of u3 is cut.
    whole = (tmp_path / "mel.ark").read_bytes()
    (tmp_path / "mel.ark").write_bytes(whole[: int(archive.places["u2"].rpartition(":")[2])] + b"\0" * 500)
    with open(tmp_path / "mel.scp.part", "a") as file:
        file.write(f"u3 {tmp_path}/mel.ark:3")
    archive = Archive(tmp_path, "mel", False)
    assert [utt in archive for utt in arrays] == [True, True, False, False]
    for utt in ("u2", "u3"):
        archive.add(utt, arrays[utt])
    archive.close(arrays)
    found = load_matrices(tmp_path / "mel.scp")
    assert all(np.array_equal(found[utt], arrays[utt]) for utt in arrays)
    with kaldiio.ReadHelper(f"ark:{tmp_path / 'mel.ark'}") as reader:
        assert [utt for utt, _ in reader] == ["u0", "u1", "u2", "u3"]


def test_killed_and_started_again_equals_unbroken(tmp_path):
    paths = [noise(tmp_path / f"{i}.wav", 3.0, seed=i) for i in range(150)]
    data_dir(tmp_path / "whole", paths)
    data_dir(tmp_path / "killed", paths)
    command = [sys.executable, "-m", "pscodec.bin.extract_features", "--data-dir", str(tmp_path / "killed")]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part, patience = tmp_path / "killed/mel.scp.part", time.monotonic() + 60
    while not (part.exists() and part.read_text().count("\n") >= 20) and time.monotonic() < patience:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = part.read_text().count("\n")
    assert 20 <= done < 150 and not (tmp_path / "killed/mel.scp").exists()
    made, kept, failed = extract(tmp_path / "killed", Settings())
    assert made + kept == 150 and not failed and done - 1 <= kept <= done
    extract(tmp_path / "whole", Settings())
    for kind in ("fbank", "mel"):
        for end in ("ark", "scp"):
            wanted = (tmp_path / f"whole/{kind}.{end}").read_bytes().replace(b"/whole/", b"/killed/")
            assert (tmp_path / f"killed/{kind}.{end}").read_bytes() == wanted


def test_processes_change_nothing(tmp_path):
    paths = [noise(tmp_path / f"{i}.wav", 0.5, seed=i) for i in range(20)]
    (tmp_path / "7.wav").write_bytes(b"")
    one, two = data_dir(tmp_path / "1", paths), data_dir(tmp_path / "2", paths)
    with Workers(2) as workers:
        assert extract(one, Settings()) == extract(two, Settings(), workers)
    first, second = load_matrices(one / "mel.scp"), load_matrices(two / "mel.scp")
    assert len(first) == 19 and list(first) == list(second)
    assert all(np.allclose(first[u], second[u], atol=1e-4) for u in first)


def test_xvector_is_campplus_of_the_whole_utterance(three, campplus_path):
    from pscodec.prompts.campplus import load_campplus

    settings = Settings(campplus=str(campplus_path))
    extract(three, Settings())
    fbank_before = (three / "fbank.ark").read_bytes()
    assert extract(three, settings) == (3, 0, {}) and (three / "fbank.ark").read_bytes() == fbank_before
    fbank, xvector = load_matrices(three / "fbank.scp"), load_matrices(three / "xvector.scp")
    assert xvector["u00"].shape == (192,) and xvector["u00"].dtype == np.float32
    with torch.inference_mode():
        wanted = load_campplus(campplus_path)(torch.from_numpy(fbank["u00"].T.copy())[None])[0]
    assert np.allclose(xvector["u00"], wanted.numpy(), atol=1e-4)
    assert extract(three, settings) == (0, 3, {})
    assert extract(three, Settings()) == (0, 3, {}) and (three / "xvector.scp").exists()


def test_what_a_codec_sees_heeds_the_options_of_its_training():
    conf = ROOT / "recipes/LibriTTS/codec/conf"
    assert extract_features.seen_by(conf / "pscodec_base.yaml", []) == {
        "wanted": ("fbank", "mel", "xvector"),
        "sample_rate": 24000,
    }
    words = "--sample_rate 16000 --device cpu --codec.vpp_enc null"
    assert extract_features.seen_by(conf / "pscodec_base.yaml", [], words) == {"wanted": ("mel",), "sample_rate": 16000}
    with pytest.raises(UserError, match="nowhere"):
        extract_features.seen_by(conf / "ladiffcodec.yaml", [], "--discrete exp/nowhere")
