"""Stage 7 end to end on a tiny experiment."""

import json
import re

import numpy as np
import pytest
import torch

from pscodec.bin import report
from pscodec.bin.report_figures import pick
from pscodec.data.audio import save_audio
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.metrics.summary import CODEC, mean_ci

RATE = 24000
PAPER = (
    "table\ttestset\tsystem\tn_q\tbitrate\tpesq\tstoi\tvisqol\tutmos\tsi_snr\tmcd_linear\tsecs\n"
    "I\ttest_clean\tPSCodec-Base\t1\t675\t2.684\t0.932\t3.306\t3.986\t1.715\t1.181\t0.870\n"
    "I\ttest_clean\tPSCodec-Base\t2\t1350\t3.245\t0.962\t3.807\t4.002\t3.496\t0.937\t0.906\n"
    "I\ttest_clean\tDAC\t1\t675\t1.596\t0.839\t1.726\t2.893\t-1.791\t1.852\t0.732\n# a note\n"
)


@pytest.fixture
def tiny(tmp_path):
    """An experiment of two utterances, scored: `(exp, data, paper)`."""
    exp, data, paper = tmp_path / "exp/tiny", tmp_path / "data", tmp_path / "table1.tsv"
    paper.write_text(PAPER)
    noise = torch.Generator().manual_seed(0)
    utterances, rows = [], ["split\tcondition\tutt\tspk\tseconds\tstoi\tpesq"]
    for i, utt in enumerate(("a-1", "b<1>")):
        wav = 0.1 * torch.randn(1, RATE, generator=noise)
        save_audio(tmp_path / f"{i}.wav", wav, RATE)
        save_audio(exp / f"decode/test/wav/{utt}.wav", wav / 2, RATE)
        save_audio(exp / f"decode/test.wrong_prompt/wav/{utt}.wav", wav / 4, RATE)
        utterances.append(Utterance(utt, utt[0], str(tmp_path / f"{i}.wav"), 1.0))
        rows.append(f"test\tcodec\t{utt}\t{utt[0]}\t1\t0.{8 + i}\tnan")
    write_data_dir(data / "test", utterances)
    (exp / "scores.tsv").write_text("\n".join(rows) + "\n")
    entry = {
        "utterances": 2,
        "stoi": {**mean_ci([0.8, 0.9]), "failed": 0},
        "pesq": {**mean_ci([]), "failed": 2},
        "bitrate_codes": {**mean_ci([680.0, 680.0]), "failed": 0},
        "bitrate_total": {**mean_ci([5000.0, 5100.0]), "failed": 0},
        "wer": {**mean_ci([0.25]), "failed": 0},
        "codebooks": [{"size": 512, "frames": 150, "used": 128, "usage": 0.25, "perplexity": 64.0}],
    }
    control = {"utterances": 2, "stoi": {**mean_ci([0.3, 0.4]), "failed": 0}, "codebooks": []}
    (exp / "summary.json").write_text(json.dumps({"test": {"codec": entry, "wrong_prompt": control}}))
    lines = ["step\tset\tname\tvalue"]
    lines += [f"{s}\ttrain\tmel\t{2 - s / 200}" for s in range(0, 200, 2)] + ["100\tvalid\tmel\t1.5", "100\ttrain\tle"]
    (exp / "curves.tsv").write_text("\n".join(lines))
    (exp / "hyperparams.yaml").write_text("seed: 1\ncodec: !new:pscodec.models.pscodec.PSCodec\n  width: 8\n")
    return exp, data, paper


def run(tiny, *options):
    exp, data, paper = tiny
    report.main(["--exp", str(exp), "--data", str(data), "--paper", str(paper), *options])
    return exp / "report"


def test_the_page(tiny, capsys):
    out = run(tiny)
    assert str(out / "index.html") in capsys.readouterr().out
    text = (out / "index.html").read_text(encoding="utf-8")
    for wanted in (
        "<h1>tiny (PSCodec)</h1>",
        "<b>198</b>",  # steps
        "0.850<small>± 0.635</small>",  # mean and half width of 0.8 and 0.9: 12.706 * 0.05
        "0.250<small>n 1</small>",  # words of one of the two utterances
        "<b>680</b>",
        "prompt of a wrong speaker",
        "PSCodec-Base, test-clean, 1 codebook<",
        "not comparable",
        "128 of 512",
        "6.00 of 9",  # bits: log2 of the perplexity
        "pesq: undefined for 2 of 2",
        "b&lt;1&gt;",
    ):
        assert wanted in text, wanted
    assert "2 codebooks" not in text and "b<1>" not in text and "http" not in text
    links = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(links) == 2 + 2 * (2 + 3)  # curves and spectrograms for light and dark; reference, codec, control
    assert all((out / link).stat().st_size > 500 for link in links)
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert "| test | tiny | 2 | 680 ± 0 |" in markdown and "0.932" in markdown
    assert " | 0.250 (n 1) |" in markdown and "n 2" not in markdown


def test_several_experiments_and_no_extras(tiny):
    exp, data, _ = tiny
    for name in ("curves.tsv", "hyperparams.yaml"):
        (exp / name).unlink()
    out = exp.parent / "both"
    report.main(["--exp", str(exp), "--exp", str(exp), "--data", str(data), "--out", str(out), "--examples", "1"])
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "tiny · tiny" in text and "Training" not in text and "the paper" not in text.split("<h2>Results")[0]


def test_picks_spread_over_the_scores():
    rows = [{"utt": str(i), "condition": CODEC, "stoi": v} for i, v in enumerate(np.linspace(1, 0, 11))]
    assert [row["utt"] for row in pick(rows, 3)] == ["10", "5", "0"]
    assert len(pick(rows, 20)) == 11


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scores.tsv", None, "run stage 6"),
        ("summary.json", None, "run stage 6"),
        ("summary.json", "{", "not valid JSON"),
        ("scores.tsv", "a\tb\n", "not a table"),
    ],
)
def test_mistakes_are_one_line(tiny, name, text, message):
    path = tiny[0] / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(SystemExit) as exit:
        run(tiny)
    assert message in str(exit.value) and name in str(exit.value) and "\n" not in str(exit.value)


def test_the_papers_tables_can_be_read(recipe):
    tables = {path.name: report.read_paper(path) for path in sorted((recipe / "paper").glob("table*.tsv"))}
    assert {name: len(rows) for name, rows in tables.items()} == {
        "table1.tsv": 36,
        "table2.tsv": 18,
        "table3.tsv": 4,
        "table4.tsv": 6,
        "table5.tsv": 6,
    }
    for rows in tables.values():
        for row in rows:
            assert all(np.isfinite(float(row[key])) for key in ("n_q", "bitrate", "pesq", "stoi", "secs"))
