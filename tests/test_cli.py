"""`pscodec` on files, folders, globs and pipes, in several processes, with bad files among good ones."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT, make_experiment
from test_inference import speech

from pscodec import bitstream, cli, files
from pscodec.commands import many
from pscodec.data.audio import load_audio
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError


@pytest.fixture
def run(tiny_exp):
    def run(command, *args, exp=tiny_exp):
        options = [] if command == "info" else ["--exp", exp, "--precision", "fp32"]
        cli.main([command, *map(str, args), *map(str, options)])

    yield run
    many.codec.cache_clear()


@pytest.fixture
def recordings(tmp_path):
    """A folder with three recordings, one of them in a folder below."""
    for seed, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, speech(0.5 + seed / 3, seed, 16000), 16000)
    return tmp_path / "in"


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_folder_there_and_back(run, recordings, tmp_path, capsys):
    run("encode", recordings, "-o", tmp_path / "coded")
    assert names(tmp_path / "coded") == ["a.psc", "b.psc", "deep/c.psc"]
    out = capsys.readouterr().out
    assert out.startswith("3 files: 2.50 s, codes ") and "side information 264 bytes" in out  # 3 * (1 + 11 + 12 + 64)
    run("decode", tmp_path / "coded", "-o", tmp_path / "back")
    for name, psc in (("a.wav", "a.wav"), ("b.flac", "b.wav"), ("deep/c.wav", "deep/c.wav")):
        info = soundfile.info(tmp_path / "back" / psc)
        assert (info.samplerate, info.subtype) == (24000, "PCM_16")
        assert info.frames == -(-soundfile.info(recordings / name).frames * 3 // 2)
    assert names(tmp_path / "back") == ["a.wav", "b.wav", "deep/c.wav"]


def test_where_outputs_go(recordings, tmp_path):
    a, b = str(recordings / "a.wav"), str(recordings / "b.flac")
    audio = {".wav", ".flac"}
    assert many.tasks([a], None, audio, ".psc") == ([(a, a[:-4] + ".psc")], [])
    assert many.tasks([a, "x.psc"], None, audio, ".psc") == ([(a, "x.psc")], [])
    assert many.tasks([a], "x.psc", audio, ".psc") == ([(a, "x.psc")], [])
    assert many.tasks([a], str(recordings), audio, ".psc") == ([(a, str(recordings / "a.psc"))], [])
    assert many.tasks([a, b], "out", audio, ".psc") == ([(a, "out/a.psc"), (b, "out/b.psc")], [])
    assert many.tasks([str(recordings / "*")], "out", audio, ".psc")[0] == [(a, "out/a.psc"), (b, "out/b.psc")]
    deep = many.tasks([str(recordings / "**/*.wav")], "out", audio, ".psc")[0]
    assert [target for _, target in deep] == ["out/a.psc", "out/c.psc"]
    assert many.tasks(["-"], None, audio, ".psc") == many.tasks(["-", "-"], None, audio, ".psc") == ([("-", "-")], [])
    assert many.tasks([a, a], "out", audio, ".psc") == ([(a, "out/a.psc")], [f"{a}: out/a.psc is made of {a} already"])
    assert many.tasks(["none.wav"], "out", audio, ".psc") == ([], ["none.wav: no such file"])


def test_nothing_is_overwritten_unless_forced(run, recordings, tmp_path, capsys):
    run("encode", recordings / "a.wav", tmp_path / "a.psc")
    before = (tmp_path / "a.psc").stat().st_mtime_ns
    with pytest.raises(SystemExit, match="error: .*a.psc exists; --force"):
        run("encode", recordings / "a.wav", tmp_path / "a.psc")
    assert (tmp_path / "a.psc").stat().st_mtime_ns == before
    run("encode", recordings / "a.wav", tmp_path / "a.psc", "--force")
    assert (tmp_path / "a.psc").stat().st_mtime_ns > before


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_among_good_ones_cost_a_line_each(run, recordings, tmp_path, capsys, jobs):
    (recordings / "bad.wav").write_text("not audio")
    soundfile.write(recordings / "empty.wav", np.zeros(0), 16000)
    soundfile.write(recordings / "short.wav", np.zeros(100), 16000)
    with pytest.raises(SystemExit) as stop:
        run("encode", recordings, "-o", tmp_path / "coded", "--jobs", jobs)
    assert names(tmp_path / "coded") == ["a.psc", "b.psc", "deep/c.psc"]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] + [stop.value.code]
    assert len(told) == 3 and all(name in line for name, line in zip(("bad", "empty", "short"), told, strict=True))


def test_profiles_are_enrolled_named_and_looked_for(run, recordings, tmp_path, capsys):
    run("enroll", recordings / "a.wav", recordings / "b.flac", "-o", tmp_path / "who/alice.psp")
    run("encode", recordings / "a.wav", tmp_path / "a.psc", "--profile", tmp_path / "who/alice.psp")
    run("info", tmp_path / "a.psc", tmp_path / "who/alice.psp")
    out = capsys.readouterr().out
    hash_ = bitstream.read(tmp_path / "a.psc").header.profile.hex()
    assert f"speaker: profile {hash_}" in out and f"speaker profile {hash_} of model tiny" in out
    assert "side information 8 bytes" in out and "1.33 s in 2 recordings" in out
    with pytest.raises(SystemExit, match=f"a.psc: coded with speaker profile {hash_}, which was not given"):
        run("decode", tmp_path / "a.psc")
    assert not (tmp_path / "a.wav").exists()
    run("decode", tmp_path / "a.psc", "--profiles", tmp_path / "who")
    run("decode", tmp_path / "a.psc", tmp_path / "b.wav", "--profile", tmp_path / "who/alice.psp")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    with pytest.raises(SystemExit, match="exists"):
        run("enroll", recordings / "a.wav", "-o", tmp_path / "who/alice.psp")


def test_a_prompt_is_carried_or_not_sent(run, recordings, tmp_path):
    run("encode", recordings / "a.wav", tmp_path / "own.psc")
    run("encode", recordings / "a.wav", tmp_path / "other.psc", "--prompt", recordings / "b.flac")
    run("encode", recordings / "a.wav", tmp_path / "none.psc", "--no-prompt")
    own, other, none = (bitstream.read(tmp_path / f"{n}.psc") for n in ("own", "other", "none"))
    assert np.array_equal(own.codes, other.codes) and np.array_equal(own.codes, none.codes)
    assert not np.array_equal(own.header.side["z_mel"].levels, other.header.side["z_mel"].levels)
    assert none.header.side == {} and none.header.profile is None
    run("decode", tmp_path / "none.psc")


def test_damaged_files_are_decoded_with_a_warning(run, tiny_exp, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", speech(5.1), 24000)
    run("encode", tmp_path / "x.wav")
    data = bytearray((tmp_path / "x.psc").read_bytes())
    head = int.from_bytes(data[4:6], "little")
    data[head + 3 * 62 + 20] ^= 1
    (tmp_path / "y.psc").write_bytes(data)
    (tmp_path / "z.psc").write_bytes(data[: head + 2 * 62 + 30])
    run("decode", tmp_path / "y.psc", tmp_path / "z.psc", "-o", tmp_path)
    err = capsys.readouterr().err
    assert f"warning: {tmp_path}/y.psc: 3.00 to 4.00 s are lost\n" in err
    assert f"warning: {tmp_path}/z.psc: the end is missing: it stops after 2.00 of 5.10 s\n" in err
    wav = load_audio(tmp_path / "y.wav")[0]
    assert wav.shape == (1, 122400) and wav[:, 3 * 24000 + 480 : 4 * 24000 - 480].abs().max() == 0
    whole = load_codec(tiny_exp).decode(bitstream.read(tmp_path / "x.psc"))
    for stretch in (slice(0, 64000), slice(104000, 122400)):
        assert (wav[:, stretch] - whole[:, stretch]).abs().max() < 1e-4
    assert soundfile.info(tmp_path / "z.wav").frames == 48000
    run("info", tmp_path / "y.psc")
    assert "damaged: 3.00 to 4.00 s are lost" in capsys.readouterr().out
    (tmp_path / "header.psc").write_bytes(bytes([*data[:10], data[10] ^ 1, *data[11:]]))
    with pytest.raises(SystemExit, match="header.psc: damaged header"):
        run("decode", tmp_path / "header.psc")


@pytest.fixture(scope="module", params=["pushed", "whole"])
def coder(request, tmp_path_factory, tiny_exp):
    """A codec that can be streamed, and one whose encoder normalises over all time."""
    if request.param == "pushed":
        return load_codec(tiny_exp)
    return load_codec(make_experiment(tmp_path_factory.mktemp("exp") / "group", norm="group"))


def test_files_equal_recordings_in_memory(coder, tmp_path):
    soundfile.write(tmp_path / "x.wav", speech(7.123, rate=44100), 44100, subtype="FLOAT")
    wav, rate = load_audio(tmp_path / "x.wav")
    whole = coder.encode(wav, rate)
    header, n_samples, _ = files.encode_file(coder, tmp_path / "x.wav", tmp_path / "x.psc")
    read = bitstream.read(tmp_path / "x.psc")
    assert n_samples == whole.n_samples == read.n_samples == read.header.n_samples
    assert np.mean(read.codes != whole.codes) <= 0.005  # ties aside
    files.decode_file(coder, tmp_path / "x.psc", tmp_path / "y.wav")
    assert (load_audio(tmp_path / "y.wav")[0] - coder.decode(read)).abs().max() < 1e-4


@pytest.mark.parametrize(("target", "blocks"), [("back.wav", [30, 15]), ("-", [10, 10, 10, 10, 5])])
def test_packets_of_files_are_decoded_together_those_of_pipes_as_they_come(
    coder, tmp_path, target, blocks, monkeypatch, capsysbinary
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(coder, "packet", 10 * coder.model.hop_length / coder.model.sample_rate)
    monkeypatch.setattr(coder.model, "piece", 25 * coder.model.hop_length / coder.model.sample_rate)
    wav = speech(45 * coder.model.hop_length / coder.model.sample_rate, rate=coder.model.sample_rate)
    coder.write("a.psc", coder.encode(wav, coder.model.sample_rate, None))
    decode_pieces, seen = coder.decode_pieces, []

    def spied(sent, side):
        return decode_pieces(((seen.append(codes.shape[1]), (codes, scale))[1] for codes, scale in sent), side)

    monkeypatch.setattr(coder, "decode_pieces", spied)
    files.decode_file(coder, "a.psc", target)
    assert seen == blocks


def test_what_fails_leaves_nothing_behind(tmp_path):
    codec = load_codec(make_experiment(tmp_path / "exp", codebook_size=50))
    stream = codec.encode(speech(3), 24000)
    stream.codes[0, 200] = 60
    bitstream.write(tmp_path / "out/x.psc", stream)
    with pytest.raises(UserError, match="code 60"):
        files.decode_file(codec, tmp_path / "out/x.psc", tmp_path / "out/x.wav")
    soundfile.write(tmp_path / "out/nan.wav", np.array([0.0] * 72000 + [np.nan]), 24000, subtype="FLOAT")
    with pytest.raises(UserError, match="NaN"):
        files.encode_file(codec, tmp_path / "out/nan.wav", tmp_path / "out/nan.psc", None)
    assert names(tmp_path / "out") == ["nan.wav", "x.psc"]


def pipe(exp, *args, data):
    command = [sys.executable, "-m", "pscodec.cli", *map(str, args), "--exp", str(exp), "--precision", "fp32"]
    done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_pipes_of_samples_and_of_wav(tiny_exp, tmp_path):
    integers = np.round(speech(3.3, rate=16000) * 32767).astype("<i2")
    soundfile.write(tmp_path / "x.wav", integers, 16000)
    options = ("--raw", "--sample-rate", 16000, "--prompt", tmp_path / "x.wav")
    psc = pipe(tiny_exp, "encode", "-", *options, data=integers.tobytes())
    stream = bitstream.unpack(psc)
    assert stream.header.n_samples is None and stream.n_samples == 79200 and not stream.damage
    of_wav = bitstream.unpack(pipe(tiny_exp, "encode", "-", "-", data=(tmp_path / "x.wav").read_bytes()))
    assert of_wav.header.n_samples == 79200 and np.array_equal(of_wav.codes, stream.codes)
    raw = pipe(tiny_exp, "decode", "-", "--raw", data=psc)
    wav = pipe(tiny_exp, "decode", "-", data=psc)
    assert len(raw) == 2 * 79200 and wav[44:] == raw and wav[:4] == b"RIFF"
    (tmp_path / "back.wav").write_bytes(wav)
    back = load_audio(tmp_path / "back.wav")[0]  # its length stood nowhere when it was begun
    assert (back - load_codec(tiny_exp).decode(stream)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["encode", "x.wav", "--exp", "none"], "x.wav: no such file"),
        (["encode", str(ROOT), "--exp", "none", "--raw"], "need each other"),
        (["encode", __file__, "--exp", "none"], "none: no hyperparams.yaml"),
        (["info", "none.psc"], "none.psc: No such file"),
        (["info", __file__], "not a .psc file"),
        (["info", str(ROOT / "docs")], "without .psc and .psp files"),
    ],
)
def test_what_users_get_wrong(args, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert message in stop.value.code and "\n" not in stop.value.code


def test_info_of_an_experiment(tiny_exp, capsys):
    cli.main(["info", str(tiny_exp)])
    out = capsys.readouterr().out
    assert "1 codes of 6 bits, 75 frames a second: 450 bit/s" in out and "algorithmic latency" in out
