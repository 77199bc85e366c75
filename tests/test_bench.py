"""The benches run, and say what was measured."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from pscodec import cli
from pscodec.commands.bench import table

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


def test_a_training_step_beside_a_plain_one(monkeypatch, capsys):
    path = ROOT / "tools/bench/train_step.py"
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
    ]
    monkeypatch.setattr(sys, "argv", [str(x) for x in (path, *options)])
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["ours", "plain", "ours"] and "times as fast" in lines[3]
    shares = [int(word) for word in lines[4].replace("%", "").split() if word.isdigit()]
    assert 97 <= sum(shares) <= 103, "the parts are the whole"
