"""Stage 6 end to end on two utterances: scores, summary, resuming, and what it refuses."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pscodec import bitstream
from pscodec.bin import evaluate
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import Utterance, write_data_dir, write_table
from pscodec.metrics.summary import read_scores
from pscodec.scoring import How

RATE = 24000
METRICS = ["--metrics", "pesq stoi si_snr mcd mcd_linear"]


def buzz(seconds, pitch):
    time = np.arange(int(seconds * RATE)) / RATE
    wav = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20)) * np.clip(np.sin(12 * time), 0, 1)
    return torch.from_numpy(0.3 * wav / np.abs(wav).max()).float()[None]


@pytest.fixture
def decoded(tmp_path):
    """Two recordings, "decoded" by adding noise, and a noisier control condition: `(exp, data)`."""
    exp, data = tmp_path / "exp/tiny", tmp_path / "data"
    noise = torch.Generator().manual_seed(0)
    utterances = []
    for utt, seconds, pitch in (("a-1", 1.5, 110), ("b-1", 2.0, 170)):
        path = tmp_path / f"{utt}.wav"
        save_audio(path, buzz(seconds, pitch), RATE)
        utterances.append(Utterance(utt, utt[0], str(path), seconds))
    write_data_dir(data / "test", utterances)
    for folder, level in (("test", 0.01), ("test.shuffled_codes", 0.3)):
        rows = ["utt\tseconds\tcodes_bytes\tside_bytes\ttotal_bytes"]
        for u in utterances:
            wav, _ = load_audio(u.path)
            wav = wav + level * torch.randn(wav.shape, generator=noise)
            save_audio(exp / "decode" / folder / "wav" / f"{u.utt}.wav", wav, RATE)
            codes = torch.arange(-(-wav.shape[-1] // 320)).numpy()[None] % 4
            stream = bitstream.Stream(bitstream.Header(RATE, 320, 1, 9, b"12345678"), codes, wav.shape[-1])
            bitstream.write(exp / "decode" / folder / "psc" / f"{u.utt}.psc", stream)
            rows.append(f"{u.utt}\t{u.duration}\t100\t2048\t2200")
        (exp / "decode" / folder / "bits.tsv").write_text("\n".join(rows) + "\n")
        wavs = {u.utt: exp / "decode" / folder / "wav" / f"{u.utt}.wav" for u in utterances}
        write_table(exp / "decode" / folder / "wav.scp", wavs)
    return exp, data


def run(decoded, *options):
    exp, data = decoded
    evaluate.main(["--exp", str(exp), "--data", str(data), "--splits", "test", "--nj", "1", *options])


def test_scores_and_summary(decoded, capsys):
    exp, _ = decoded
    run(decoded, *METRICS, "--controls-metrics", "stoi secs")
    out = capsys.readouterr().out
    header, *lines = (exp / "scores.tsv").read_text().splitlines()
    assert header.split("\t")[:8] == ["split", "condition", "utt", "spk", "seconds", "pesq", "stoi", "si_snr"]
    assert [line.split("\t")[:3] for line in lines] == [
        ["test", "codec", "a-1"],
        ["test", "codec", "b-1"],
        ["test", "shuffled_codes", "a-1"],
        ["test", "shuffled_codes", "b-1"],
    ]
    rows = read_scores(exp / "scores.tsv")
    assert rows[1]["seconds"] == 2.0 and rows[1]["bitrate_codes"] == 400.0 and rows[1]["bitrate_total"] == 8800.0
    assert "pesq" in rows[0] and "pesq" not in rows[2]  # only cheap metrics for controls
    summary = json.loads((exp / "summary.json").read_text())["test"]
    stoi = summary["codec"]["stoi"]
    assert stoi["mean"] == pytest.approx((rows[0]["stoi"] + rows[1]["stoi"]) / 2, rel=1e-5)
    assert (stoi["n"], stoi["failed"]) == (2, 0) and stoi["mean"] > summary["shuffled_codes"]["stoi"]["mean"]
    # half width for two values: t(0.975, 1) = 12.706 times their distance / 2
    assert stoi["ci95"] == pytest.approx(12.7062 * abs(rows[0]["stoi"] - rows[1]["stoi"]) / 2, rel=1e-3)
    # pooled: 200 bytes in 3.5 s
    assert summary["codec"]["bitrate_codes"]["pooled"] == pytest.approx(200 * 8 / 3.5)
    book = summary["codec"]["codebooks"][0]
    assert (book["size"], book["used"], book["frames"]) == (512, 4, 113 + 150)
    assert book["perplexity"] == pytest.approx(4.0, abs=0.01)
    assert "shuffled_codes" in out and "CPU seconds an utterance: pesq" in out


def test_a_rerun_scores_only_what_changed(decoded, capsys):
    exp, _ = decoded
    run(decoded, "--metrics", "stoi")
    run(decoded, "--metrics", "stoi")
    assert "4 of 4 rows are as before, 0 to score" in capsys.readouterr().out
    table = (exp / "scores.tsv").read_text()
    cache = exp / "scores.cache.jsonl"
    lines = cache.read_text().splitlines()
    cache.write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])  # killed while it wrote the third
    run(decoded, "--metrics", "stoi")
    assert "2 of 4 rows are as before, 2 to score" in capsys.readouterr().out
    assert (exp / "scores.tsv").read_text() == table
    run(decoded, "--metrics", "stoi")
    assert "4 of 4 rows are as before" in capsys.readouterr().out
    wav, rate = load_audio(exp / "decode/test/wav/a-1.wav")
    save_audio(exp / "decode/test/wav/a-1.wav", wav.flip(1), rate)
    run(decoded, "--metrics", "stoi")
    assert "3 of 4 rows are as before, 1 to score" in capsys.readouterr().out
    assert (exp / "scores.tsv").read_text() != table
    run(decoded, "--metrics", "stoi si_snr")  # another metric: only that one is computed
    assert "CPU seconds an utterance: si_snr" in capsys.readouterr().out
    assert all({"stoi", "si_snr"} <= set(row) for row in read_scores(exp / "scores.tsv"))


def test_processes_agree_with_one(decoded, capsys):
    exp, data = decoded
    run(decoded, "--metrics", "stoi mcd")
    table = (exp / "scores.tsv").read_text()
    run(decoded, "--metrics", "stoi mcd", "--rescore", "--nj", "2")
    assert (exp / "scores.tsv").read_text() == table


def test_failures_are_counted(decoded, capsys):
    exp, _ = decoded
    save_audio(exp / "decode/test/wav/a-1.wav", torch.zeros(1, 36000), RATE)
    run(decoded, "--metrics", "stoi si_snr")
    out = capsys.readouterr().out
    assert "stoi failed on 1 of 4 utterances, first test/a-1: the decoded signal is silent" in out
    assert "\tnan\tnan\t" in (exp / "scores.tsv").read_text().splitlines()[1]
    summary = json.loads((exp / "summary.json").read_text())
    assert (summary["test"]["codec"]["stoi"]["n"], summary["test"]["codec"]["stoi"]["failed"]) == (1, 1)


def test_segments_and_fewer_utterances(decoded):
    exp, data = decoded
    whole = data.parent / "whole.wav"
    save_audio(whole, torch.cat([torch.zeros(1, RATE), load_audio(data.parent / "a-1.wav")[0]], 1), RATE)
    (data / "test/wav.scp").write_text(f"b-1 {data.parent / 'b-1.wav'}\nr {whole}\n")
    (data / "test/segments").write_text("a-1 r 1.0 2.5\nb-1 b-1 0.0 2.0\n")
    run(decoded, "--metrics", "si_snr", "--max-utts", "1")
    rows = read_scores(exp / "scores.tsv")
    assert [row["utt"] for row in rows] == ["a-1", "a-1"]
    assert rows[0]["si_snr"] > 10


def test_blind_metrics_score_the_recordings_too(decoded):
    exp, _ = decoded
    run(decoded, "--metrics", "dnsmos", "--max-utts", "1")
    assert [row["condition"] for row in read_scores(exp / "scores.tsv")] == ["codec", "reference", "shuffled_codes"]


def test_dnsmos_may_be_of_some_alone(decoded):
    exp, _ = decoded
    run(decoded, "--metrics", "stoi dnsmos", "--dnsmos", "1")
    rows = [row for row in read_scores(exp / "scores.tsv") if row["condition"] in ("codec", "reference")]
    assert [(row["condition"], "stoi" in row, "dnsmos_ovrl" in row) for row in rows] == [
        ("codec", True, True),
        ("codec", True, False),
        ("reference", False, True),
    ]


def test_words_are_compared_with_the_text(mini_corpus, tmp_path, capsys):
    paths = [mini_corpus / f"en_US_f_Allison/{name}.wav" for name in ("conf-nonextended", "conf-full")]
    texts = ["The conference cannot be extended.", "Not what is said."]
    utterances = [
        Utterance(p.stem, "a", str(p), 2.0, text, language="en") for p, text in zip(paths, texts, strict=True)
    ]
    exp, data = tmp_path / "exp", tmp_path / "data"
    write_data_dir(data / "test", utterances)
    write_table(exp / "decode/test/wav.scp", {p.stem: p for p in paths})
    (exp / "decode/test/psc").mkdir()

    def score(*options):
        run((exp, data), "--whisper", "tiny.en", *options)
        summary = json.loads((exp / "summary.json").read_text())["test"]
        return {condition: entry["wer"]["mean"] for condition, entry in summary.items()}

    found = score("--metrics", "wer cer dwer")
    rows = read_scores(exp / "scores.tsv")
    assert [row["wer_words"] for row in rows[:2]] == [4, 5]
    # "Not what is said." against "That conference is full.": three of nine words
    assert [row["wer"] for row in rows[:2]] == [0.75, 0.0]
    assert found["codec"] == found["reference"] == pytest.approx(3 / 9)
    assert [row["dwer"] for row in rows[:2]] == [0, 0] and "dwer" not in rows[2]
    assert score("--metrics", "wer", "--words", "1") == {"codec": 0.75, "reference": 0.75}  # of the first
    capsys.readouterr()
    write_data_dir(data / "test", [utterances[0], replace(utterances[1], text="That conference is full.")])
    assert score("--metrics", "wer cer")["codec"] == 0
    assert "2 of 4 rows are as before, 2 to score" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_utmos_is_computed_by_the_model_that_is_given(decoded, tmp_path):
    exp, _ = decoded

    class Seconds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((x.shape[0],), x.shape[1] / 16000)

    torch.jit.save(torch.jit.script(Seconds()), str(tmp_path / "utmos.pt"))
    run(decoded, "--metrics", "utmos", "--utmos", str(tmp_path / "utmos.pt"))
    summary = json.loads((exp / "summary.json").read_text())["test"]
    assert {c: summary[c]["utmos"]["mean"] for c in ("codec", "reference")} == {"codec": 1.75, "reference": 1.75}


def test_all_compares_words_as_the_data_allow(decoded, monkeypatch, capsys):
    exp, data = decoded
    how = How(nj=1)
    args = evaluate.parse(["--exp", str(exp), "--data", str(data)])
    assert [n for n in evaluate.choose_metrics(args, how)[0] if n.endswith("er")] == ["dwer", "dcer"]
    (data / "test/text").write_text("a-1 a\nb-1 b\n")
    assert [n for n in evaluate.choose_metrics(args, how)[0] if n.endswith("er")] == ["wer", "cer"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [n for n in evaluate.choose_metrics(args, how)[0] if n.endswith("er")] == []
    assert "wer is left out: faster-whisper is not installed; pip install 'pscodec[scores]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (lambda e, d: None, ["--splits", "other"], "stage 5"),
        (lambda e, d: None, ["--metrics", "moss"], "unknown metric moss"),
        (lambda e, d: None, ["--metrics", "secs"], "secs: no weights at hand (--campplus PATH)"),
        (lambda e, d: None, ["--metrics", "wer", "--whisper", "big"], "big: no model of Whisper; there are tiny.en"),
        (lambda e, d: None, ["--metrics", "secs", "--campplus", "no.pt"], "no.pt: no such file"),
        (lambda e, d: save_audio(e / "decode/test/wav/b-1.wav", buzz(1.9, 170), RATE), [], "b-1 has 48000 samples"),
        (lambda e, d: (e / "decode/test/wav/b-1.wav").unlink(), [], "b-1.wav: no such audio file"),
        (lambda e, d: write_table(e / "decode/test/wav.scp", {"c-1": "x.wav"}), [], "c-1 is not in"),
        (lambda e, d: (d / "test/wav.scp").unlink(), [], "wav.scp: no such file"),
    ],
)
def test_mistakes_are_one_line(decoded, break_it, options, message):
    exp, data = decoded
    break_it(exp, data)
    with pytest.raises(SystemExit) as exit:
        run(decoded, "--metrics", "si_snr", *options)
    assert message in str(exit.value) and "\n" not in str(exit.value)
    assert not (exp / "scores.tsv").exists()
