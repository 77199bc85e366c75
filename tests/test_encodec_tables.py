"""The EnCodec paper's tables: figures and rows agree, what is called, and means of scores beside the paper's."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pscodec.utils.hparams import compose

RECIPE = Path(__file__).parents[1] / "recipes/LibriTTS/codec"
HEADER = "split\tcondition\tutt\tspk\tseconds\tvisqol\tsi_snr\tbitrate_codes"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE / "tables"))
    return importlib.import_module("encodec_tables")


@pytest.fixture
def systems(tables):
    return {row["id"]: row for row in tables.read_table(tables.PAPER / "systems.tsv")}


def test_the_papers_rows_have_configurations_and_scores(tables, systems):
    for row in systems.values():
        assert compose(RECIPE / row["config"])
    for table in tables.TITLES:
        for row in tables.read_table(tables.PAPER / f"table{table}.tsv"):
            assert row["row"] == "-" or row["n_q"] in systems[row["row"]]["n_q"].split(), row
    first = tables.read_table(tables.PAPER / "table1.tsv")
    # 75 frames of 10 bits a codebook
    assert [float(row["bandwidth"]) for row in first] == [0.75 * int(row["n_q"]) for row in first] == [1.5, 3, 6, 12]


def test_what_a_row_calls(tables, systems, tmp_path):
    args = tables.parse(
        ["--out", str(tmp_path), "--budget", "340", "--train-args", "--lr 1e-4", "--run-args", "--nj 2"]
    )
    words = tables.command(systems["one"], args)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--config"] == "conf/encodec.yaml" and options["--compare"] == f"{tmp_path}/one:8"
    train = options["--train-args"].split()
    train = dict(zip(train[::2], train[1::2], strict=True))
    # a tenth of the preset's 3,400 steps, and of what is counted in them
    assert train["--total_steps"] == "340" and train["--adversarial_start"] == "330" and train["--lr"] == "1e-4"
    assert train["--codec.quantizer.drawn"] == "[8]" and options["--nj"] == "2" and options["--preset"] == "mini"
    language = tables.command(systems["encodec"], args)
    language = language[language.index("--entropy-args") + 1].split()
    # a tenth of its 600 steps (conf/language/mini.yaml), too
    assert dict(zip(language[::2], language[1::2], strict=True)) == {
        "--total_steps": "60",
        "--warmup": "5",
        "--steps_per_epoch": "15",
        "--ckpt_interval_steps": "15",
        "--log_steps": "5",
    }
    args.budget = None
    assert "--entropy-args" not in tables.command(systems["encodec"], args)


def write_scores(tables, out, row, n_q, *rows):
    path = tables.scores_of(out, row, n_q)
    path.parent.mkdir(parents=True)
    lines = [f"test\t{c}\tu{i}\ts\t2.0\t{v}\t{s}\t{b}" for i, (c, v, s, b) in enumerate(rows)]
    path.write_text("\n".join([HEADER, *lines]) + "\n")


def test_means_stand_beside_the_papers_figures(tables, systems, tmp_path):
    args = tables.parse(["--out", str(tmp_path), "--tables", "1 2 3"])
    rows = ("codec", 4.0, 5.0, 6000), ("codec", 4.5, 6.0, 6100), ("shuffled_codes", 1.0, -40.0, 6000)
    write_scores(tables, tmp_path, systems["encodec"], 8, *rows)
    text = tables.write_tables(args, systems, {})
    assert "| ENCODEC | 8 | ours | 6.0 | - | - |" in text, "6.05 kbit/s; no language model yet, no listeners"
    assert "| ENCODEC | 8 | paper | 6.0 | 4.1 | 83.10 |" in text
    assert "| MS-STFT | 8 | ours | 5.50 | 4.25 | - |" in text and "| MPD | 8 | ours | - | - | - |" in text
    assert "| ENCODEC without balancer | 8 | paper | - | - |" in text and "| Opus | - | ours" not in text
    assert (tmp_path / "tables.md").read_text() == text
    coded = tables.coded_of(tmp_path, systems["encodec"], "8") / "decode/test"
    coded.mkdir(parents=True)
    lines = ["utt\tseconds\tcodes_bytes\tside_bytes\ttotal_bytes", "u0\t2.0\t1000\t0\t1100", "u1\t4.0\t2100\t0\t2200"]
    (coded / "bits.tsv").write_text("\n".join(lines) + "\n")
    text = tables.write_tables(args, systems, {})
    assert "| ENCODEC | 8 | ours | 6.0 | 4.1 | - |" in text, "4.0 and 4.2 kbit/s"
    assert not tables.done(systems["encodec"], tmp_path)
    for n_q in (2, 4, 16):
        write_scores(tables, tmp_path, systems["encodec"], n_q, *rows)
    assert tables.done(systems["encodec"], tmp_path)


def test_speed_and_latency(tables, systems):
    with torch.inference_mode():
        mono, stereo = (tables.speed(systems[name], n, 0.3, 1) for name, n in (("encodec", 8), ("stereo", 4)))
    assert mono["latency"] == pytest.approx(40 / 3) and stereo["latency"] == 1000
    for found in (mono, stereo):
        assert found["encode"] > found["encode_coded"] > 0 and found["decode"] > found["decode_coded"] > 0


def test_the_script_dispatches_and_refuses(tmp_path):
    def run(*words):
        env = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": sys.prefix}
        command = ["bash", str(RECIPE / "tables.sh"), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        return done.returncode, done.stdout, done.stderr

    status, out, _ = run("--paper", "encodec", "--out", str(tmp_path), "--tables", "2", "--dry-run")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [
        "encodec",
        "msd_stft",
        "mpd",
        "msstft_mpd",
    ]
    for words, told in (
        (["--paper", "dac"], "no tables of paper 'dac'"),
        (["--paper", "encodec", "--tables", "7"], "no table 7"),
        (["--paper", "encodec", "--rows", "dac"], "no row 'dac'"),
    ):
        status, _, err = run(*words)
        assert status == 1 and err.count("\n") == 1 and told in err
