"""`pscodec score` as users call it, and the codecs that it knows by name."""

import json
import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, make_experiment
from speechbrain.lobes.models.discrete import dac as speechbrain_dac

from pscodec import cli, coders
from pscodec.anchors import LYRA
from pscodec.coders import open_coder
from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.data.recordings import find_recordings
from pscodec.metrics.align import aligned
from pscodec.metrics.stoi import stoi
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only

RATE = 16000


def syllables(seconds=1.0, seed=0):
    """Noise in bursts, `[1, L]`."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wav = rng.standard_normal(len(time)) * np.clip(np.sin(2 * np.pi * 3 * time + seed), 0, 1)
    return torch.from_numpy(0.1 * wav).float()[None]


@pytest.fixture
def folders(tmp_path):
    """References ref/a/1 and ref/b/2, sines, and decoded signals in hyp that are orthogonally noisy: 20 and 30 dB."""
    phase = 2 * torch.pi * torch.arange(RATE)[None] / 160
    for name, noise in (("a/1", 10**-1), ("b/2", 10**-1.5)):
        save_audio(tmp_path / "ref" / f"{name}.wav", 0.5 * phase.sin(), RATE)
        save_audio(tmp_path / "hyp" / f"{name}.wav", 0.5 * (phase.sin() + noise * phase.cos()), RATE)
    return tmp_path


def score(*words):
    cli.main(["score", *map(str, words)])


def summary(path, *words):
    score(*words, "--json", path / "scores.json")
    return json.loads((path / "scores.json").read_text())


def test_two_folders(folders, capsys):
    found = summary(folders, folders / "ref", folders / "hyp", "--metrics", "si_snr", "--out", folders / "out")
    entry = found["systems"][str(folders / "hyp")]
    # 20 and 30 dB: mean 25, half width t(0.975, 1) = 12.706 times 10 / 2
    assert entry["si_snr"]["mean"] == pytest.approx(25, abs=0.01)
    assert entry["si_snr"]["ci95"] == pytest.approx(63.53, abs=0.1)
    assert (found["sample_rate"], found["minutes"]) == (RATE, pytest.approx(2 / 60))
    assert found["versions"]["pesq"] == "0.0.4"
    out = capsys.readouterr().out
    assert "si_snr" in out and "25.00 ± 63.5" in out
    assert [line.split("\t")[2] for line in (folders / "out/scores.tsv").read_text().splitlines()] == [
        "utt",
        "a/1",
        "b/2",
    ]
    score(folders / "ref", folders / "hyp", "--metrics", "si_snr", "--out", folders / "out")
    assert "2 of 2 rows are as before" in capsys.readouterr().out


def test_json_alone_goes_to_standard_output(folders, capsys):
    score(folders / "ref", folders / "hyp", "--metrics", "si_snr", "--json", "-")
    assert json.loads(capsys.readouterr().out)["systems"][str(folders / "hyp")]["utterances"] == 2


def test_two_systems_and_processes_score_what_both_have(folders, capsys):
    shutil.copytree(folders / "hyp", folders / "other")
    (folders / "other/b/2.wav").unlink()
    words = (folders / "ref", folders / "hyp", folders / "other", "--metrics", "si_snr", "--jobs", "2")
    systems = summary(folders, *words)["systems"]
    assert [systems[str(folders / name)]["si_snr"]["mean"] for name in ("hyp", "other")] == [
        pytest.approx(20, abs=0.01)
    ] * 2
    assert "1 of the 2 recordings" in capsys.readouterr().out


def test_a_late_signal_is_moved(folders):
    for name, seed in (("a/1", 0), ("b/2", 1)):
        wav = syllables(seed=seed)
        save_audio(folders / "ref" / f"{name}.wav", wav, RATE)
        save_audio(folders / "hyp" / f"{name}.wav", torch.nn.functional.pad(wav, (803, 0)), RATE)
    words = (folders / "ref", folders / "hyp", "--metrics", "si_snr")
    late, moved = (summary(folders, *words, *more)["systems"][str(folders / "hyp")] for more in ((), ("--lag", "0.1")))
    assert late["si_snr"]["mean"] < 0 and moved["si_snr"]["mean"] == 100


def test_alignment_by_hand():
    wav = syllables()[0]
    late, early = torch.cat([torch.zeros(37), wav]), wav[21:]
    assert torch.equal(aligned(wav, late, 50, RATE), wav)
    assert torch.equal(aligned(wav, early, 50, RATE)[21:], wav[21:])
    assert torch.equal(aligned(wav, late, 0, RATE), late[: len(wav)])  # not searched for
    assert not torch.equal(aligned(wav, late, 30, RATE), wav)  # later than is allowed


def test_a_codec_scores_as_its_files_do(folders, codec_exp, capsys):
    words = (folders / "ref", "--metrics", "stoi si_snr mcd_linear", "--sample-rate", 24000)
    direct = summary(folders, *words, "--codec", codec_exp, "--lag", 0, "--out", folders / "out")["systems"][
        str(codec_exp)
    ]
    for command in (["encode", "ref", "psc"], ["decode", "psc", "wav"]):
        paths = [str(folders / name) for name in command[1:]]
        cli.main([command[0], paths[0], "-o", paths[1], "--exp", str(codec_exp)])
    files = summary(folders, *words[:1], folders / "wav", *words[1:])["systems"][str(folders / "wav")]
    assert direct["si_snr"]["mean"] == pytest.approx(files["si_snr"]["mean"], abs=0.1)  # 16 bits, packets
    sizes = [(folders / "psc" / f"{name}.psc").stat().st_size for name in ("a/1", "b/2")]
    assert direct["bitrate_total"]["mean"] == pytest.approx(8 * sum(sizes) / 2)
    assert direct["bitrate_codes"]["mean"] < direct["bitrate_total"]["mean"]
    kept = list((folders / "out/decoded").rglob("*.wav"))
    assert sorted(path.name for path in kept) == ["1.wav", "2.wav"]


def test_recordings_in_folders_tables_and_data_dirs(folders):
    (folders / "ref/a/1.txt").write_text("some words\n")
    found = find_recordings(folders / "ref")
    assert {utt: (u.spk, u.text) for utt, u in found.items()} == {"a/1": ("a", "some words"), "b/2": ("b", None)}
    (folders / "hyp/wav.scp").write_text("x a/1.wav\ny b/2.wav\n")  # beside it
    assert [u.path for u in find_recordings(folders / "hyp").values()] == [
        str(folders / "hyp/a/1.wav"),
        str(folders / "hyp/b/2.wav"),
    ]
    whole = [Utterance("u", "s", str(folders / "ref/a/1.wav"), 0.5, "t", 0.2, 0.7, "fr")]
    write_data_dir(folders / "data", whole)
    for path in (folders / "data", folders / "data/wav.scp"):
        assert list(find_recordings(path).values()) == whole
    (folders / "pipe.scp").write_text("x cat x.wav |\n")
    with pytest.raises(UserError, match="x is a pipe"):
        find_recordings(folders / "pipe.scp")
    (folders / "ref/a/1.flac").write_bytes(b"")
    with pytest.raises(UserError, match="two recordings are called a/1, 1.flac and 1.wav"):
        find_recordings(folders / "ref")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ref"], "name a HYP beside REF, or a --codec"),
        (["ref", "none"], "none: no such folder"),
        (["ref", "hyp", "--metrics", "mos"], "unknown metric mos; there are: pesq"),
        (["ref", "hyp", "--metrics", "wer", "--whisper", "huge"], "huge: no model of Whisper"),
        (
            ["ref", "hyp", "--metrics", "utmos", "--utmos", "ref/a/1.wav", "--jobs", "2"],
            "1.wav: not a TorchScript model",
        ),
        (["ref", "hyp", "--jobs", "0"], "at least 1"),
        (["hyp", "more"], "more: c is not in hyp"),
        (["torn", "hyp"], "torn/a/1.wav: not readable as audio"),
        (["ref", "short"], "short/a/1.wav: 0.40 s long, its reference"),
        (["ref", "--codec", "mp3:64"], "no codec mp3:64; there are an experiment"),
    ],
)
def test_mistakes_are_one_line(folders, monkeypatch, words, message):
    monkeypatch.chdir(folders)
    save_audio(folders / "more/c.wav", syllables(), RATE)
    save_audio(folders / "short/a/1.wav", syllables(0.4), RATE)
    shutil.copytree(folders / "ref", folders / "torn")
    (folders / "torn/a/1.wav").write_bytes(b"RIFF")
    words = words if "--metrics" in words else [*words, "--metrics", "si_snr"]
    with pytest.raises(SystemExit) as exit:
        score(*words)
    assert message in str(exit.value) and "\n" not in str(exit.value)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name, message in {
        "opus:6": "opus: opusenc is not installed (Debian's package opus-tools has it)",
        "codec2:3200": "codec2: c2enc is not installed (Debian's package codec2 has it)",
        "encodec:6": f"the weights of EnCodec are not there: {tmp_path}/torch/hub/checkpoints/{coders.ENCODEC}",
        "dac": f"the weights of DAC are not there: {tmp_path}/.cache/descript/{coders.DAC}",
        "opus:low": "opus needs its kbit/s, as in opus:6, not 'low'",
        "codec2": "codec2 needs its mode",
    }.items():
        with pytest.raises(UserError) as error:
            open_coder(name)
        assert str(error.value).startswith(message)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_encodec_by_its_authors_weights(tmp_path, monkeypatch):
    from test_encodec import random_public

    theirs = random_public("encodec_model_24khz")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), tmp_path / "hub/checkpoints" / coders.ENCODEC)
    wav = 0.1 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(0))
    wav_hat, rate, rates = open_coder("encodec:6")(wav, 24000)
    assert rates["bitrate_codes"] == 6000 and (rate, wav_hat.shape) == (24000, (1, 24000))
    theirs.set_target_bandwidth(6)
    with torch.no_grad():
        wanted = theirs.decode(theirs.encode(wav[None]))[0]
    error = (wav_hat - wanted)[:, :-4000].square().mean() / wanted.square().mean()
    assert error < 1e-4  # but for bf16, where the machine has it, and what is beyond the end
    with pytest.raises(UserError, match="encodec:7: it has 1 to 32 codebooks of 750 bit/s"):
        open_coder("encodec:7")


def test_dac_by_its_authors_weights(tmp_path, monkeypatch):
    sizes = {"encoder_dim": 4, "encoder_rates": [2, 4], "decoder_dim": 16, "decoder_rates": [4, 2], "n_codebooks": 3}
    sizes |= {"codebook_size": 64, "sample_rate": RATE}
    torch.manual_seed(0)
    theirs = speechbrain_dac.DAC(**sizes, latent_dim=16).eval()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/descript").mkdir(parents=True)
    file = {"state_dict": theirs.state_dict(), "metadata": {"kwargs": {**sizes, "codebook_dim": 8, "latent_dim": None}}}
    torch.save(file, tmp_path / ".cache/descript" / coders.DAC)
    wav = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    wav_hat, rate, rates = open_coder("dac:24")(wav, RATE)  # 2 codebooks of 2,000 frames a second, 6 bits each
    assert (rates["bitrate_codes"], rate, wav_hat.shape) == (24000, RATE, (1, RATE))
    torch.save({"state_dict": {}}, tmp_path / ".cache/descript" / coders.DAC)
    with pytest.raises(UserError, match="not the weights of DAC"):
        open_coder("dac")


@pytest.mark.parametrize(("name", "least", "most"), [("opus:6", 5000, 13000), ("codec2:3200", 3100, 3300)])
def test_codecs_that_are_programs(name, least, most, mini_corpus):
    program = {"opus:6": "opusenc", "codec2:3200": "c2enc"}[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    wav, rate = load_audio(mini_corpus / "en_US_f_Allison/conf-nonextended.wav")
    wav_hat, theirs, rates = open_coder(name)(wav, rate)
    assert list(rates) == ["bitrate_total"] and least < rates["bitrate_total"] < most
    found = resample(wav_hat, theirs, rate)[0]
    assert stoi(wav[0].numpy(), aligned(wav[0], found, 1600, rate).numpy(), rate) > 0.7
    with pytest.raises(UserError):
        open_coder("codec2:9999")(wav, rate)


LYRA_MODELS = Path(os.environ.get("LYRA_MODELS") or Path.home() / ".cache/lyra")


def test_lyra(mini_corpus):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    if not all((LYRA_MODELS / name).is_file() for name in LYRA):
        pytest.skip(f"the networks of Lyra are not in {LYRA_MODELS}")
    wav, rate = load_audio(mini_corpus / "en_US_f_Allison/conf-nonextended.wav")
    code = open_coder("lyra:3.2")
    wav_hat, theirs, rates = code(wav, rate)
    assert rates["bitrate_total"] == pytest.approx(3200, rel=0.01)
    found = resample(wav_hat, theirs, rate)[0]
    assert stoi(wav[0].numpy(), F.pad(found, (0, wav.shape[1] - len(found))).numpy(), rate) > 0.8  # it is not late
    assert torch.equal(code(wav, rate)[0], wav_hat)  # nothing is left of the recording before


def test_nolace_is_opus_decoded_otherwise(mini_corpus):
    if shutil.which("opusenc") is None:
        pytest.skip("opusenc is not installed")
    try:
        code = open_coder("nolace:6")
    except UserError as error:
        assert "npm install" in str(error)
        pytest.skip(str(error))
    wav, rate = load_audio(mini_corpus / "en_US_f_Allison/conf-nonextended.wav")
    (plain, theirs, _), (wav_hat, _, rates) = open_coder("opus:6")(wav, rate), code(wav, rate)
    assert 5000 < rates["bitrate_total"] < 13000
    n = min(plain.shape[1], wav_hat.shape[1])
    assert n > 0.98 * plain.shape[1] and not torch.equal(plain[:, :n], wav_hat[:, :n])
    found = resample(wav_hat, theirs, rate)[0]
    assert stoi(wav[0].numpy(), F.pad(found, (0, wav.shape[1] - len(found))).numpy(), rate) > 0.75  # it is not late


@pytest.mark.parametrize("kbps", ["3", "", "6000"])
def test_lyra_has_three_rates(kbps):
    with pytest.raises(UserError, match="lyra"):
        open_coder(f"lyra:{kbps}")


def test_lyra_says_where_its_networks_are(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    monkeypatch.setenv("LYRA_MODELS", str(tmp_path))
    with pytest.raises(UserError, match="github.com/google/lyra"):
        open_coder("lyra:3.2")


def test_anchors_prints_what_score_finds(codec_exp, mini_corpus, tmp_path, capsys):
    if any(shutil.which(program) is None for program in ("opusenc", "c2enc")):
        pytest.skip("opus-tools and codec2 are not installed")
    (tmp_path / "ref").mkdir()
    shutil.copy(mini_corpus / "en_US_f_Allison/conf-nonextended.wav", tmp_path / "ref")
    main = runpy.run_path(str(ROOT / "tools/bench/anchors.py"))["main"]
    main(["--data", str(tmp_path / "ref"), "--exp", str(codec_exp), "--search", "0", "2", "--jobs", "2"])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows, differences = lines[1:8], lines[9:]
    assert [row[0] for row in rows[5:]] == [f"| {codec_exp}", f"| {codec_exp}+2"] and rows[5][1] == rows[6][1]
    assert rows[5][2:] != rows[6][2:] and differences[-1][0].startswith(f"| {codec_exp}+2 less ")
    assert [row[0] for row in rows[:5]] == ["| codec2:700C", "| codec2:3200", "| lyra:3.2", "| opus:6", "| nolace:6"]
    assert differences[1][0] == f"| {codec_exp} less codec2:3200"
    assert float(differences[1][1]) == pytest.approx(float(rows[5][2]) - float(rows[1][2]), abs=0.002)
    assert 0.7 < float(rows[0][1]) < 0.85 and 1 < float(rows[3][2]) < 4.64


def test_anchors_by_speaker_by_hand(tmp_path):
    anchors = runpy.run_path(str(ROOT / "tools/bench/anchors.py"))
    rows = [{"condition": "ours", "spk": "a", "utt": f"a{i}", "pesq": value} for i, value in enumerate((1.0, 3.0))]
    rows += [{"condition": "other", "spk": "a", "utt": f"a{i}", "pesq": 1.0, "stoi": 0.5} for i in range(2)]
    rows += [{"condition": name, "spk": "b", "utt": "b0", "pesq": 1.0} for name in ("ours", "other")]
    found = anchors["by_speaker"](rows)
    assert [(row["condition"], row["utt"], row["pesq"]) for row in found] == [
        *(("ours", "a", 2.0), ("other", "a", 1.0), ("ours", "b", 1.0), ("other", "b", 1.0)),
    ]
    # speakers' differences are 1 and 0: t(0.975, 1) = 12.706, of a standard error of 0.5
    assert anchors["differences"](found, "ours", "other").startswith("| ours less other | +0.500 ± 6.353 | ")


def test_an_experiments_number_of_codebooks(tmp_path):
    exp = make_experiment(tmp_path / "two", n_residual=2, n_q_dropout=0.5)
    wav = syllables()
    one, two = (open_coder(f"{exp}{books}")(wav, RATE)[2]["bitrate_codes"] for books in (":1", ""))
    assert two == pytest.approx(2 * one, rel=0.02)
    assert open_coder(f"{exp}:1").stamp != open_coder(exp.as_posix()).stamp


def test_a_decoder_trained_further_on_the_same_codes_is_scored_anew(tmp_path):
    exp = make_experiment(tmp_path / "exp")
    first = open_coder(exp.as_posix())
    settings = exp / "hyperparams.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(re.sub(r"(?m)^codes_of:", f"codes_of: {first.coder.fingerprint.hex()}", text), encoding="utf-8")
    AtomicCheckpointer(exp / "save", {"codec": build_only(text, "codec")}).save_checkpoint({"step": 2, "score": 0.5})
    second = open_coder(exp.as_posix())
    assert second.coder.fingerprint == first.coder.fingerprint and second.stamp != first.stamp
