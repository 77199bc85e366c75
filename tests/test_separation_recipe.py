"""The separation recipe as its users run it: every stage of run.sh on a handful of real mixtures."""

import json
import os
import subprocess
import sys

import pytest
import soundfile
from conftest import ROOT, copy_voices

from pscodec.data.embeddings import EmbeddingCache
from pscodec.data.mixture import read_mixtures

RECIPE = ROOT / "recipes/WSJ0Mix/separation"
TINY = {"n_blocks": 1, "channels": 16, "n_heads": 2, "hidden": 16, "batch_size": 2, "segment": 0.5, "filters": 16}
TINY |= {"valid_segment": 0.5, "valid_mixtures": 2, "valid_decode": 1, "steps_per_epoch": 2, "epochs": 1, "chunk": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory, mini_corpus):
    """A corpus of two voices, twenty utterances each, and folders beside it that only these tests write to."""
    root = tmp_path_factory.mktemp("separation")
    copy_voices(mini_corpus, root / "corpus", 20)
    return root


@pytest.fixture(scope="module")
def run_sh(place, codec_exp):
    def run(exp, *options, **train):
        words = " ".join(f"--{key} {value}" for key, value in (TINY | train).items())
        command = ["bash", RECIPE / "run.sh", "--corpus", place / "corpus", "--data", place / "data", "--exp", exp]
        command += ["--codec", codec_exp, "--preset", "mini", "--nj", "1", "--train-args", words]
        command += ["--n-train", "6", "--n-dev", "2", "--n-test", "2", "--downloads", place / "downloads"]
        environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
        return subprocess.run([*map(str, command), *options], capture_output=True, text=True, env=environment)

    return run


def finished(done):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def walked(place, run_sh):
    """The experiment that all stages leave."""
    finished(run_sh(place / "el", "--prompts", "enrol none"))
    return place / "el"


def test_every_stage_leaves_its_files(place, walked):
    for split, number in (("train", 6), ("dev", 2), ("test", 2)):
        mixtures, meta = read_mixtures(place / "data" / split)
        assert len(mixtures) == number and meta["sample_rate"] == 8000 and meta["mode"] == "min"
        assert meta["clean"] == str(place / "data/clean" / split)
        assert not list((place / "data" / split).rglob("*.wav")), "nothing but lists"
    (cache,) = (place / "data/train/embeddings").iterdir()
    assert len(EmbeddingCache(cache)) == 6
    assert "embeddings " + str(cache) in (walked / "train_log.txt").read_text()
    for name in ("hyperparams.yaml", "curves.tsv", "scores.tsv", "summary.json", "report/index.html"):
        assert (walked / name).stat().st_size > 0, name
    separated = sorted(p.name for p in (walked / "separated").iterdir())
    for condition in ("enrol_quantised", "enrol_continuous", "none_quantised", "none_continuous", "none_masked"):
        assert f"test.{condition}" in separated, separated
    wavs = sorted((walked / "separated/test.none_continuous").glob("*.s[12].wav"))
    lengths = {m.mix: m.length for m in read_mixtures(place / "data/test")[0]}
    assert [soundfile.info(p).frames for p in wavs] == [lengths[p.name.rsplit(".s", 1)[0]] for p in wavs]
    assert len(wavs) == 4 and soundfile.info(wavs[0]).samplerate == 8000
    json.loads((walked / "summary.json").read_text())


def test_mixing_anew_and_training_again(run_sh, walked, tmp_path):
    options = ["--stage", "2", "--stop-stage", "4", "--dynamic", "true"]
    options += ["--config", "conf/codecformer_el.yaml", "--finetune", "conf/codecformer.yaml"]
    out = finished(run_sh(tmp_path / "x", *options))
    assert "none are needed: mixtures are made anew" in out
    for exp in ("x", "x_tuned"):
        assert list((tmp_path / exp / "save").glob("CKPT*")), exp
    text = (tmp_path / "x_tuned/hyperparams.yaml").read_text()
    assert "dynamic: true" in text and "SiSnrLoss" in text


def test_without_a_codec(run_sh, walked, tmp_path):
    options = ["--stage", "2", "--stop-stage", "3", "--config", "conf/sepformer.yaml", "--codec", ""]
    assert "learns from waveforms" in finished(run_sh(tmp_path / "x", *options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stagee", "3"], "unknown option --stagee"),
        (["--corpus", "/no/such/folder"], "no corpus '/no/such/folder'"),
        (["--wsj0", "/no/such/folder"], "no folder '/no/such/folder' (--wsj0"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--config", "conf/none.yaml"], "no configuration conf/none.yaml"),
        (["--sample-rate", "8k"], "not '8k'"),
        (["--embeddings", "yes"], "--embeddings takes true or false"),
        (["--embeddings", "true", "--dynamic", "true"], "needs fixed mixtures"),
        (["--corpus", "libritts", "--codec", ""], "--codec names no experiment"),
        (["--stage", "1", "--stop-stage", "1", "--lists", "/no/lists"], "--lists /no/lists: no such folder"),
        (["--stage", "2", "--codec", "exp/none"], "no hyperparams.yaml"),
        (["--stage", "3", "--embeddings", "false", "--data", "data/none"], "run stage 1"),
        (["--stage", "3", "--embeddings", "false", "--train-args", "--lrr 1"], "--lrr (did you mean 'lr'?)"),
        (["--stage", "5", "--exp", "exp/none"], "exp/none"),
        (["--stage", "6", "--exp", "exp/none"], "exp/none"),
    ],
)
def test_mistakes_are_one_line_and_a_status(place, run_sh, walked, tmp_path, options, message):
    done = run_sh(tmp_path / "x", *options)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(told) == 1 and message in told[0], done.stderr[-1500:]
