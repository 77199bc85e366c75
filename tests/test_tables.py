"""The paper's tables: which rows are planned, what they cost, where a score may stand, and a walk with one failure."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import copy_voices
from test_recipe import TINY, words

from pscodec.utils.errors import UserError

RECIPE = Path(__file__).parents[1] / "recipes/LibriTTS/codec"
HEADER = "split\tcondition\tutt\tspk\tseconds\tpesq\tstoi\tbitrate_codes"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE / "tables"))
    return importlib.import_module("systems_tables"), importlib.import_module("layout")


@pytest.fixture
def made(modules, tmp_path):
    """Calls `parse` and `plan` on options: `(runs, args)`."""
    tables, _ = modules

    def make(*options):
        args = tables.parse(["--out", str(tmp_path / "out"), *options])
        return tables.plan(args), args

    return make


# ---- the data files


@pytest.mark.parametrize(("paper", "count"), [("pscodec", 15), ("ticodec", 4)])
def test_the_systems_are_the_papers(modules, paper, count):
    paper = importlib.import_module("papers").PAPERS[paper]
    systems = paper.systems
    named = {row["system"] for rows in paper.rows.values() for row in rows}
    assert {row["testset"] for rows in paper.rows.values() for row in rows} == paper.names.keys()
    ids = [row.id for row in systems]
    assert len(set(ids)) == len(ids) == count
    for row in systems:
        assert (RECIPE / row.config).is_file() and (row.parent is None or row.parent in ids)
        assert named.issuperset({row.beside} if row.beside else row.systems), row
    here = {name for row in systems for name in row.systems}
    assert named <= here


# ---- the plan


def names(runs):
    return [run.name for run in runs]


def test_which_rows_a_table_needs(made):
    assert names(made("--tables", "III", "--n-q", "1")[0]) == ["base_1q", "casan_1q"]
    assert names(made("--tables", "V", "--n-q", "2")[0]) == ["base_2q", "base_no_vpp_2q", "base_no_melp_2q"]
    # base_long stands beside DRL-ICT, whose parent comes first
    assert names(made("--tables", "iv", "--n-q", "1")[0]) == [
        "base_1q",
        "drl_ict_1q",
        "base_long_1q",
        "drl_1q",
        "ict_1q",
    ]
    assert len(made()[0]) == 30


def test_parents_are_shared_and_come_first(made):
    runs, _ = made("--rows", "ict drl_ict", "--n-q", "2")
    assert names(runs) == ["base_2q", "ict_2q", "drl_ict_2q"]
    assert runs[1].parent is runs[0] and runs[2].parent is runs[0] and runs[0].parent is None
    assert runs[0].options == {"n_groups": "1", "n_residual": "2"}


def test_a_budget_scales_the_schedule(modules):
    tables, _ = modules
    values = {"total_steps": 3600, "adversarial_start": 3450, "quantize_start": 300, "steps_per_epoch": 900}
    values |= {"ckpt_interval_steps": 450, "log_steps": 50}
    assert tables.scaled(values, 360) == {
        "total_steps": 360,
        "adversarial_start": 345,
        "quantize_start": 30,
        "steps_per_epoch": 90,
        "ckpt_interval_steps": 45,
        "log_steps": 5,
    }
    few = tables.scaled(values | {"adversarial_start": 0, "steps_per_epoch": None}, 20)
    assert few["log_steps"] == 1 and "adversarial_start" not in few and "steps_per_epoch" not in few


def test_budgets_and_the_users_options_reach_every_row(made):
    runs, args = made(
        "--rows", "base_long ict", "--n-q", "1", "--budget", "10", "--train-args", "--total_steps 100 --log_steps 20"
    )
    assert [run.steps for run in runs] == [20, 10, 10]
    assert [run.options["log_steps"] for run in runs] == ["4", "2", "2"]
    parent, child = runs[1:]
    assert child.values["lambda_drl"] == parent.values["lambda_drl"] == 0 and child.values["parent"]
    assert parent.options["quantize_start"] == child.options["quantize_start"]  # ICT wants the same codec


def test_a_budget_asks_no_quantizer_for_what_it_has_not(made):
    runs, _ = made("--rows", "dac base", "--n-q", "1", "--budget", "10")
    assert {run.row.id: "quantize_start" in run.options for run in runs} == {"dac": False, "base": True}


def test_libritts_brings_ljspeech_for_table_ii_alone(made):
    assert made("--corpus", "libritts", "--n-q", "1")[0][0].corpora == ["libritts", "ljspeech"]
    assert made("--corpus", "libritts", "--n-q", "1", "--tables", "I")[0][0].corpora == ["libritts"]
    assert made("--n-q", "1")[0][0].corpora == ["mini"]


def test_a_seed_is_a_training_of_its_own_with_its_own_parent(made):
    runs, _ = made("--rows", "drl_ict", "--n-q", "1", "--seeds", "0 7")
    assert names(runs) == ["base_1q", "drl_ict_1q", "base_1q_seed7", "drl_ict_1q_seed7"]
    assert runs[3].parent is runs[2] and runs[3].options["seed"] == "7" and runs[3].values["seed"] == 7
    assert "seed" not in runs[1].options and runs[1].values["seed"] == 0


def test_the_other_papers_rows(made):
    runs, args = made("--paper", "ticodec", "--corpus", "libritts", "--n-q", "4")
    assert names(runs) == ["encodec_4q", "hificodec_4q", "ticodec_4q", "ticodec_consistency_4q"]
    assert runs[0].corpora == ["libritts", "aishell3", "vctk"] and args.paper.test_sets == "test_100"
    assert {run.values["codebook_size"] for run in runs} == {1024} and {run.values["n_residual"] for run in runs} == {4}
    assert len(made("--paper", "ticodec")[0]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tables", "VI"], "no table VI"),
        (["--paper", "ticodec", "--tables", "3"], "no table 3; there are 1 2"),
        (["--paper", "ticodec", "--corpus", "vctk"], "vctk is a test corpus; table 2 takes it"),
        (["--seeds", "a"], "--seeds takes whole numbers"),
        (["--rows", "base casanova"], "no row 'casanova'"),
        (["--n-q", "one"], "--n-q takes numbers"),
        (["--budget", "0"], "at least one step"),
        (["--corpus", "ljspeech"], "is a test corpus"),
        (["--train-args", "--lr 1 --seed"], "expected --key value"),
        (["--train-args", "--lrr 1"], "did you mean 'lr'"),
        (["--preset", "huge"], "huge.yaml"),
    ],
)
def test_mistakes_are_one_line(modules, tmp_path, options, message):
    with pytest.raises(SystemExit) as exit:
        modules[0].main(["--dry-run", "--out", str(tmp_path), *options])
    assert message in str(exit.value) and "\n" not in str(exit.value)


def test_what_was_scored_with_other_settings_is_not_mixed_in(modules, made):
    runs, _ = made("--rows", "base", "--n-q", "1", "--budget", "100")
    runs[0].note.parent.mkdir(parents=True)
    runs[0].note.write_text(json.dumps(runs[0].values | {"num_workers": 9}))
    modules[0].check_notes(runs)
    with pytest.raises(UserError, match="was made with total_steps 100, not 200"):
        modules[0].check_notes(made("--rows", "base", "--n-q", "1", "--budget", "200")[0])


# ---- the cost


def curves(exp, rows, start):
    exp.mkdir(parents=True)
    (exp / "hyperparams.yaml").write_text(f"adversarial_start: {start}\n")
    lines = [
        f"{step}\ttrain\t{name}\t{value}\n"
        for step, speed in rows
        for name, value in (("total", 1), ("speech_per_second", speed))
    ]
    (exp / "curves.tsv").write_text("step\tset\tname\tvalue\n" + "".join(lines))


def test_the_cost_by_hand(modules, made):
    tables, _ = modules
    options = (
        "--rows",
        "base casan",
        "--n-q",
        "1",
        "--train-args",
        "--batch_size 5 --segment 1 --total_steps 3600 --adversarial_start 3000",
    )
    runs, args = made("--preset", "mini", *options)
    # stated: 3000 steps of 5 s at 35 s/s, 600 at 18, 3 minutes for the stages after
    hours, by = tables.cost(runs[0], runs, args, 0)
    assert hours == pytest.approx((3000 * 5 / 35 + 600 * 5 / 18) / 3600 + 0.05) and "stated" in by
    curves(runs[0].exp, [(50, 19), (100, 20), (1000, 21), (3050, 10)], 3000)
    assert tables.steps_done(runs[0].exp) == 3050
    hours, by = tables.cost(runs[0], runs, args, 3050)
    assert hours == pytest.approx(550 * 5 / 10 / 3600 + 0.05) and by == "measured in base_1q"
    hours, by = tables.cost(runs[1], runs, args, 0)
    assert hours == pytest.approx((3000 * 5 / 20 + 600 * 5 / 10) / 3600 + 0.05) and by == "measured in base_1q"


def test_minutes_of_training_by_the_logged_speeds(modules, tmp_path):
    curves(tmp_path / "exp", [(50, 20), (100, 10), (110, 5)], 100)
    minutes_of = importlib.import_module("row_costs").minutes_of
    assert minutes_of(tmp_path / "exp", 4.0) == pytest.approx((50 / 20 + 50 / 10 + 10 / 5) * 4 / 60)
    assert minutes_of(tmp_path / "none", 4.0) == 0


def test_nothing_is_made_up_where_no_speed_is_known(modules, made, capsys):
    runs, args = made("--corpus", "libritts", "--tables", "III", "--n-q", "1")
    assert modules[0].cost(runs[0], runs, args, 0) == (None, "")
    modules[0].describe(runs, args)
    assert "0.0 hours, and 2 rows whose speed is not known" in capsys.readouterr().out


# ---- the tables


@pytest.fixture
def printed(modules, tmp_path):
    """Writes score files `{name: rows}` and gives the lines of a table: `(table, corpus) -> lines`, and the texts."""
    _, texts = modules
    paper = importlib.import_module("papers").PSCODEC

    def make(files, table, corpus="mini", n_q=(1,)):
        for name, rows in files.items():
            (tmp_path / "scores").mkdir(exist_ok=True)
            text = "\n".join([HEADER, *("\t".join(map(str, row)) for row in rows)]) + "\n"
            (tmp_path / "scores" / f"{name}.tsv").write_text(text)
        scores = texts.collect(tmp_path / "scores", paper, n_q)
        lines = texts.lines_of(paper, table, scores, corpus, n_q)
        return lines, texts.differences(paper, table, scores, corpus, n_q)

    return make


def score(split, utt, pesq, stoi, condition="codec"):
    return split, condition, utt, "s", 1.0, pesq, stoi, 680.0


MINI = {
    "base_1q.mini": [score("test", "a", 1.0, 0.8), score("test", "b", 1.2, 0.9), score("test", "a", 9, 9, "no_prompt")],
    "casan_1q.mini": [score("test", "a", 1.3, 0.8), score("test", "b", "nan", 0.8), score("test_unseen", "c", 2, 0.7)],
}


def find(lines, **wanted):
    return [line for line in lines if all(line[key] == value for key, value in wanted.items())]


def test_a_mini_score_stands_under_its_own_name(printed):
    lines, _ = printed(MINI, "III")
    quoted = find(lines, testset="test_clean", system="PSCodec-CasAN", source="paper")
    assert quoted[0]["pesq"]["mean"] == 2.75 and quoted[0]["bitrate"]["mean"] == 675
    ours = find(lines, testset="test_clean", source="ours")
    assert len(ours) == 2 and all(line["pesq"]["mean"] is None and line["n"] is None for line in ours)
    casan, base = find(lines, testset="mini test")
    assert (casan["system"], base["system"]) == ("PSCodec-CasAN", "PSCodec-CasAN w/o CasAN")
    assert base["stoi"]["mean"] == pytest.approx(0.85) and base["n"] == 2 and base["bitrate"]["mean"] == 680
    assert casan["pesq"]["mean"] == 1.3 and casan["pesq"]["n"] == 1


def test_a_libritts_score_stands_beside_the_papers(printed):
    rows = {
        "base_1q.libritts": [score("test_clean", "a", 2.5, 0.9)],
        "base_1q.ljspeech": [score("test_ljspeech", "a", 2.4, 0.8)],
    }
    lines, _ = printed(rows, "I", "libritts")
    assert {line["testset"] for line in lines} == {"test_clean", "test_other"}
    assert find(lines, testset="test_clean", system="PSCodec-Base", source="ours")[0]["pesq"]["mean"] == 2.5
    assert find(lines, testset="test_other", system="PSCodec-Base", source="ours")[0]["pesq"]["mean"] is None
    lines, _ = printed(rows, "II", "libritts")
    assert find(lines, system="PSCodec-Base", source="ours")[0]["pesq"]["mean"] == 2.4


def test_systems_without_scores_print_a_dash(printed, modules):
    lines, _ = printed(MINI, "I")
    assert find(lines, system="DAC", source="ours", testset="test_clean")[0]["pesq"]["mean"] is None
    assert find(lines, system="DAC", testset="mini test")[0]["pesq"]["mean"] is None
    costs = {("base", 1): {"parameters": 3.14, "minutes": 2.0, "encode": 50.0, "decode": 40.0}}
    text = modules[1].markdown(lines, {"test_clean": "LibriTTS test-clean"}, costs)
    assert "| LibriTTS test-clean | 1 | DAC | ours |" + 14 * " - |" in text  # no column that nobody has
    assert "| mini test | 1 | PSCodec-Base | ours | 2 | 1 | 680 | 1.100 ± 1.271 | 0.850 ± 0.635 |" in text
    assert text.count("| 3.1 | 2.0 | 50.0 | 40.0 |") == 1


def test_seeds_are_averaged_by_utterance_and_told_apart(printed, modules, tmp_path):
    _, texts = modules
    paper = importlib.import_module("papers").PSCODEC
    other = [score("test", "a", 1.2, 0.6), score("test", "b", 1.4, 0.7)]
    lines, apart = printed({**MINI, "base_1q_seed3.mini": other}, "I")
    (base,) = find(lines, testset="mini test", system="PSCodec-Base")
    assert base["seeds"] == 2 and base["n"] == 2 and base["stoi"]["mean"] == pytest.approx(0.75)
    assert base["stoi"]["ci95"] == pytest.approx(12.7062 * 0.05, rel=1e-4)  # of 0.7 and 0.8, the means of an utterance
    (casan,) = find(apart, system="PSCodec-CasAN − PSCodec-Base", source="ours", testset="mini test")
    assert casan["stoi"]["mean"] == pytest.approx(((0.8 - 0.7) + (0.8 - 0.8)) / 2)
    each = texts.each_seed(paper, "I", texts.collect(tmp_path / "scores", paper, (1,)), "mini", (1,))
    assert [(line["source"], round(line["stoi"]["mean"], 3)) for line in each] == [("seed 0", 0.85), ("seed 3", 0.65)]


def test_a_base_of_both_stages_steps_stands_beside_drl_ict(printed):
    lines, _ = printed({**MINI, "base_long_1q.mini": [score("test", "a", 1.5, 0.9)]}, "IV")
    order = [line["system"] for line in find(lines, testset="mini test")]
    assert order[:2] == ["PSCodec-DRL-ICT", "PSCodec-Base, both stages' steps"]
    assert not find(lines, system="PSCodec-Base, both stages' steps", testset="test_clean")  # no row of the paper


def test_table_ii_is_about_what_training_has_not_heard(printed):
    lines, _ = printed(MINI, "II")
    assert {line["testset"] for line in lines} == {"ljspeech", "mini test_unseen"}
    assert find(lines, testset="mini test_unseen", system="PSCodec-CasAN")[0]["pesq"]["mean"] == 2


def test_differences_are_paired(printed):
    _, apart = printed(MINI, "III")
    paper, ours = apart
    assert paper["system"] == ours["system"] == "PSCodec-CasAN w/o CasAN − PSCodec-CasAN"
    assert (paper["testset"], ours["testset"]) == ("test_clean", "mini test")
    assert paper["stoi"]["mean"] == pytest.approx(0.932 - 0.941)
    # stoi: 0.8 - 0.8 and 0.9 - 0.8; pesq has one pair
    assert ours["stoi"]["mean"] == pytest.approx(0.05) and ours["stoi"]["ci95"] == pytest.approx(
        12.7062 * 0.05, rel=1e-4
    )
    assert (ours["pesq"]["n"], ours["pesq"]["mean"]) == (1, pytest.approx(-0.3))


# ---- the walk


def test_one_row_fails_and_the_other_is_scored(mini_corpus, campplus_path, tmp_path):
    copy_voices(mini_corpus, tmp_path / "tiny", 6)
    (tmp_path / "downloads/campplus").mkdir(parents=True)
    shutil.copy(campplus_path, tmp_path / "downloads/campplus/campplus_cn_en_common.pt")
    train = TINY | {"total_steps": 40, "casan_heads": 5}  # into which 32 channels do not divide
    command = [
        "bash",
        RECIPE / "tables.sh",
        "--corpus",
        tmp_path / "tiny",
        "--preset",
        "mini",
        "--out",
        tmp_path / "out",
    ]
    command += ["--n-q", "1", "--rows", "casan hificodec", "--budget", "4", "--train-args", " ".join(words(train))]
    command += ["--run-args", f"--downloads {tmp_path}/downloads --data {tmp_path}/data --nj 1"]

    def call(*more):
        environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
        return subprocess.run([*map(str, command), *more], capture_output=True, text=True, env=environment)

    done = call()
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and told[-1] == "error: 1 failed: casan_1q (run.sh ended with status 1 on tiny)", (
        done.stderr[-2000:]
    )
    text = (tmp_path / "out/tables.md").read_text()
    assert "| tiny test | 1 | HifiCodec | ours |" in text and text in done.stdout
    costs = json.loads((tmp_path / "out/scores/hificodec_1q.costs.json").read_text())
    assert costs.keys() == {"parameters", "minutes", "encode", "decode"} and min(costs.values()) > 0
    assert "| parameters, M | training, min | encode, × real time | decode, × real time |" in text
    assert "| tiny test | 1 | PSCodec-CasAN | ours | - | - |" in text
    assert (tmp_path / "out/tables.tsv").read_text().count("tiny test\t1\tHifiCodec\tours") == 1
    plan = call("--dry-run").stdout.splitlines()
    assert [line.split()[3] for line in plan[1:3]] == ["to", "done"]
