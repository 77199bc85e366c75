"""The benches run, and say what was measured."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pscodec import cli
from pscodec.commands.bench import table
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.prompts.campplus import CAMPPlus
from pscodec.utils.hparams import compose, resolve
from pscodec.utils.macs import count_macs

ROOT = Path(__file__).parents[1]
CONF = ROOT / "recipes/LibriTTS/codec/conf"


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was(monkeypatch):
    monkeypatch.setattr("pscodec.utils.machine.keep_memory", lambda: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def speed(monkeypatch, capsys):
    """tools/bench/codec_speed.py on a small codec; what follows goes to it. Returns what it printed."""

    def run(*args):
        path = ROOT / "tools/bench/codec_speed.py"
        small = ["--config", CONF / "pscodec_base.yaml", "--preset", CONF / "presets/mini.yaml", "--seconds", "0.5"]
        monkeypatch.setattr(sys, "argv", [str(x) for x in (path, *small, "--threads", 1, "--rounds", 1, *args)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_table_holds_medians_as_real_time_factors_and_pushes_in_milliseconds():
    times = {("fp32", 1, "encode file"): [1.0, 2.0, 30.0], ("fp32", 1, "encode push"): [0.004, 0.001, 0.002]}
    head, row = table(times, 10.0).splitlines()
    assert head.split() == ["precision", "threads", "encode", "file", "encode", "push"]
    assert row.split() == ["fp32", "1", "5.0", "2.0"]


def test_bench_measures_every_setting(tiny_exp, capsys):
    cli.main(["bench", "--exp", str(tiny_exp), "--seconds", "0.5", "--rounds", "1", "--precision", "fp32", "bf16"])
    lines = capsys.readouterr().out.splitlines()
    (difference,) = [line for line in lines if line.startswith("bf16 against fp32: ")]
    assert "% of the codes differ; PESQ " in difference
    rows = [line.split() for line in lines if line.split()[0] in ("fp32", "bf16") and line != difference]
    assert len(rows) == 2 and all(len(row) == 8 and min(map(float, row[2:])) > 0 for row in rows)
    assert "ms to encode" in lines[-2] and "peak memory" in lines[-1]


def test_side_by_side(speed):
    rows = [line.split() for line in speed("--against", "plain").splitlines()[2:]]
    assert [row[0] for row in rows] == ["pscodec", "plain"] and rows[0][-2:] == ["1.00", "1.00"]


def test_a_package_that_is_missing_is_one_line(speed, monkeypatch):
    monkeypatch.setitem(sys.modules, "encodec", None)
    with pytest.raises(SystemExit, match="error: .*pip install --no-deps encodec einops"):
        speed("--against", "encodec")


def test_an_experiment_side_by_side_with_opus(tiny_exp, monkeypatch, capsys):
    if not shutil.which("opusenc"):
        pytest.skip("opus-tools is not installed")
    path = ROOT / "tools/bench/codec_speed.py"
    options = ["--exp", tiny_exp, "--against", "opus", "--seconds", "0.5", "--threads", 1, "--rounds", 1]
    monkeypatch.setattr(sys, "argv", [str(x) for x in (path, *options)])
    runpy.run_path(str(path), run_name="__main__")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["pscodec", "opus"] and min(float(row[-1]) for row in rows) > 0


def test_a_training_step_beside_a_plain_one(monkeypatch, capsys):
    path = ROOT / "tools/bench/train_step.py"
    monkeypatch.syspath_prepend(path.parent)
    options = [
        "--preset",
        CONF / "presets/mini.yaml",
        "--batch-size",
        1,
        "--segment",
        0.2,
        "--steps",
        1,
        "--threads",
        1,
        "--peak",
        0.5,
    ]
    monkeypatch.setattr(sys, "argv", [str(x) for x in (path, *options)])
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["ours", "plain", "ours"] and "times as fast" in lines[3]
    shares = [int(word) for word in lines[4].replace("%", "").split() if word.isdigit()]
    assert 97 <= sum(shares) <= 103, "the parts are the whole"
    for line in lines[1:3]:
        *_, rate, share = re.findall(r"[\d.]+(?= TFLOP/s| % of 0.5\))", line)
        assert 0 < float(rate) and float(share) == pytest.approx(float(rate) / 0.5 * 100, abs=0.15)


@pytest.fixture
def training_cost(monkeypatch, capsys):
    """tools/bench/training_cost.py: its names, and what a run of it with these options prints."""
    path = ROOT / "tools/bench/training_cost.py"
    names = runpy.run_path(str(path))

    def run(*options):
        names["main"]([str(option) for option in options])
        return capsys.readouterr().out.splitlines()

    return names, run


class TinyCodec(torch.nn.Module):
    """A trained layer of 3 x 2 weights over the samples, and a CAM++ that is not trained."""

    def __init__(self):
        super().__init__()
        self.layer, self.campplus = torch.nn.Conv1d(1, 2, 3, padding=1, bias=False), CAMPPlus()

    def forward(self, wav, prompt):
        return self.layer(wav), self.campplus(prompt.fbank)


def test_training_cost_counts_what_a_step_does(training_cost):
    names, _ = training_cost
    hp = {"codec": TinyCodec(), "discriminators": torch.nn.Conv1d(1, 5, 1, bias=False), "voiceprint": "crop"}
    hp |= {"sample_rate": 8000, "segment": 0.5, "prompt": 1.0, "adversarial_segment": 0.25, "update": "alternating"}
    found = names["cost"](hp)
    # 4000 samples x 2 channels x 3 taps; the discriminator judges 2000 x 5
    assert (found.trained, found.discriminators, found.parameters) == (24000, 10000, (6, 5))
    assert found.frozen == count_macs(CAMPPlus(), torch.zeros(1, 80, 100)).total > 1e8
    assert found.step == 3 * 24000 + found.frozen + 9 * 10000 and found.gradients == 4 * 11
    hp |= {"voiceprint": "utterance", "update": "simultaneous"}  # CAM++ ran in stage 2
    found = names["cost"](hp)
    assert (found.frozen, found.trained, found.step) == (0, 24000, 3 * 24000 + 7 * 10000)


def test_training_cost_plans_and_sends(training_cost):
    names, _ = training_cost
    plans = list(names["plans"]([1, 8, 12, 64], 40, 500000, 5))
    assert plans == [(1, 40, 500000), (8, 40, 500000), (12, 120, 166667), (64, 320, 62500)]
    assert names["send_seconds"](1e9, 1, 1e9) == 0 and names["send_seconds"](1e9, 4, 1e9) == pytest.approx(1.5)


def rows(lines):
    """The cells of a printed table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_training_cost_tells_hours(training_cost):
    _, run = training_cost
    preset = ["--preset", CONF / "presets/mini.yaml"]
    one, five = rows(run(*preset, "--speed", 10, "--gpus", 1, 5, "--link", 1e9, "--items", 1))
    text = resolve(compose(CONF / "pscodec_base.yaml", preset[1:]))
    steps, batch = (int(re.search(rf"^{key}: (\d+)", text, re.M)[1]) for key in ("total_steps", "batch_size"))
    hours = steps * batch / 10 / 3600
    assert one[:3] == ["1", str(batch), str(steps)] and float(one[-2]) == pytest.approx(hours, abs=0.06)
    assert float(five[-2]) == pytest.approx(hours / 5, abs=0.06)
    speeds = [float(row[4]) for row in rows(run(*preset, "--gpus", 1, "--utilisation", 10, 20))]
    assert speeds[0] > 0 and speeds[1] == pytest.approx(2 * speeds[0], rel=0.01)
    with pytest.raises(SystemExit, match="must be positive"):
        run("--speed", 0)


@pytest.mark.parametrize("codec", ["encodec", "dac"])
def test_codecs_beside_their_public_implementations(codec, monkeypatch, capsys):
    path = ROOT / "tools/bench/public_speed.py"
    monkeypatch.syspath_prepend(path.parent)
    options = ["--codec", codec, "--seconds", "0.5", "--rounds", "1", "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    same, apart = re.search(r"fp32: ([\d.]+) % of the codes.* ([\d.e-]+) apart", lines[1]).groups()
    assert float(same) > 95 and float(apart) < 1e-5
    assert [line.split()[0] for line in lines[3:]] == [codec, "ours,"]
    for line, unit in zip(lines[3:], (True, False), strict=True):
        ratios = [float(ratio) for ratio in re.findall(r"\( *([\d.]+)\)", line)]
        assert len(ratios) == 4 and all(ratio > 0 for ratio in ratios) and (ratios == [1.0] * 4) == unit


def test_the_buzz_is_what_comes_again_in_every_frame():
    line = runpy.run_path(str(ROOT / "tools/bench/buzz.py"))["line"]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(48000)
    frames = np.tile(rng.standard_normal(320), 150)
    assert line(noise, 24000, 75, 6000) < 12 < 40 < line(frames, 24000, 75, 6000)
    assert line(noise + frames, 24000, 75, 6000) > 1.5 * line(noise, 24000, 75, 6000)


def test_the_buzz_of_a_codec_stands_beside_the_recordings(codec_exp, mini_corpus, tmp_path, capsys):
    source = mini_corpus / "en_US_f_Allison/conf-nonextended.wav"
    write_data_dir(tmp_path, [Utterance("a", "a", str(source), 1.0)])
    main = runpy.run_path(str(ROOT / "tools/bench/buzz.py"))["main"]
    with pytest.raises(SystemExit, match="nothing above 30000 Hz"):
        main(["--data", str(tmp_path), "--codec", str(codec_exp), "--above", "3000", "30000"])
    main(["--data", str(tmp_path), "--codec", str(codec_exp), "--above", "3000"])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines() if row.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| recordings", f"| {codec_exp}"]
    assert float(rows[2][1].rstrip(" |")) > 10 + float(rows[1][1].rstrip(" |")), "untrained, it repeats itself"
