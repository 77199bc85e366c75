"""Reading and writing audio: numbers by hand, and everything that users feed a codec."""

import math
import struct

import numpy as np
import pytest
import soundfile
import torch

from pscodec.data.audio import Pipe, Resampler, load_audio, recording_seconds, resample, save_audio
from pscodec.utils.errors import UserError


@pytest.fixture
def ramp(tmp_path):
    """1 s at 8 kHz, sample n is n / 32768, in 16 bits."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(8000, dtype=np.int16), 8000, subtype="PCM_16")
    return path


def test_native_rate_and_scale(ramp):
    wav, rate = load_audio(ramp)
    assert rate == 8000 and wav.shape == (1, 8000) and wav.dtype == torch.float32
    assert wav[0, 7999].item() == 7999 / 32768 and wav[0, 1].item() == 1 / 32768


def test_a_stretch_is_exactly_its_samples(ramp):
    wav, _ = load_audio(ramp, start=0.25, end=0.5)
    assert (wav[0] * 32768).tolist() == list(range(2000, 4000))
    wav, _ = load_audio(ramp, start=0.9995, end=7.0)  # past the end means the end
    assert (wav[0] * 32768).tolist() == [7996, 7997, 7998, 7999]


def test_only_the_stretch_is_read(ramp, monkeypatch):
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **k: (asked.append(n), read(self, n, **k))[1])
    load_audio(ramp, start=0.5, end=0.625)
    assert asked == [1000]


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.array([[0.5, 0.25], [-0.5, 0.5], [1 / 4, -3 / 4]]), 16000)
    wav, _ = load_audio(tmp_path / "s.wav")
    assert wav.tolist() == [[0.375, 0.0, -0.25]]


def test_resampling_keeps_a_tone(tmp_path):
    t = np.arange(8000) / 8000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), 8000, subtype="FLOAT")
    wav, rate = load_audio(tmp_path / "a.wav", 24000)
    assert rate == 24000 and wav.shape == (1, 24000)
    wanted = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(24000) / 24000)
    assert (wav[0, 500:-500] - wanted[500:-500]).abs().max() < 2e-3
    assert resample(torch.zeros(1, 101), 16000, 24000).shape == (1, 152)  # ceil(151.5)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "AIFF", "MP3"])
def test_other_formats(tmp_path, form):
    tone = 0.3 * np.sin(np.arange(16000) * 0.05)
    soundfile.write(tmp_path / "a.audio", tone, 16000, format=form)
    wav, rate = load_audio(tmp_path / "a.audio")
    assert rate == 16000 and abs(wav.pow(2).mean().sqrt().item() - 0.3 / 2**0.5) < 0.01


def test_silence_and_single_samples_are_allowed(tmp_path):
    save_audio(tmp_path / "z.wav", torch.zeros(1), 24000)
    assert load_audio(tmp_path / "z.wav")[0].tolist() == [[0.0]]


def test_loud_float_files_are_clipped(tmp_path):
    soundfile.write(tmp_path / "l.wav", np.array([1.5, -1.5, 0.5]), 16000, subtype="FLOAT")
    assert load_audio(tmp_path / "l.wav")[0].tolist() == [[1.0, -1.0, 0.5]]


def bad_files(folder):
    """`{name: words of the message}`, the files written into `folder`."""
    (folder / "zero.wav").touch()
    (folder / "text.wav").write_text("this is no audio at all, but a few words of text")
    soundfile.write(folder / "empty.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.0]), 16000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, -np.inf, 0.0]), 16000, subtype="FLOAT")
    soundfile.write(folder / "scale.wav", np.array([0.0, 20000.0]), 16000, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    return {
        "missing.wav": "no such audio file",
        "zero.wav": "not readable as audio",
        "text.wav": "not readable as audio",
        "empty.wav": "empty audio file",
        "nan.wav": "NaN or infinite",
        "inf.wav": "NaN or infinite",
        "scale.wav": "not scaled",
        "folder.wav": "a folder",
    }


def test_bad_files_are_named_in_one_line(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            load_audio(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message and words in message and "\n" not in message


def test_a_truncated_file_gives_what_it_has(tmp_path, ramp):
    whole = ramp.read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: 44 + 2 * 1000])
    assert load_audio(tmp_path / "cut.wav")[0].shape == (1, 1000)
    (tmp_path / "head.wav").write_bytes(whole[:40] + struct.pack("<I", 16000))
    with pytest.raises(UserError, match="head.wav"):
        load_audio(tmp_path / "head.wav")


@pytest.mark.parametrize(("start", "end"), [(-0.1, None), (0.5, 0.5), (0.5, 0.25), (math.nan, None), (0.0, math.nan)])
def test_impossible_stretches(ramp, start, end):
    with pytest.raises(UserError, match="no such stretch"):
        load_audio(ramp, start=start, end=end)


def test_a_stretch_behind_the_end(ramp):
    with pytest.raises(UserError, match=r"no audio after 1\.5 s \(it has 1\.000 s\)"):
        load_audio(ramp, start=1.5)


def test_recording_seconds(ramp, tmp_path):
    assert recording_seconds(ramp) == 1.0
    with pytest.raises(UserError, match="no such audio file"):
        recording_seconds(tmp_path / "no.wav")


def test_save_is_16_bit_and_exact(tmp_path):
    # -1 is -32768; +1 has no 16-bit sample and becomes 32767; halves are rounded to even by torch.
    values = torch.tensor([0.0, 1 / 32768, -1.0, 1.0, 2.0, -7.0, 0.5])
    save_audio(tmp_path / "x.wav", values, 24000)
    info = soundfile.info(tmp_path / "x.wav")
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (24000, 1, "PCM_16", 7)
    samples = soundfile.read(tmp_path / "x.wav", dtype="int16")[0].tolist()
    assert samples == [0, 1, -32768, 32767, 32767, -32768, 16384]


def test_every_16_bit_value_comes_back(tmp_path):
    every = torch.arange(-32768, 32768) / 32768
    save_audio(tmp_path / "x.wav", every[None], 16000)
    assert torch.equal(load_audio(tmp_path / "x.wav")[0][0], every)


def test_what_is_not_saved_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.wav"
    save_audio(path, torch.zeros(10), 16000)
    before = path.read_bytes()
    for bad in (torch.tensor([0.0, math.nan]), torch.zeros(11, 10)):
        with pytest.raises(UserError, match="x.wav"):
            save_audio(path, bad, 16000)
    with pytest.raises(Exception):  # noqa: B017 - whatever libsndfile says of 0 Hz
        save_audio(path, torch.zeros(10), 0)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_pipes_run_only_when_marked(ramp):
    wav, rate = load_audio(Pipe(f"cat '{ramp}' |"), start=0.5)
    assert rate == 8000 and wav.shape == (1, 4000) and wav[0, 0].item() == 4000 / 32768
    with pytest.raises(UserError, match="no such audio file"):
        load_audio(f"cat '{ramp}' |")
    with pytest.raises(UserError, match="status 3"):
        load_audio(Pipe("exit 3 |"))


@pytest.mark.parametrize(("orig", "new"), [(16000, 24000), (44100, 24000), (48000, 24000), (24000, 24000)])
@pytest.mark.parametrize("piece", [1, 700, 5000, 100000])
def test_resampling_in_pieces_equals_resampling_the_whole(orig, new, piece):
    wav = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20011)).astype(np.float32))
    wav = wav[:, :3000] if piece == 1 else wav
    resampler = Resampler(orig, new)
    parts = [resampler.push(part) for part in wav.split(piece, 1)] + [resampler.push(wav[:, :0], last=True)]
    whole = resample(wav, orig, new)
    joined = torch.cat(parts, 1)
    assert joined.shape == whole.shape and torch.allclose(joined, whole, atol=1e-5)
    if 1 < piece < 20000:
        assert parts[1].shape[1] > 0 or piece < 800  # it does not wait for the end


def test_rates_that_no_speech_has_are_refused():
    for rates in ((1, 24000), (24000, 2_000_000), (24000, 44101)):
        with pytest.raises(UserError, match="cannot resample"):
            resample(torch.zeros(1, 10), *rates)
