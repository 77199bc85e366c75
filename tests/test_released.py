"""Codecs to give away: what bin/release writes is what was trained, and what is collected to train on."""

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import pscodec
from pscodec import cli, released
from pscodec.bin import release
from pscodec.commands.info import show_codec
from pscodec.inference import Coder
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve

RECIPE = Path(__file__).parent.parent / "recipes/Small24k"


@pytest.fixture(scope="module")
def collect():
    spec = importlib.util.spec_from_file_location("collect", RECIPE / "collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_a_released_codec_is_the_trained_one_without_pickle(tiny_exp, tmp_path):
    release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / "given")])
    assert sorted(p.name for p in (tmp_path / "given").iterdir()) == ["codec.safetensors", "hyperparams.yaml"]
    given, trained = pscodec.load_codec(tmp_path / "given"), pscodec.load_codec(tiny_exp)
    assert given.fingerprint == trained.fingerprint and given.meta == {"step": 1.0, "score": 1.0}
    wav = 0.1 * torch.randn(1, 24000)
    assert np.array_equal(given.encode(wav, 24000).codes, trained.encode(wav, 24000).codes)


def test_folders_are_not_given_away():
    text = "train_dir: /home/me/data/train\ndev_dir: data/dev\nlr: 1.0\n"
    assert release.without_folders(text) == "train_dir: data/train\ndev_dir: data/dev\nlr: 1.0\n"


def test_half_the_bytes_code_alike(tiny_exp, tmp_path):
    for name, options in (("whole", []), ("half", ["--half"])):
        release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / name), *options])
    sizes = [(tmp_path / name / "codec.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    wav = 0.1 * torch.randn(1, 24000)
    whole, half = (pscodec.load_codec(tmp_path / name, precision="fp32") for name in ("whole", "half"))
    assert (whole.encode(wav, 24000).codes == half.encode(wav, 24000).codes).mean() > 0.9


def test_eight_bits_of_a_part_leave_the_codes_and_nearly_the_sound(tiny_exp, tmp_path):
    for name, options in (("half", []), ("eight", ["--eight-bits", "decoder"])):
        release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / name), "--half", *options])
    wav = 0.1 * torch.randn(1, 24000)
    half, eight = (pscodec.load_codec(tmp_path / name, precision=None) for name in ("half", "eight"))
    stream = half.encode(wav, 24000)
    assert np.array_equal(eight.encode(wav, 24000).codes, stream.codes)
    states = [coder.model.state_dict() for coder in (half, eight)]
    large = {key for key, value in states[0].items() if key.startswith("decoder.") and value.dim() > 1}
    for key, value in states[0].items():
        off = (value.float() - states[1][key].float()).abs()
        assert (off.max() <= value.abs().max() / 220) if key in large else not off.any(), key
    assert any((states[0][key] != states[1][key]).any() for key in large)
    kept = load_file(tmp_path / "eight/codec.safetensors")
    assert {key for key, value in kept.items() if value.dtype == torch.int8} == large
    shutil.copytree(tmp_path / "eight", tmp_path / "damaged")
    for damaged in (
        {key: value for key, value in kept.items() if key != min(large)},
        kept | {min(large): kept[min(large)][:1]},
    ):
        save_file(damaged, tmp_path / "damaged/codec.safetensors")
        with pytest.raises(UserError, match="is of no weight that is there"):
            pscodec.load_codec(tmp_path / "damaged")
    stream.header = dataclasses.replace(stream.header, fingerprint=eight.fingerprint)
    one, two = half.decode(half.encode(wav, 24000)), eight.decode(stream)
    assert (one - two).square().mean() < 1e-3 * one.square().mean()
    with pytest.raises(SystemExit, match="there is no part 'decode'; there are"):
        release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / "x"), "--eight-bits", "decode"])


def test_what_is_no_experiment_is_told_with_the_names_of_codecs_that_are_there(tmp_path):
    with pytest.raises(UserError, match="nor a released codec"):
        pscodec.load_codec(tmp_path / "nothing")
    with pytest.raises(SystemExit):
        release.main(["--exp", str(tmp_path / "nothing"), "--out", str(tmp_path / "x")])
    assert released.folder(tmp_path) == tmp_path


def test_corpora_are_laid_out_by_speaker(collect, tmp_path):
    libri = "audio_data/librispeech_train-clean-100/103/103-1-0.flac"
    for name in ("so/WAVE/SPEAKER0012/1.WAV", f"re/{libri}", "k/a/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "k/a/b.txt").write_text("no recording")
    given = ["--speechocean762", str(tmp_path / "so"), "--resemblyzer", str(tmp_path / "re")]
    for _ in range(2):  # once more changes nothing
        collect([*given, "--rhasspy", f"kathleen={tmp_path / 'k'}", "--out", str(tmp_path / "out")])
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").glob("*/*"))
    assert found == ["kathleen/b.wav", "ls103/103-1-0.flac", "so0012/1.WAV"]
    with pytest.raises(SystemExit, match="no recordings of speechocean762"):
        collect(["--speechocean762", str(tmp_path / "re"), "--out", str(tmp_path / "out")])


def test_a_codec_that_comes_with_the_package_is_known_by_name_and_taken_by_default(tiny_exp, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        cli.main(["encode", "x.wav"])  # there is none, so --exp is required
    monkeypatch.setattr(released, "WEIGHTS", tmp_path)
    release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / released.DEFAULT)])
    assert released.names() == [released.DEFAULT]
    assert pscodec.load_codec().fingerprint == pscodec.load_codec(tiny_exp).fingerprint
    soundfile.write(tmp_path / "x.wav", 0.1 * np.random.default_rng(0).normal(size=24000), 24000)
    cli.main(["encode", str(tmp_path / "x.wav")])
    assert pscodec.bitstream.read(tmp_path / "x.psc").codes.shape == (1, 75)


def test_info_counts_the_parameters_of_the_whole_codec(capsys):
    show_codec(released.DEFAULT)
    whole = sum(p.numel() for p in pscodec.load_codec(precision=None).model.parameters()) / 1e6
    assert whole > 8 and f"{whole:.1f} M parameters" in capsys.readouterr().out


def test_a_file_says_by_which_released_codec_it_is_decoded(tiny_exp, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released, "WEIGHTS", tmp_path)
    for name in (released.DEFAULT, "another"):
        release.main(["--exp", str(tiny_exp), "--out", str(tmp_path / name)])
    weights = load_file(tmp_path / "another/codec.safetensors")
    save_file(
        {key: 1.01 * x if x.is_floating_point() else x for key, x in weights.items()},
        tmp_path / "another/codec.safetensors",
    )
    soundfile.write(tmp_path / "x.wav", 0.1 * np.random.default_rng(0).normal(size=24000), 24000)
    for name in (released.DEFAULT, "another"):
        cli.main(["encode", str(tmp_path / "x.wav"), str(tmp_path / f"{name}.psc"), "--exp", name])
        cli.main(["decode", str(tmp_path / f"{name}.psc")])
        cli.main(["decode", str(tmp_path / f"{name}.psc"), str(tmp_path / "told.wav"), "--exp", name, "--force"])
        assert (tmp_path / f"{name}.wav").read_bytes() == (tmp_path / "told.wav").read_bytes()
        with open(tmp_path / f"{name}.psc", "rb") as pipe:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
            cli.main(["decode", "-", "-o", str(tmp_path / "piped.wav"), "--force"])
        assert (tmp_path / "piped.wav").read_bytes() == (tmp_path / "told.wav").read_bytes()
    with pytest.raises(SystemExit, match="coded by model another"):
        cli.main(["decode", str(tmp_path / "another.psc"), str(tmp_path / "y.wav"), "--exp", released.DEFAULT])
    (tmp_path / "foreign.psc").write_bytes(b"RIFF")
    with pytest.raises(SystemExit, match="foreign.psc: not a .psc file"):
        cli.main(["decode", str(tmp_path / "foreign.psc")])


@pytest.mark.parametrize("n_q", [1, 3, 4])
def test_the_second_codec_codes_with_one_to_four_codebooks_and_its_language_model_fits(tmp_path, n_q):
    source, exp = next((RECIPE.parents[1] / "docs/samples").glob("*monkeysintro.0.ogg")), "pscodec_small_24k_v2"
    for entropy in ("", "auto"):
        options = ["--exp", exp, "--n-q", str(n_q), *(["--entropy", entropy] if entropy else [])]
        cli.main(["encode", str(source), str(tmp_path / f"x{entropy}.psc"), *options])
        cli.main(["decode", str(tmp_path / f"x{entropy}.psc")])
    plain, coded = (tmp_path / name for name in ("x.psc", "xauto.psc"))
    assert coded.stat().st_size < 0.95 * plain.stat().st_size
    assert coded.with_suffix(".wav").read_bytes() == plain.with_suffix(".wav").read_bytes()


@pytest.mark.parametrize(("codes", "bitrate"), [(1, 675), (2, 1350)])
def test_the_same_bits_without_codebooks(codes, bitrate):
    """conf/fsq.yaml, through coding and decoding."""
    text = resolve(compose(RECIPE / "conf/fsq.yaml", []), {"n_groups": codes})
    coder = Coder(build_only(text, "codec").eval())
    assert coder.model.bitrate == bitrate and coder.bits == 9
    stream = coder.encode(0.1 * torch.randn(1, 24000), 24000)
    assert stream.codes.shape == (codes, 75) and coder.decode(stream).shape == (1, 24000)
