"""The recipe as its users run it: every stage of run.sh on a handful of real utterances, and a killed run resumed."""

import contextlib
import dataclasses
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from conftest import copy_voices
from safetensors.torch import load_file

from pscodec import bitstream, cli
from pscodec.inference import load_codec
from pscodec.utils.weights import codec_state, codec_weights

# smaller than the mini preset, and everything on: discriminators, restarts of dead codes, dropout, loader workers
TINY = {
    "width": 4,
    "latent_dim": 32,
    "decoder_width": 32,
    "melp_width": 32,
    "dropout": 0.1,
    "mpd_width": 1,
    "msstft_width": 2,
    "adversarial_start": 1,
    "adversarial_segment": 0.3,
    "restart_after": 2,
    "batch_size": 2,
    "segment": 0.4,
    "valid_segment": 0.4,
    "log_steps": 2,
    "quantize_start": 1,
}


def words(options):
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def place(tmp_path_factory, mini_corpus, campplus_path):
    """A corpus of two speakers, twenty utterances each, and folders beside it that only these tests write to."""
    root = tmp_path_factory.mktemp("recipe")
    copy_voices(mini_corpus, root / "corpus", 20)
    (root / "downloads/campplus").mkdir(parents=True)
    shutil.copy(campplus_path, root / "downloads/campplus/campplus_cn_en_common.pt")
    return root


def run_sh(recipe, place, *options, train=TINY, **more):
    command = [
        "bash",
        str(recipe / "run.sh"),
        "--corpus",
        str(place / "corpus"),
        "--downloads",
        str(place / "downloads"),
    ]
    command += ["--data", str(place / "data"), "--preset", "mini", "--nj", "1", "--words", "1"]
    command += ["--train-args", " ".join(words(train))]
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, **more)


@pytest.fixture(scope="module")
def walked(recipe, place):
    """The experiment that all stages leave."""
    train = TINY | {"total_steps": 6, "steps_per_epoch": 3, "ckpt_interval_steps": 2}
    done = run_sh(recipe, place, "--exp", str(place / "exp"), "--compare", "pscodec_small_24k:1", train=train)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].endswith("report/index.html")
    return place / "exp"


def test_every_stage_leaves_its_files(place, walked):
    for name in (
        "hyperparams.yaml",
        "train_log.txt",
        "curves.tsv",
        "save/theta_0.safetensors",
        "scores.tsv",
        "report/index.html",
    ):
        assert (walked / name).stat().st_size > 0, name
    assert list((walked / "tensorboard").iterdir())
    summary = json.loads((walked / "summary.json").read_text())
    assert set(summary["test"]) >= {"codec", "shuffled_codes", "wrong_prompt"}
    # the corpus has no texts, so what is heard is compared with what is heard in the recording
    assert summary["test"]["codec"]["dwer"]["n"] == 1 and "dwer" not in summary["test"]["shuffled_codes"]
    assert summary["test"]["codec"]["secs_ge2e"]["n"] == summary["test"]["codec"]["utterances"]
    assert "dWER" in (walked / "report/results.md").read_text()
    beside = walked / "compare/pscodec_small_24k_1"
    released = json.loads((beside / "summary.json").read_text())["test"]["codec"]
    assert released["utterances"] == summary["test"]["codec"]["utterances"] and len(released["codebooks"]) == 1
    assert released["stoi"]["mean"] > summary["test"]["codec"]["stoi"]["mean"], "six steps beat a trained codec"
    assert f"| test | {beside.name} |" in (walked / "report/results.md").read_text()
    prompts = dict(line.split() for line in (place / "data/test/utt2prompt").read_text().splitlines())
    speakers = dict(line.split() for line in (place / "data/test/utt2spk").read_text().splitlines())
    alone = [utt for utt, spk in speakers.items() if list(speakers.values()).count(spk) == 1]
    assert len(set(speakers.values())) == 2
    for utt, prompt in prompts.items():
        assert speakers[prompt] == speakers[utt] and (prompt == utt) == (utt in alone)


def test_encodec_walks_every_stage_without_features_and_with_its_balancers_state(recipe, place):
    options = {"config": "conf/encodec.yaml", "exp": place / "encodec", "data": place / "data_encodec", "compare": ""}
    train = TINY | {"codebook_size": 16, "total_steps": 4, "steps_per_epoch": 2, "ckpt_interval_steps": 2}
    language = {"total_steps": 4, "steps_per_epoch": 2, "batch_size": 4, "num_workers": 0, "warmup": 1}
    options |= {"entropy": "true", "entropy-args": " ".join(words(language))}
    done = run_sh(recipe, place, *words(options), train=train)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "encodec.yaml: its codec sees no features" in done.stdout
    assert not list((place / "data_encodec").rglob("*.ark"))
    exp = place / "encodec"
    assert list(exp.glob("save/CKPT*/losses.ckpt")) and (exp / "report/index.html").stat().st_size > 0
    utt, _, codes, side, total = (exp / "decode/test/bits.tsv").read_text().splitlines()[1].split("\t")
    psc = exp / f"decode/test/psc/{utt}.psc"
    stream = load_codec(exp).read(psc)
    assert len(stream.codes) == 32 and (int(codes), int(side)) == (stream.coded, 0)
    assert stream.header.entropy and int(codes) <= stream.codes.size * 4 // 8 and psc.stat().st_size == int(total)
    for length in ("1", "5"):  # what stage 5 said of savings in packets of so many seconds
        assert f"packets of {length} s: codes " in done.stdout
    rows = [line.split("\t") for line in (exp / "decode/test/entropy.tsv").read_text().splitlines()[1:]]
    assert [row[6] for row in rows if row[0] == utt and row[1] == "5"] != [] and {row[1] for row in rows} == {"1", "5"}
    assert all(int(coded) <= int(plain) for _, _, _, plain, coded, _, _ in rows)


def test_what_is_decoded_comes_from_real_files(place, walked):
    rows = [line.split("\t") for line in (walked / "decode/test/bits.tsv").read_text().splitlines()[1:]]
    assert rows
    for utt, seconds, codes, side, total in rows:
        psc = walked / f"decode/test/psc/{utt}.psc"
        stream = bitstream.read(psc)
        assert psc.stat().st_size == int(total) == stream.sizes()["total"]
        frames = -(-stream.n_samples // 320)
        assert stream.codes.shape == (1, frames) and stream.header.bits == 9
        assert int(codes) == sum(-(-9 * min(75, frames - i) // 8) for i in range(0, frames, 75))
        assert int(side) == 1 + 2 * 32 + len("z_vp") + len("z_mel") + 2 * (1 + 2 + 4)
        info = soundfile.info(walked / f"decode/test/wav/{utt}.wav")
        assert (info.samplerate, info.frames) == (24000, stream.n_samples)
        assert float(seconds) == pytest.approx(info.duration)


def test_shuffled_codes_are_the_same_codes_in_another_order(walked):
    utt = next((walked / "decode/test/psc").iterdir()).name
    plain = bitstream.read(walked / "decode/test/psc" / utt).codes
    shuffled = bitstream.read(walked / "decode/test.shuffled_codes/psc" / utt).codes
    assert sorted(plain[0]) == sorted(shuffled[0])


def test_command_line_codes_a_file_and_refuses_to_overwrite(place, walked, tmp_path, capsys):
    speech = next((place / "corpus").rglob("*.wav"))
    cli.main(["encode", str(speech), str(tmp_path / "x.psc"), "--exp", str(walked)])
    cli.main(["decode", str(tmp_path / "x.psc"), str(tmp_path / "x.wav"), "--exp", str(walked)])
    assert abs(soundfile.info(tmp_path / "x.wav").duration - soundfile.info(speech).duration) < 1e-3
    assert "bit/s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists"):
        cli.main(["decode", str(tmp_path / "x.psc"), str(tmp_path / "x.wav"), "--exp", str(walked)])
    with pytest.raises(SystemExit, match="error: "):
        cli.main(["info", str(tmp_path / "x.wav")])


def test_another_models_stream_is_refused(walked, tmp_path):
    psc = next((walked / "decode/test/psc").iterdir())
    stream = bitstream.read(psc)
    stream.header = dataclasses.replace(stream.header, fingerprint=b"strange!", model="other")
    bitstream.write(tmp_path / "x.psc", stream)
    with pytest.raises(SystemExit, match="coded by model other"):
        cli.main(["decode", str(tmp_path / "x.psc"), str(tmp_path / "x.wav"), "--exp", str(walked)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stagee", "3"], "unknown option --stagee"),
        (["--corpus", "/no/such/folder"], "no corpus '/no/such/folder'"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--config", "conf/none.yaml"], "no configuration conf/none.yaml"),
        (["--stage", "3", "--train-args", "--lrr 1"], "unknown option --lrr (did you mean 'lr'?)"),
        (["--stage", "3", "--train-args", "--dev_dir data/none"], "data/none"),
        (["--stage", "3", "--config", "conf/pscodec_drl_ict.yaml", "--first-args", "--lrr 1"], "unknown option --lrr"),
        (["--stage", "5", "--exp", "exp/none"], "no hyperparams.yaml"),
        (["--stage", "6", "--exp", "exp/none"], "exp/none"),
    ],
)
def test_mistakes_are_one_line_and_a_status(recipe, place, walked, options, message):
    defaults = [] if "--exp" in options else ["--exp", str(place / "other")]
    done = run_sh(recipe, place, *defaults, *options)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(told) == 1 and message in told[0], done.stderr[-1500:]


def training(recipe, place, exp, **options):
    """What train.py is called with."""
    settings = TINY | {"total_steps": 12, "steps_per_epoch": 6, "ckpt_interval_steps": 2, "num_workers": 1, **options}
    settings |= {"train_dir": place / "data/train", "dev_dir": place / "data/dev"}
    settings |= {"campplus": place / "downloads/campplus/campplus_cn_en_common.pt"}
    conf = recipe / "conf"
    files = [conf / "pscodec_base.yaml", "--preset", conf / "presets/mini.yaml", "--exp", exp]
    return [*map(str, files), *words(settings)]


def train(recipe, *args, launch=(), **options):
    """train.py in a process of its own, for it is to be killed."""
    command = [sys.executable, *launch, recipe / "train.py", *training(recipe, *args, **options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*map(str, command)], start_new_session=True, **pipes)


def train_here(recipe, *args, **options):
    runpy.run_path(str(recipe / "train.py"))["main"](training(recipe, *args, **options))


def train_in_vain(*args, **options):
    """The line with which train.py ends."""
    with pytest.raises(SystemExit) as end:
        train_here(*args, num_workers=0, **options)
    return str(end.value.code)


def test_two_processes_train_together(recipe, place, walked, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = {"total_steps": 4, "steps_per_epoch": 2, "ckpt_interval_steps": 1}
    out = finished(train(recipe, place, tmp_path / "two", launch=launch, **options))
    assert "step 4/4" in out and last_checkpoint(tmp_path / "two")[0]["step"] == 4


def test_two_processes_walk_the_stages_around_training(recipe, place, walked, tmp_path):
    """The rows are those of one process, whose arithmetic with more threads may differ in the last bit."""
    shutil.copytree(place / "data", tmp_path / "data")
    for path in [*(tmp_path / "data").rglob("*.ark"), *(tmp_path / "data").rglob("features.json")]:
        path.unlink()
    for kind in ("fbank", "mel", "xvector"):
        for path in (tmp_path / "data").rglob(f"{kind}.scp"):
            path.unlink()
    shutil.copytree(walked, tmp_path / "exp", ignore=shutil.ignore_patterns("decode", "report", "scores*", "summary*"))
    both = ["--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp"), "--ngpu", "2"]
    told = ""
    for stages in (["--stage", "2", "--stop-stage", "2"], ["--stage", "5", "--stop-stage", "6"]):
        done = run_sh(recipe, place, *both, *stages)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        told += done.stdout
    assert told.count("utterances made, of 0 already there") == len(list((tmp_path / "data").rglob("mel.scp"))) == 3
    tables = [
        [line.split("\t") for line in (exp / "scores.tsv").read_text().splitlines()]
        for exp in (walked, tmp_path / "exp")
    ]
    assert tables[0][0] == tables[1][0] and [row[:5] for row in tables[0]] == [row[:5] for row in tables[1]]
    assert told.count("decoding with the best checkpoint") == told.count("wrote ") == 1


def test_init_has_the_last_word_on_what_learns(recipe, place, walked, tmp_path, capsys):
    """And `start_from` on what is frozen."""
    short = {"total_steps": 1, "steps_per_epoch": 1, "num_workers": 0}
    train_here(recipe, place, tmp_path / "first", seed=5, **short)
    sources = {f"start_from.{part}": walked for part in ("encoder", "decoder")}
    train_here(recipe, place, tmp_path / "second", init=tmp_path / "first", frozen="encoder", **sources, **short)
    assert f"discriminators of {tmp_path / 'first'}; new: optimizers" in capsys.readouterr().out
    begun = load_file(tmp_path / "second/save/theta_0.safetensors")
    first, kept = (codec_state(exp)[0] for exp in (tmp_path / "first", walked))
    for name, weight in begun.items():
        assert torch.equal(weight, (kept if name.startswith("encoder.") else first)[name]), name
    assert not torch.equal(first["encoder.first.bias"], kept["encoder.first.bias"])


def finished(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-2000:]
    return out


def last_checkpoint(exp):
    """(meta, folder) of the newest whole checkpoint, or (None, None)."""
    found = []
    for path in (exp / "save").glob("CKPT*"):
        with contextlib.suppress(FileNotFoundError):  # a running training removes old ones under our eyes
            found.append((yaml.safe_load((path / "CKPT.yaml").read_text()), path))
    return max(found, key=lambda pair: pair[0]["unixtime"], default=(None, None))


def test_a_killed_run_ends_bit_equal_to_one_that_never_stopped(recipe, place, walked, tmp_path):
    finished(train(recipe, place, tmp_path / "whole", ema_decay=0.5))
    process = train(recipe, place, tmp_path / "killed", ema_decay=0.5)
    wait_for(process, tmp_path / "killed", 2)
    os.killpg(process.pid, signal.SIGTERM)  # a scheduler's preemption: the loader's processes get it too
    out, _ = process.communicate()
    stopped = last_checkpoint(tmp_path / "killed")[0]["step"]
    assert process.returncode == 143 and f"SIGTERM: saved at step {stopped}" in out.splitlines()[-1]
    process = train(recipe, place, tmp_path / "killed", ema_decay=0.5)
    wait_for(process, tmp_path / "killed", 6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stopped = last_checkpoint(tmp_path / "killed")[0]["step"]
    assert 6 <= stopped < 12, "killed in mid-epoch"
    assert f"going on from step {stopped}" in finished(train(recipe, place, tmp_path / "killed", ema_decay=0.5))

    (meta, whole), (other, resumed) = (last_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert meta["step"] == other["step"] == 12 and meta["score"] == other["score"]
    states = [p for p in sorted(whole.glob("*.ckpt")) if p.name not in ("brain.ckpt", "epochs.ckpt")]
    assert {"codec.ckpt", "codec_mean.ckpt", "discriminators.ckpt", "optimizer_codec.ckpt", "random_state.ckpt"} <= {
        p.name for p in states
    }
    for path in states:
        one, two = (torch.load(p, weights_only=True) for p in (path, resumed / path.name))
        assert same(one, two), f"{path.name} differs"
    mean, last = (torch.load(whole / name, weights_only=True) for name in ("codec_mean.ckpt", "codec.ckpt"))
    assert mean.keys() == last.keys() and not torch.equal(mean["encoder.last.weight"], last["encoder.last.weight"])
    assert codec_weights(tmp_path / "whole", "last")[0].name == "codec_mean.ckpt"


def wait_for(process, exp, step):
    """Until there is a checkpoint of `step` or later."""
    deadline = time.time() + 200
    while (last_checkpoint(exp)[0] or {"step": 0})["step"] < step:
        assert time.time() < deadline and process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return one == two


def test_fine_tuning_starts_from_another_experiments_codec_and_discriminators(recipe, place, walked, tmp_path, capsys):
    options = {"total_steps": 2, "steps_per_epoch": 2, "lr": "1e-9", "restart_after": 0}
    train_here(recipe, place, tmp_path / "tuned", **options)
    assert "step 2/2" in capsys.readouterr().out
    train_here(recipe, place, tmp_path / "init", **options, adversarial_start=99, init=walked)
    start = torch.load(last_checkpoint_best(walked) / "codec.ckpt", weights_only=True)
    end = torch.load(last_checkpoint(tmp_path / "init")[1] / "codec.ckpt", weights_only=True)
    assert torch.allclose(start["encoder.last.weight"], end["encoder.last.weight"], atol=1e-6)
    start = torch.load(last_checkpoint_best(walked) / "discriminators.ckpt", weights_only=True)
    end = torch.load(last_checkpoint(tmp_path / "init")[1] / "discriminators.ckpt", weights_only=True)
    assert all(torch.equal(start[k], end[k]) for k in start)


def test_a_larger_codec_grows_out_of_another_experiments(recipe, place, walked, tmp_path, capsys):
    options = {"total_steps": 2, "steps_per_epoch": 2, "lr": "1e-9", "restart_after": 0, "adversarial_start": 99}
    train_here(recipe, place, tmp_path / "grown", **options, grow=walked, n_residual=3)
    assert "codec.quantizer.groups.0.layers.2 begins anew" in capsys.readouterr().out
    start = torch.load(last_checkpoint_best(walked) / "codec.ckpt", weights_only=True)
    end = torch.load(last_checkpoint(tmp_path / "grown")[1] / "codec.ckpt", weights_only=True)
    assert torch.allclose(start["encoder.last.weight"], end["encoder.last.weight"], atol=1e-6)


def last_checkpoint_best(exp):
    return Path(codec_weights(exp)[0]).parent


def test_nan_and_a_changed_configuration_stop_with_one_line(recipe, place, walked, tmp_path):
    told = train_in_vain(recipe, place, tmp_path / "short", total_steps=10)  # a tenth of them on the way up
    assert "no schedule of the learning rate fits 10 steps" in told
    assert "not finite" in train_in_vain(recipe, place, tmp_path / "nan", lambda_mel=".nan")
    assert "trained with another configuration" in train_in_vain(recipe, place, walked, latent_dim=48)


def test_a_collapsed_codebook_stops_the_run(recipe, place, walked, tmp_path):
    assert "collapsed" in train_in_vain(recipe, place, tmp_path / "x", min_perplexity=600, collapse_after=0)
