"""Stage 7 of speech from text: Table 3's layout with several codecs, what listeners said, and the page to listen to."""

import json
import re

import pytest
import torch
from conftest import ROOT

from pscodec import cli
from pscodec.bin import report
from pscodec.bin.report_speech import read_listening
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import Utterance, write_data_dir, write_table
from pscodec.listening.make import read_key
from pscodec.metrics.summary import mean_ci
from pscodec.utils.errors import UserError

RATE, PAPER = 24000, ROOT / "recipes/LibriTTS/tts/paper/table3.tsv"
UTTS = {"a-0": "a-1", "b-0": "b-1"}  # and their prompts
WORTH = {"codec": 0.5, "wrong_prompt": 0.6, "coded": 0.25, "recording": 0.125}  # WER; SIM is one less that


def synthesised(root, name, codec, n_q, longer):
    """An experiment as stages 3, 5 and 6 leave it; its sentences last `longer` seconds more than the recordings."""
    exp, rng = root / name, torch.Generator().manual_seed(n_q)
    keys = {"codec": codec, "n_q": n_q, "codebook_size": 512, "frame_rate": 75.0}
    (exp / "ar").mkdir(parents=True)
    (exp / "ar/hyperparams.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    rows, summary = ["split\tcondition\tutt\tspk\tseconds\twer\tsecs_ge2e"], {}
    for condition, wer in WORTH.items():
        folder = exp / "decode" / ("test" if condition == "codec" else f"test.{condition}")
        for utt, prompt in UTTS.items():
            length = RATE if condition in ("coded", "recording") else round((1 + longer) * RATE)
            save_audio(folder / f"wav/{utt}.wav", 0.1 * torch.randn(1, length, generator=rng), RATE)
            rows.append(f"test\t{condition}\t{utt}\t{utt[0]}\t1\t{wer}\t{1 - wer}")
            if condition == "codec":
                (folder / "told").mkdir(exist_ok=True)
                (folder / f"told/{utt}.json").write_text(json.dumps({"prompt": prompt}))
        write_table(folder / "wav.scp", {utt: folder / f"wav/{utt}.wav" for utt in UTTS})
        scores = {"wer": {**mean_ci([wer, wer]), "failed": 0}, "secs_ge2e": {**mean_ci([1 - wer] * 2), "failed": 0}}
        summary[condition] = {"utterances": 2, **scores, "codebooks": []}
    (exp / "scores.tsv").write_text("\n".join(rows) + "\n")
    (exp / "summary.json").write_text(json.dumps({"test": summary}))
    return exp


@pytest.fixture
def two(tmp_path):
    """Two experiments, with one codebook and with two, and the folder of their data."""
    utterances, rng = [], torch.Generator().manual_seed(0)
    for utt in (*UTTS, *UTTS.values()):
        save_audio(tmp_path / f"{utt}.wav", 0.1 * torch.randn(1, RATE, generator=rng), RATE)
        utterances.append(Utterance(utt, utt[0], str(tmp_path / f"{utt}.wav"), 1.0, f"what {utt} says"))
    write_data_dir(tmp_path / "data/test", utterances)
    exps = synthesised(tmp_path, "one", "codecs/ours", 1, 0.5), synthesised(tmp_path, "both", "dac", 2, 0.3)
    return *exps, tmp_path / "data"


def told(two, *options):
    """`(index.html, results.md)` of the report on both."""
    one, both, data = two
    report.main(["--exp", str(one), "--exp", str(both), "--data", str(data), "--paper", str(PAPER), *map(str, options)])
    return [(one / "report" / name).read_text(encoding="utf-8") for name in ("index.html", "results.md")]


def rows_of(markdown):
    """Table 3's rows, as lists of cells, without those of what follows."""
    lines = markdown.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_codecs_stand_by_their_codebooks_beside_the_papers(two):
    page, markdown = told(two)
    rows = rows_of(markdown)
    assert [(row[1], row[2]) for row in rows] == [
        ("the recordings", "the recordings"),
        ("the recordings", "the recordings"),
        ("1 codebook", "VALL-E on HifiCodec"),
        ("1 codebook", "VALL-E on TiCodec"),
        ("1 codebook", "VALL-E on TiCodec + L_c"),
        ("1 codebook", "VALL-E on ours (one)"),
        ("1 codebook", "a wrong speaker's prompt (one)"),
        ("1 codebook", "the recordings, coded (one)"),
        ("2 codebooks", "VALL-E on HifiCodec"),
        ("2 codebooks", "VALL-E on TiCodec"),
        ("2 codebooks", "VALL-E on TiCodec + L_c"),
        ("2 codebooks", "VALL-E on dac (both)"),
        ("2 codebooks", "a wrong speaker's prompt (both)"),
        ("2 codebooks", "the recordings, coded (both)"),
        *[("4 codebooks", f"VALL-E on {name}") for name in ("HifiCodec", "TiCodec", "TiCodec + L_c")],
    ]
    assert [row[0] for row in rows if "paper" not in row[0]] == ["test"] * 7
    # bit/s, n, WER, CER, SIM by GE2E and CAM++, MOS, SMOS
    assert rows[3][3:] == ["-", "-", "0.348", "-", "0.755", "-", "3.80 ± 0.21", "4.13 ± 0.14"]
    assert rows[5][3:] == ["675", "2", "0.500 ± 0.000", "-", "0.500 ± 0.000", "-", "-", "-"]
    assert rows[6][7] == "0.400 ± 0.000" and rows[11][3] == "1,350"
    assert "<td>VALL-E on ours (one)</td><td>675</td><td>2</td><td>0.500" in page.replace(' class="name"', "")
    assert page.count("VALL-E on TiCodec + L_c") == 3  # in this table alone


def test_the_prompt_can_be_heard_beside_what_was_made_of_it(two):
    page, _ = told(two)
    card = page[page.index("<b>a-0</b>") :].split("</div></div>")[0]
    names = re.findall(r"<div><span>([^<]*)</span><audio[^>]* src=\"([^\"]+)\"", card)
    assert [name for name, _ in names] == [
        "the prompt",
        "a recording of the text",
        "one",
        "both",
        "one: the recordings, coded",
        "one: prompt of a wrong speaker",
        "both: the recordings, coded",
        "both: prompt of a wrong speaker",
    ]
    one, _, data = two
    assert torch.equal(load_audio(one / "report" / names[0][1])[0], load_audio(data.parent / "a-1.wav")[0])
    assert torch.equal(load_audio(one / "report" / names[1][1])[0], load_audio(data.parent / "a-0.wav")[0])
    assert "what a-0 says" in card


def asked(tmp_path, kind, systems, reference, values):
    """A listening test of `kind` on `systems` (name -> folder), of which two listeners say the `values`, name -> pair:
    the file that `pscodec listening-results` writes."""
    test = tmp_path / f"test_{kind}"
    named = [f"{name}={folder}" for name, folder in systems.items()]
    cli.main(["listening-test", *named, *reference, "--kind", kind, "--seconds", "0", "--out", str(test)])
    key = read_key(test)
    for i in range(2):
        said = {id_: values[system][i] for id_, (_, system) in key.stimuli.items()}
        trials = [{"seconds": 9, "ratings": {id_: said[id_] for id_ in ids}} for ids, _ in key.trials]
        results = {"test": key.id, "kind": kind, "listener": f"l{i}", "trials": trials}
        (tmp_path / f"{kind}.{i}.json").write_text(json.dumps(results))
    files = [str(tmp_path / f"{kind}.{i}.json") for i in range(2)]
    cli.main(["listening-results", str(test), *files, "--json", str(tmp_path / f"{kind}.json")])
    return tmp_path / f"{kind}.json"


def test_what_listeners_said_of_recordings_of_any_length(two, tmp_path, capsys):
    one, both, data = two
    systems = {"one": one / "decode/test", "both": both / "decode/test", "one.coded": one / "decode/test.coded"}
    systems |= {"recording": one / "decode/test.recording", "opus": both / "decode/test.coded"}
    values = {"one": (4, 3), "both": (2, 2), "one.coded": (5, 4), "recording": (5, 5), "opus": (1, 1)}
    mos = asked(tmp_path, "mos", systems, [], values)
    write_table(one / "decode/test/prompts.scp", {utt: data.parent / f"{prompt}.wav" for utt, prompt in UTTS.items()})
    reference = ["--reference", str(one / "decode/test/prompts.scp")]
    systems = {"one": one / "decode/test", "one.wrong_prompt": one / "decode/test.wrong_prompt"}
    values = {"reference": (5, 5), "one": (4, 4), "one.wrong_prompt": (1, 2)}
    smos = asked(tmp_path, "smos", systems, reference, values)
    capsys.readouterr()
    _, markdown = told(two, "--listening", mos, "--listening", f"test={smos}")
    rows = {(row[2], row[0]): row[-2:] for row in rows_of(markdown)}
    assert rows["the recordings", "test"] == ["5.000 ± 0.000", "-"]
    assert rows["the recordings", "LibriTTS (the paper)"] == ["4.50", "-"]
    # of 4, 4, 3, 3: over ratings 3.182 * .577 / 2 = .919, over listeners 12.706 * .707 / 1.414 = 6.353, the wider one
    assert rows["VALL-E on ours (one)", "test"] == ["3.500 ± 6.353", "4.000 ± 0.000"]
    assert rows["a wrong speaker's prompt (one)", "test"][1].startswith("1.500 ± ")
    assert rows["the recordings, coded (one)", "test"][0].startswith("4.500 ± ")
    assert rows["VALL-E on dac (both)", "test"] == ["2.000 ± 0.000", "-"]
    out = capsys.readouterr().out
    assert "warning: --listening: no row for opus (MOS)" in out and out.count("warning") == 1


def test_recordings_of_other_lengths_are_refused_but_as_a_whole(two, tmp_path):
    one, both, _ = two
    named = [f"{name}={exp}/decode/test" for name, exp in (("one", one), ("both", both))]
    for more in (["--kind", "mos", "--seconds", "1"], ["--seconds", "0", "--reference", f"{one}/decode/test.coded"]):
        with pytest.raises(SystemExit, match="s shorter than"):
            cli.main(["listening-test", *named, *more, "--out", str(tmp_path / "test")])


def test_files_that_are_no_results_are_refused_by_name(tmp_path):
    path = tmp_path / "mushra.json"
    for text, message in (
        ("{", "mushra.json: not what pscodec listening-results --json wrote"),
        ('{"kind": "mos", "systems": []}', "not what pscodec listening-results"),
        ('{"kind": "mushra", "systems": {}}', "a MUSHRA test; the table has columns for MOS and SMOS"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_listening([str(path)])
    with pytest.raises(UserError, match="none.json: No such file"):
        read_listening([f"test={tmp_path}/none.json"])
    path.write_text('{"kind": "mos", "systems": {}}')
    with pytest.raises(UserError, match="a second MOS test of the same split"):
        read_listening([str(path), str(path)])
