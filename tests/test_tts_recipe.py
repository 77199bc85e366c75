"""The recipe of speech synthesis: models learn to read, runs resume exactly, and run.sh goes through all stages."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import BOUND, ROOT, make_experiment
from test_spoken import spoken
from test_ticodec import TINY as TINY_TICODEC

from pscodec.bin import align, evaluate, synthesise
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import Utterance, read_table, write_data_dir, write_table
from pscodec.data.text import learn_units
from pscodec.downstream.sampling import Sampling
from pscodec.metrics.summary import read_scores
from pscodec.synthesis import load_synthesiser
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.weights import codec_weights

RECIPE = ROOT / "recipes/LibriTTS/tts"
SMALL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden": 64, "dropout": 0.1, "num_workers": 0, "warmup": 10}
LETTERS = "abcdefghij"


def words(options):
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_tts", RECIPE / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(config, exp, place, **keys):
        data = {f"{name}_{what}": place / name / "data" for name in ("train", "dev") for what in ("dir",)}
        data |= {f"{name}_codes": place / name / "codes" for name in ("train", "dev")}
        options = words({**data, "units": place / "units", "batch_seconds": 40, "precision": "fp32", **SMALL, **keys})
        module.main([str(RECIPE / f"conf/{config}.yaml"), "--exp", str(exp), "--device", "cpu", *options])
        return exp

    return run


def spell(folder, texts):
    """Texts and codes that spell them: three frames of code i for the i-th letter, of a second codebook 15 - i."""
    spoken(folder, texts)
    for i, text in enumerate(texts):
        rows = np.repeat([LETTERS.index(letter) for letter in text], 3)
        path = folder / f"codes/npz/{'ab'[i % 2]}-{i}.npz"
        np.savez(path, codes=np.stack([rows, 15 - rows]).astype(np.uint8))
    (folder / "data/utt2dur").write_text("".join(f"{utt} 1.8\n" for utt in sorted(read_table(folder / "data/text"))))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("spelled"), np.random.default_rng(0)
    texts = ["".join(rng.choice(list(LETTERS), 6)) for _ in range(60)]
    spell(root / "train", texts[:52])
    spell(root / "dev", texts[52:])
    learn_units(texts, "characters").save(root / "units")
    return root


def test_it_learns_to_align_and_to_read_what_it_never_saw(train, place, tmp_path, capsys):
    aligner = train("aligner", tmp_path / "aligner", place, total_steps=80, steps_per_epoch=80, lr=0.01, n_layers=3)
    for name in ("train", "dev"):
        folders = ["--data-dir", str(place / name / "data"), "--codes", str(place / name / "codes")]
        align.main(["--exp", str(aligner), *folders, "--out", str(tmp_path / name)])
    found = [[int(n) for n in row.split()] for row in read_table(tmp_path / "dev").values()]
    assert all(sum(row) == 18 for row in found)
    shares = np.array([row[1:] for row in found])  # a space comes first
    assert np.abs(shares - 3).mean() < 1
    keys = {"aligned": True, "durations": tmp_path, "total_steps": 150, "steps_per_epoch": 150, "dropout": 0}
    exp = train("base", tmp_path / "ar", place, lr=0.01, **keys)
    log = (exp / "train_log.txt").read_text().splitlines()
    accuracy = float(next(line for line in reversed(log) if "accuracy" in line).split()[-1])
    assert accuracy > 0.6  # of codes to new texts, of three frames a letter, whose first the durations may miss


@pytest.mark.parametrize(("config", "optimizer"), [("base", "adamw"), ("nar", "adamw"), ("base", "scaled_adam")])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(config, optimizer, train, place, tmp_path):
    keys = {"steps_per_epoch": 3, "decay": 0, "prompted": 0.5, "optimizer_name": optimizer}
    whole = train(config, tmp_path / "whole", place, total_steps=6, **keys)
    train(config, tmp_path / "halves", place, total_steps=3, **keys)
    halves = train(config, tmp_path / "halves", place, total_steps=6, **keys)
    assert "going on from step 3" in (halves / "train_log.txt").read_text()
    states = []
    for exp in (whole, halves):
        (folder,) = [path for path in (exp / "save").glob("CKPT*") if "step: 6" in (path / "CKPT.yaml").read_text()]
        states.append(torch.load(folder / "valle.ckpt", weights_only=True))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_torchrun_trains_in_two_processes_and_goes_on_to_the_same_weights(place, tmp_path):
    def run(exp, steps):
        keys = {f"{name}_dir": place / name / "data" for name in ("train", "dev")}
        keys |= {f"{name}_codes": place / name / "codes" for name in ("train", "dev")}
        keys |= {"units": place / "units", "batch_seconds": 40, "precision": "fp32", **SMALL}
        keys |= {"total_steps": steps, "steps_per_epoch": 2, "decay": 0, "prompted": 0.5, "device": "cpu"}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [*launch, RECIPE / "train.py", RECIPE / "conf/nar.yaml", "--exp", exp, *words(keys)]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environ, timeout=BOUND)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder,) = [p for p in (exp / "save").glob("CKPT*") if f"step: {steps}" in (p / "CKPT.yaml").read_text()]
        return done.stdout, torch.load(folder / "valle.ckpt", weights_only=True)

    _, whole = run(tmp_path / "whole", 4)
    _, half = run(tmp_path / "halves", 2)
    told, both = run(tmp_path / "halves", 4)
    assert "going on from step 2" in told and told.count("validation loss") == 1  # of the first process alone
    assert all(torch.equal(whole[name], both[name]) for name in whole)
    assert not all(torch.equal(half[name], both[name]) for name in half)


def loss_after(exp):
    """What validation said last."""
    log = (exp / "train_log.txt").read_text().splitlines()
    return float(next(line for line in reversed(log) if "validation loss" in line).split("loss ")[1].split()[0])


def test_scaled_adam_learns_too_and_other_names_are_refused(train, place, tmp_path):
    keys = {"steps_per_epoch": 40, "dropout": 0, "optimizer_name": "scaled_adam", "scaled_warmup": 10}
    assert loss_after(train("base", tmp_path / "exp", place, total_steps=40, **keys)) < 0.8 * np.log(17)
    with pytest.raises(SystemExit, match="optimizer_name is adamw or scaled_adam, not 'sgd'"):
        train("base", tmp_path / "other", place, total_steps=1, optimizer_name="sgd")


def test_a_run_of_an_older_program_goes_on(train, place, tmp_path):
    train("base", tmp_path / "exp", place, total_steps=1, steps_per_epoch=1)
    path = tmp_path / "exp/hyperparams.yaml"
    text = path.read_text()
    for new in ("optimizer_name", "find_unused_parameters", "scaled_lr", "eden_steps"):
        text = "".join(line for line in text.splitlines(True) if not line.startswith(f"{new}:"))
    path.write_text(text)
    train("base", tmp_path / "exp", place, total_steps=2, steps_per_epoch=1)
    assert "going on from step 1" in (tmp_path / "exp/train_log.txt").read_text()
    with pytest.raises(SystemExit, match="was trained with another configuration .optimizer_name"):
        train("base", tmp_path / "exp", place, total_steps=3, steps_per_epoch=1, optimizer_name="scaled_adam")


def test_codes_of_two_codecs_and_changed_units_are_refused(train, place, tmp_path):
    spell(tmp_path / "train", ["abc", "def"])
    spell(tmp_path / "dev", ["abc"])
    learn_units(["abcdef"], "characters").save(tmp_path / "units")
    train("base", tmp_path / "exp", tmp_path, total_steps=1, steps_per_epoch=1)
    learn_units(["abcdefg"], "characters").save(tmp_path / "units")
    with pytest.raises(SystemExit, match="was trained with another configuration"):
        train("base", tmp_path / "exp", tmp_path, total_steps=1, steps_per_epoch=1)
    note = tmp_path / "dev/codes/codec.json"
    note.write_text(note.read_text().replace("00" * 8, "11" * 8))
    with pytest.raises(SystemExit, match="codes of two codecs"):
        train("base", tmp_path / "other", tmp_path, total_steps=1, steps_per_epoch=1)
    note.write_text(note.read_text().replace("11" * 8, "00" * 8))
    with pytest.raises(SystemExit, match="train/codes: not the codes of pscodec_small_24k"):
        train("base", tmp_path / "other", tmp_path, total_steps=1, steps_per_epoch=1, codec="pscodec_small_24k")


# ---- with codecs: run.sh, and prompts


def hum(folder, count):
    """A corpus of two speakers, `count` recordings each of 1.1 s, with texts."""
    for i in range(2 * count):
        spk = "ab"[i % 2]
        time = torch.arange(17600) / 16000
        wav = 0.2 * torch.sin(2 * torch.pi * (120 + 40 * (i % 2) + i) * time) + 0.01 * torch.randn(17600)
        save_audio(folder / spk / f"{i}.wav", wav[None], 16000)
        (folder / spk / f"{i}.txt").write_text(f"{LETTERS[i % 10]}{LETTERS[i // 10]} hum.\n")


@pytest.fixture(scope="module")
def walked(tmp_path_factory, campplus_path):
    """The folder that all stages of run.sh leave, with a codec of two codebooks."""
    root = tmp_path_factory.mktemp("tts")
    torch.manual_seed(0)
    hum(root / "corpus", 12)
    (root / "downloads/campplus").mkdir(parents=True)
    (root / "downloads/campplus" / campplus_path.name).symlink_to(campplus_path)
    codec = make_experiment(root / "codec", n_residual=2)
    few = " ".join(words(SMALL | {"total_steps": 2, "steps_per_epoch": 2, "batch_seconds": 5, "longest": 30}))
    command = ["bash", RECIPE / "run.sh", "--corpus", root / "corpus", "--codec", codec, "--data", root / "data"]
    command += ["--downloads", root / "downloads", "--exp", root / "exp", "--preset", "mini", "--nj", "1"]
    command += ["--units", "characters", "--train-args", f"{few} --continue_prompt true", "--nar-args", few]
    command += ["--speak-args", "--longest 1 --candidates 2"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=os.environ | {"VIRTUAL_ENV": sys.prefix}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return root, done.stdout


def test_every_stage_leaves_its_files(walked):
    root, told = walked
    texts = [set(read_table(root / "data" / split / "text").values()) for split in ("train", "dev", "test")]
    assert [len(t) for t in texts] == [22, 1, 1] and not texts[0] & (texts[1] | texts[2])
    exp = root / "exp"
    assert codec_weights(exp / "ar")[0] is not None and (exp / "nar/save").is_dir()
    summary = json.loads((exp / "summary.json").read_text())["test"]
    assert set(summary) >= {"codec", "recording", "coded"}
    assert summary["recording"]["secs"]["mean"] is not None and "wer" in summary["codec"]
    page = (exp / "report/index.html").read_text()
    assert "Speech from text" in page and "VALL-E on TiCodec" in page and "the recordings, coded" in page
    assert (exp / "report/results.md").is_file()


def test_a_list_is_spoken_once_and_the_same_again(walked, capsys):
    root, _ = walked
    options = ["--exp", str(root / "exp"), "--data", str(root / "data"), "--longest", "1", "--candidates", "2"]
    (path,) = (root / "exp/decode/test/wav").glob("*.wav")
    before, wav = path.stat().st_mtime_ns, load_audio(path)[0]
    synthesise.main(options)
    assert path.stat().st_mtime_ns == before
    (root / "exp/decode/test/told" / f"{path.stem}.json").unlink()
    synthesise.main(options)
    assert path.stat().st_mtime_ns != before and torch.equal(load_audio(path)[0], wav)
    synthesise.main([*options, "--seed", "1"])
    assert not torch.equal(load_audio(path)[0], wav)


@pytest.fixture(scope="module")
def voices(walked):
    """A test set of both speakers, three utterances each, of which one has a symbol that training did not have."""
    root, _ = walked
    utterances = []
    for i in range(6):
        spk, text = "ab"[i % 2], "ab hum." if i != 2 else "ab hum?"
        utterances.append(Utterance(f"{spk}-{i}", spk, str(root / f"corpus/{spk}/{i}.wav"), 1.1, text))
    write_data_dir(root / "data/voices", utterances)
    # a-2's text is no prompt's
    prompts = {"a-0": "a-4", "a-2": "a-0", "a-4": "a-0", "b-1": "b-3", "b-3": "b-5", "b-5": "b-1"}
    write_table(root / "data/voices/utt2prompt", prompts)
    return root, prompts


def test_a_wrong_prompt_is_spoken_and_compared_with_the_right_one(voices, campplus_path, capsys):
    root, prompts = voices
    options = ["--exp", str(root / "exp"), "--data", str(root / "data"), "--splits", "voices"]
    synthesise.main([*options, "--longest", "0.5"])
    told = capsys.readouterr().out
    left_out = [line for line in told.splitlines() if line.startswith("left out: ")]
    # b-3's wrong prompt is a-2, the second of the other speaker
    assert [line.split(": ")[1] for line in left_out] == ["a-2", "b-3"] and all(
        "'?' in 'ab hum?'" in x for x in left_out
    )
    decode = root / "exp/decode"
    for condition in ("", ".wrong_prompt", ".recording", ".coded"):
        assert set(read_table(decode / f"voices{condition}/wav.scp")) == {"a-0", "a-4", "b-1", "b-5"}
    notes = [json.loads((decode / f"voices{c}/told/a-4.json").read_text()) for c in ("", ".wrong_prompt")]
    assert [note["prompt"] for note in notes] == ["a-0", "b-5"]
    right, wrong = (load_audio(decode / f"voices{c}/wav/a-4.wav")[0] for c in ("", ".wrong_prompt"))
    assert right.shape != wrong.shape or not torch.equal(right, wrong)
    assert read_table(decode / "voices/prompts.scp")["a-4"] == str(root / "corpus/a/0.wav")

    # whatever has the voice of the right prompt counts as similar, in whatever condition
    save_audio(decode / "voices.wrong_prompt/wav/a-4.wav", *load_audio(root / "corpus/a/0.wav"))
    evaluate.main([*options, "--against", "prompt", "--metrics", "secs", "--campplus", str(campplus_path), "--nj", "1"])
    rows = {(row["condition"], row["utt"]): row.get("secs") for row in read_scores(root / "exp/scores.tsv")}
    assert {condition for condition, _ in rows} == {"codec", "wrong_prompt", "recording", "coded"}
    assert rows["wrong_prompt", "a-4"] == pytest.approx(1, abs=1e-4) and rows["coded", "a-4"] < 0.999


def test_a_list_of_which_nothing_can_be_spoken_is_refused(voices):
    root, _ = voices
    shutil.copytree(root / "data/voices", root / "data/silent")
    write_table(root / "data/silent/text", dict.fromkeys(read_table(root / "data/voices/text"), "xyz"))
    with pytest.raises(
        SystemExit, match="silent: no utterance can be spoken: 'xyz' in 'xyz': not among the characters"
    ):
        synthesise.main(["--exp", str(root / "exp"), "--data", str(root / "data"), "--splits", "silent"])


def test_one_sentence(walked, tmp_path, capsys):
    root, _ = walked
    prompt = next((root / "corpus/a").glob("*.wav"))
    options = ["--exp", str(root / "exp"), "--prompt", str(prompt), "--out", str(tmp_path / "out.wav")]
    options += ["--longest", "0.5", "--device", "cpu"]
    synthesise.main([*options, "--text", "ab hum", "--prompt-text", "aa hum."])
    assert 0 < soundfile.info(tmp_path / "out.wav").duration <= 0.5
    synthesise.main([*options, "--text", "ab hum", "--continue-prompt", "false"])
    for more, message in (
        (["--text", "ab hum"], "they need its text"),
        (["--text", " ", "--prompt-text", "aa"], "an empty text"),
        (["--text", "xyz", "--prompt-text", "aa"], "'xyz' in 'xyz'"),
        (["--text", "ab", "--prompt-text", "aa", "--codec", "pscodec_small_24k"], "not the codec whose codes"),
    ):
        with pytest.raises(SystemExit, match=message):
            synthesise.main([*options, *more])


def test_a_text_that_never_ends_is_told(walked, tmp_path, capsys):
    root, _ = walked
    prompt = next((root / "corpus/a").glob("*.wav"))
    for seed in range(40):
        options = ["--exp", str(root / "exp"), "--prompt", str(prompt), "--out", str(tmp_path / "out.wav")]
        options += ["--text", "ab hum", "--continue-prompt", "false", "--longest", "0.05", "--seed", str(seed)]
        synthesise.main(options)
        if "the end token never came in 0.05 s: 1 of 1: out.wav" in capsys.readouterr().out:
            return
    raise AssertionError("forty texts ended within three frames")


def test_ticodec_s_tokens_come_from_the_prompt(train, tmp_path, recipe):
    text = resolve(compose(recipe / "conf/ticodec.yaml"), TINY_TICODEC | {"n_residual": 1})
    torch.manual_seed(0)
    codec = build_only(text, "codec").eval()
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec/hyperparams.yaml").write_text(text)
    AtomicCheckpointer(tmp_path / "codec/save", {"codec": codec}).save_checkpoint({"step": 1, "score": 1.0})
    from pscodec.inference import load_codec

    coder = load_codec(tmp_path / "codec")
    facts = {"fingerprint": coder.fingerprint.hex(), "n_q": coder.model.n_q, "codebook_size": coder.model.codebook_size}
    facts |= {"sample_rate": coder.model.sample_rate, "hop_length": coder.model.hop_length}
    for name in ("train", "dev"):
        spoken(tmp_path / name, ["ab", "cd"], **facts)
    learn_units(["abcd"], "characters").save(tmp_path / "units")
    train("base", tmp_path / "exp/ar", tmp_path, total_steps=1, steps_per_epoch=1, codec=tmp_path / "codec")
    synthesiser = load_synthesiser(tmp_path / "exp", continue_prompt=False)
    high, low = (torch.sin(torch.arange(24000) * f)[None] for f in (0.02, 0.3))
    voices = [synthesiser.hear((wav, 24000)) for wav in (high, low)]
    for voice, wav in zip(voices, (high, low), strict=True):
        assert voice.header.side.keys() == coder.encode(wav, 24000).header.side.keys()
        for name, tokens in coder.encode(wav, 24000).header.side.items():
            assert np.array_equal(tokens.numbers(), voice.header.side[name].numbers())
    first = synthesiser("ab", voices[0], Sampling(), longest=0.2)
    again = synthesiser("ab", voices[0], Sampling(), longest=0.2)
    other = synthesiser("ab", voices[1], Sampling(), longest=0.2)
    assert torch.equal(first.wav, again.wav) and torch.equal(first.codes, other.codes)
    assert not torch.equal(first.wav, other.wav)  # the same codes in another voice
