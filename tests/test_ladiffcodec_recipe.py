"""LaDiffCodec as its users train it: the autoencoder, the diffusion, files, and the tables of one model."""

import importlib
import shutil

import pytest
import soundfile
import torch
from conftest import copy_voices
from test_recipe import TINY, run_sh, words

from pscodec.bin import decode
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError

TRAIN = TINY | {"total_steps": 4, "steps_per_epoch": 2, "ckpt_interval_steps": 2, "latent_dim": 8, "width": 2}
del TRAIN["quantize_start"]  # its autoencoder has no quantizer
TRAIN |= {"unet_widths": "[8,8]", "unet_middle": 8, "unet_dim": 8, "adversarial_segment": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory, mini_corpus, campplus_path):
    root = tmp_path_factory.mktemp("ladiffcodec")
    copy_voices(mini_corpus, root / "corpus", 10)
    (root / "downloads/campplus").mkdir(parents=True)
    shutil.copy(campplus_path, root / "downloads/campplus/campplus_cn_en_common.pt")
    return root


@pytest.fixture(scope="module")
def walked(recipe, place):
    """The experiment that stages 0 to 5 leave, and its parent, the autoencoder's."""
    for options in (
        {"config": "conf/ladiffcodec_autoencoder.yaml", "exp": place / "parent", "stop-stage": 3},
        {"config": "conf/ladiffcodec.yaml", "exp": place / "exp", "parent": place / "parent", "stage": 2}
        | {"stop-stage": 5, "compare": "", "decode-args": "--sampler dpm --steps 2"},
    ):
        command = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        done = run_sh(recipe, place, *command, train=TRAIN)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return place / "exp", place / "parent"


def test_the_stages_leave_a_diffusion_on_parts_that_are_as_they_were(place, walked):
    exp, parent = walked
    log = (exp / "train_log.txt").read_text()
    assert "autoencoder" in log and "learned in" in log and "validation total" in log and "diffusion" in log
    model, autoencoder, released = (
        load_codec(name, precision=None).model for name in (exp, parent, "pscodec_small_24k")
    )
    for mine, theirs in ((model.autoencoder, autoencoder), (model.discrete, released)):
        state = theirs.state_dict()
        assert all((value == state[name]).all() for name, value in mine.state_dict().items())
    assert not torch.equal(model.analysis, torch.eye(8)), "latents are standardised by training data"
    utt, _, codes, side, _ = (exp / "decode/test/bits.tsv").read_text().splitlines()[1].split("\t")
    stream = load_codec("pscodec_small_24k").read(exp / f"decode/test/psc/{utt}.psc")
    assert stream.codes.shape[0] == 1 and int(codes) > 0 and int(side) > 0
    wav, rate = soundfile.read(exp / f"decode/test/wav/{utt}.wav")
    assert rate == 24000 and len(wav) == stream.n_samples


def test_an_autoencoder_is_heard_without_files(place, walked):
    parent = walked[1]
    decode.main(["--exp", str(parent), "--data", str(place / "data"), "--max-utts", "1", "--device", "cpu"])
    lines = (parent / "decode/test/bits.tsv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].endswith("\t0\t0\t0") and not (parent / "decode/test/psc").exists()
    assert len(list((parent / "decode/test/wav").iterdir())) == 1


def test_samplers_and_figure_4_of_one_model(recipe, place, walked, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(recipe / "tables"))
    tables = importlib.import_module("ladiffcodec_tables")
    options = {"exp": walked[0], "parent": walked[1], "out": place / "tables", "data": place / "data"}
    options |= {"test-sets": "test", "max-utts": 1, "metrics": "stoi pesq", "taus": "1", "gammas": "0 1"}
    options |= {"samplers": "dpm2", "tables": "samplers 4"}
    tables.main([word for key, value in options.items() for word in (f"--{key}", str(value))])
    text = (place / "tables/tables.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    names = [row[0] for row in rows]
    assert names[1:4] == ["the codec's own decoder", "the autoencoder, nothing coded", "DPM-Solver++, 2 steps"]
    assert float(rows[1][4].split()[0]) > 0.5 and rows[3][1:3] == ["test", "1"] and float(rows[3][-1]) >= 0
    assert names[-2:] == ["tau \\ gamma", "1"] and all(cell == "nan" or float(cell) >= 1 for cell in rows[-1][1:])
    assert (place / "tables/figure4.png").stat().st_size > 0


def test_table_1_says_what_it_trains(recipe, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(recipe / "tables"))
    tables = importlib.import_module("ladiffcodec_tables")
    calls = []
    monkeypatch.setattr(tables, "call", lambda *command: calls.append([str(word) for word in command]))
    rows = [{"condition": "codec", "split": "test", "pesq": value} for value in (1.0, 2.0)]
    monkeypatch.setattr(tables, "scored", lambda *_: rows)
    discrete = tmp_path / "discrete"
    discrete.mkdir()
    (discrete / "hyperparams.yaml").write_text("codec: {encoder: {latent_dim: 16}}")
    args = tables.parse(["--out", str(tmp_path), "--discrete", str(discrete), "--rows", "s4_8", "--budget", "340"])
    lines = tables.table_1(args)
    assert lines[0][2:] == ["1 kbit/s", "1.5 kbit/s", "3 kbit/s"]
    assert lines[1][:3] == ["[4, 8]", "paper", "1.71 ± 0.71"]
    assert lines[2][1] == "ours" and lines[2][2].startswith("1.500 ± ") and lines[3][0].startswith("EnCodec's own")
    configs = [call[call.index("--config") + 1] for call in calls]
    assert configs == ["conf/ladiffcodec_autoencoder_16k.yaml", *["conf/ladiffcodec_encodec.yaml"] * 3]
    words = calls[2][calls[2].index("--train-args") + 1].split()
    train = dict(zip(words[::2], words[1::2], strict=True))
    assert train["--encoder_strides"] == "[4,8]" and train["--decoder_strides"] == "[8,4]"
    assert train["--codec.n_q"] == "3" and train["--codec.upsampler.strides"] == "[5,2]"
    assert train["--total_steps"] == "340" and "--quantize_start" not in train, "which nothing of it takes"
    assert calls[2][calls[2].index("--parent") + 1] == str(tmp_path / "ae_s4_8")
    table = tables.read_table(recipe / "paper/ladiffcodec/table1.tsv")
    for row in table:  # the upsampler makes up for what the autoencoder does not halve
        product = 1
        for word in (*row["strides"].split(), *row["upsample"].strip("-").split()):
            product *= int(word)
        assert product == 320


def test_table_1_trains_a_row_and_scores_it(recipe, place, monkeypatch):
    monkeypatch.syspath_prepend(str(recipe / "tables"))
    tables = importlib.import_module("ladiffcodec_tables")
    train = TRAIN | {"codebook_size": 16, "unet_dim": 4}
    for key in ("total_steps", "steps_per_epoch", "ckpt_interval_steps", "decoder_width", "melp_width"):
        train.pop(key)
    options = {"corpus": place / "corpus", "preset": "mini", "out": place / "table1", "data": place / "data"}
    options |= {"tables": "1", "rows": "s2_4_5_8", "budget": 4, "max-utts": 1, "test-sets": "test"}
    options |= {"sampling": "--sampler dpm --steps 1", "train-args": " ".join(words(train))}
    options |= {"run-args": f"--data {place / 'data'} --downloads {place / 'downloads'} --nj 1"}
    tables.main(words(options))
    lines = (place / "table1/tables.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "ours" in line]
    assert len(cells) == 2 and all(float(cell) >= 1 for row in cells for cell in row[1:])


def test_tables_refuse_what_is_not_there(recipe, monkeypatch):
    monkeypatch.syspath_prepend(str(recipe / "tables"))
    tables = importlib.import_module("ladiffcodec_tables")
    with pytest.raises(UserError, match="no '2'; there are: 1, 4, samplers"):
        tables.parse(["--tables", "2"])
