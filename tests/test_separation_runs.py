"""Every separator from training to the report, on mixtures of real speech and a codec of a handful of weights."""

import importlib.util
import json
import math
import runpy
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, torchrun

from pscodec.bin import embed, evaluate_separation, report_separation, separate
from pscodec.data.audio import load_audio, recording_seconds
from pscodec.data.kaldi import Utterance, choose_prompts, write_data_dir, write_table
from pscodec.data.mixture import Mixture, MixtureDataset, Source, write_mixtures
from pscodec.metrics.base import MetricError
from pscodec.metrics.sdr import best_order, sdr, si_sdr_improvement
from pscodec.metrics.separation import SeparationScorer, columns, pesq_mode
from pscodec.separation import load_separator
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.hparams import build_only

RECIPE = ROOT / "recipes/WSJ0Mix/separation"
CODEC = """\
codec: !new:pscodec.models.pscodec.PSCodec
  sample_rate: 16000
  encoder: !new:pscodec.models.hificodec.Encoder
    latent_dim: 12
    width: 4
    strides: [4, 5, 8]
    kernels: [3]
    dilations: [1]
  quantizer: !new:pscodec.quantizers.rvq.GroupResidualVQ
    dim: 12
    codebook_size: 16
  melp_enc: !new:pscodec.prompts.melprompt.MelPEnc
    latent_dim: 12
    width: 8
    n_blocks: 1
    n_heads: 1
    hidden: 8
  fusion: !new:pscodec.prompts.fusion.Add
  decoder: !new:pscodec.models.hificodec.Decoder
    latent_dim: 12
    width: 16
    strides: [8, 5, 4]
    kernels: [3]
    dilations: [1]
"""
SMALL = "--n_blocks 1 --channels 8 --n_heads 1 --hidden 8 --filters 8 --chunk 20 --n_layers 1 --segment 1.0"
SMALL += " --valid_segment 1.0 --valid_decode 2 --batch_size 2 --num_workers 0 --precision fp32 --log_steps 1"
SMALL += " --steps_per_epoch 1 --epochs 2"


@pytest.fixture(scope="module")
def train():
    """The main function of the recipe's train.py."""
    spec = importlib.util.spec_from_file_location("separation_train", RECIPE / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def place(tmp_path_factory, mini_corpus):
    """A folder with a tiny untrained codec (`codec`) and mixtures of real speech (`data/train`, `data/test`)."""
    folder = tmp_path_factory.mktemp("separation")
    utterances = {}
    for spk in ("en_US_f_Allison", "it_IT_m_Carlo"):
        paths = [p for p in sorted((mini_corpus / spk).glob("*.wav")) if recording_seconds(p) > 1.6][:4]
        for path in paths:
            utt = f"{spk}-{path.stem}"
            utterances[utt] = Utterance(utt, spk, str(path), recording_seconds(path))
    clean = folder / "data/clean"
    write_data_dir(clean, utterances)
    write_table(clean / "utt2prompt", choose_prompts(utterances, 0)[0])
    hers, his = (
        sorted(u for u, x in utterances.items() if x.spk == spk) for spk in ("en_US_f_Allison", "it_IT_m_Carlo")
    )
    meta = {"sample_rate": 8000, "mode": "min", "n_src": 2, "clean": str(clean)}
    pairs = list(zip(hers, his, strict=True))
    for split, chosen in (("train", pairs), ("test", pairs[:2])):
        mixtures = [Mixture(f"{a}_{b}", (Source(a, 0, 1.0), Source(b, 0, 0.8)), 12800) for a, b in chosen]
        (folder / "data" / split).mkdir()
        write_mixtures(folder / "data" / split, mixtures, meta)
    (folder / "codec").mkdir()
    (folder / "codec/hyperparams.yaml").write_text(CODEC)
    torch.manual_seed(0)
    AtomicCheckpointer(folder / "codec/save", {"codec": build_only(CODEC, "codec")}).save_checkpoint(
        {"step": 0, "score": 0}
    )
    return folder


def run(train, place, config, exp, *options):
    arguments = [str(RECIPE / f"conf/{config}.yaml"), "--exp", str(place / "exp" / exp)]
    arguments += ["--train_dir", str(place / "data/train"), "--dev_dir", str(place / "data/test"), *SMALL.split()]
    if config != "sepformer":
        arguments += ["--codec", str(place / "codec")]
    train([*arguments, *options])
    return place / "exp" / exp


def curves(exp):
    rows = [line.split("\t") for line in (exp / "curves.tsv").read_text().splitlines()[1:]]
    return {(int(step), stage, name): float(value) for step, stage, name, value in rows}


SYSTEMS = ["residual_tcn_el", "codecformer_el", "codecformer", "sepformer", "sepformer_coded"]


@pytest.mark.parametrize("config", SYSTEMS)
def test_two_steps_of_every_system(train, place, config):
    exp = run(train, place, config, config)
    values = curves(exp)
    for key in ((1, "train", "loss"), (2, "train", "loss"), (2, "valid", "loss"), (2, "valid", "si_sdri")):
        assert math.isfinite(values[key])
    assert (values[2, "train", "loss"] > 0) and len(list(exp.glob("save/CKPT*/separator.ckpt"))) == 2
    saved = torch.load(next(exp.glob("save/CKPT*/separator.ckpt")), weights_only=True)
    assert not any("codec" in name or "encoder.first" in name for name in saved)  # the codec stays where it is


def test_a_separator_is_tuned_by_the_masked_mixture(train, place):
    first = run(train, place, "residual_tcn_el", "residual_tcn_el")
    exp = run(train, place, "residual_tcn_masked", "masked", "--init", str(first))
    values = curves(exp)
    assert 0 < values[2, "train", "lr"] <= 1e-4, "a preset's rate is for a separator that knows nothing"
    assert 0 < values[2, "valid", "loss"] + values[2, "valid", "si_sdri"] < 30, "STOI's share of it, of what is masked"
    a, b = (torch.load(newest(x) / "separator.ckpt", weights_only=True) for x in (first, exp))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_masks_are_corrected_by_what_alone_is_trained(train, place):
    first = run(train, place, "residual_tcn_el", "residual_tcn_el")
    exp = run(train, place, "residual_tcn_refined", "refined", "--init", str(first), "--ema_decay", "0.5")
    assert 0 < curves(exp)[2, "train", "lr"] <= 2e-3
    a, b = (torch.load(newest(x) / "separator.ckpt", weights_only=True) for x in (first, exp))
    assert all(torch.equal(a[name], b[name]) for name in a)
    mean = torch.load(newest(exp) / "refiner_mean.ckpt", weights_only=True)
    plain, refined = load_separator(first), load_separator(exp)
    assert mean["last.weight"].any() and torch.equal(mean["last.weight"], refined.system.refiner.last.weight)
    again = run(train, place, "residual_tcn_refined", "refined_again", "--init", str(exp), "--tune_lr", "0")
    kept = torch.load(newest(again) / "refiner.ckpt", weights_only=True)
    assert all(torch.equal(mean[name], kept[name]) for name in mean), "--init takes a refiner that is there"
    wav = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    one, two = (unmixer.separate(wav, 8000) for unmixer in (plain, refined))
    assert not torch.allclose(one, two, atol=1e-6) and torch.allclose(one.sum(0), two.sum(0), atol=1e-5)


def newest(exp):
    return AtomicCheckpointer(exp / "save", {}, allow_partial_load=True).find_checkpoint().path


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("codecformer_el", []),
        ("residual_tcn_el", ["--decay", "0", "--ema_decay", "0.5"]),
        ("residual_tcn_refined", ["--decay", "0", "--ema_decay", "0.5"]),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(train, place, capsys, config, more):
    mute = ["--valid_decode", "0", *more]
    whole = run(train, place, config, f"whole_{config}", *mute)
    broken = run(train, place, config, f"broken_{config}", *mute, "--epochs", "1")
    run(train, place, config, f"broken_{config}", *mute)
    assert "going on from step 1" in capsys.readouterr().out
    name = "refiner" if "refined" in config else "separator"
    files = [name] + [f"{name}_mean"] * ("--ema_decay" in more)
    for file in files:
        a, b = (torch.load(newest(exp) / f"{file}.ckpt", weights_only=True) for exp in (whole, broken))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert curves(whole)[2, "valid", "loss"] == curves(broken)[2, "valid", "loss"]
    used = load_separator(whole, "last").system.parts[name].state_dict()  # the mean, where there is one
    assert all(torch.equal(a[key], used[key]) for key in a)
    last = torch.load(newest(whole) / f"{name}.ckpt", weights_only=True)
    assert all(torch.equal(a[key], last[key]) for key in a) == (files == [name])


def test_an_experiment_of_before_a_key_goes_on(train, place, capsys):
    exp = run(train, place, "residual_tcn_el", "of_before", "--epochs", "1")
    settings = exp / "hyperparams.yaml"
    text = settings.read_text()
    settings.write_text("".join(line for line in text.splitlines(True) if not line.startswith("ema_decay")))
    with pytest.raises(SystemExit) as exit:
        run(train, place, "residual_tcn_el", "of_before", "--ema_decay", "0.9")
    assert "ema_decay" in str(exit.value)
    run(train, place, "residual_tcn_el", "of_before")
    assert "going on from step 1" in capsys.readouterr().out


def test_mixtures_can_be_learned_and_validation_says_so(train, place, monkeypatch, capsys):
    options = (
        "--overfit 2 --steps_per_epoch 100 --channels 32 --hidden 64 --n_blocks 4 --lr 3e-3 --warmup 10 --segment null"
    )
    exp = run(train, place, "residual_tcn_el", "overfit", *options.split(), "--valid_segment", "null")
    values = curves(exp)
    losses = [values[step, "valid", "relative"] for step in (100, 200)]
    assert losses[1] < losses[0] < 0.5 and losses[1] < -0.3  # 0: the mean of both sources, 1: the mixture
    assert all(-1 < values[step, "valid", "stoi_gain"] < 1 for step in (100, 200))
    saved = torch.load(newest(exp) / "separator.ckpt", weights_only=True)
    assert saved["statistics.mix_std"].std() > 0  # measured, and kept
    # the bench of longer mixtures reads it (what it knows are two mixtures by heart)
    options = ["--exp", exp, "--data", place / "data/train", "--seconds", 1, 3, "--number", 2]
    monkeypatch.setattr("sys.argv", [str(x) for x in ("separation_length.py", *options)])
    runpy.run_path(str(ROOT / "tools/bench/separation_length.py"), run_name="__main__")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(-2 < float(row[1]) < 2 and -1 < float(row[4]) < 1 for row in rows)


def test_a_cache_trains_as_the_encoder_does(train, place):
    embed.main(["--exp", str(place / "codec"), "--data", str(place / "data/train")])
    folder = next((place / "data/train/embeddings").iterdir())
    whole = ["--segment", "null", "--dropout", "0", "--valid_decode", "0"]
    live = run(train, place, "codecformer_el", "live", *whole)
    cached = run(train, place, "codecformer_el", "cached", *whole, "--train_embeddings", str(folder))
    for step in (1, 2):
        losses = [curves(exp)[step, "train", "loss"] for exp in (live, cached)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    with pytest.raises(SystemExit) as exit:  # a cache of another level
        run(train, place, "codecformer_el", "none", "--normalise", "none", "--train_embeddings", str(folder))
    assert "run stage 2" in str(exit.value)


def test_training_stops_when_its_time_is_over(train, place, capsys):
    options = ["--epochs", "10", "--steps_per_epoch", "1000", "--max_minutes", "1e-3", "--valid_decode", "0"]
    exp = run(train, place, "codecformer_el", "short", *options)
    steps = {step for step, stage, _ in curves(exp) if stage == "train"}
    assert len(steps) < 1000 and {step for step, stage, _ in curves(exp) if stage == "valid"} == {max(steps)}
    run(train, place, "codecformer_el", "short", *options)
    assert "max_minutes is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("codecformer_el", ["--codec", "nowhere"], "nowhere: no hyperparams.yaml"),
        ("codecformer_el", ["--train_dir", "nowhere"], "mixtures.json"),
        ("codecformer_el", ["--n_bloks", "2"], "did you mean 'n_blocks'"),
        ("codecformer_el", ["--n_blocks", "2"], "was trained with another configuration"),
        ("sepformer_coded", ["--codec", "null"], "give --codec"),
        ("residual_tcn_refined", ["--masked", "false"], "refiner: it learns from the masked mixture"),
    ],
)
def test_mistakes_are_one_line(train, place, config, options, message):
    run(train, place, config, config)
    with pytest.raises(SystemExit) as exit:
        run(train, place, config, config, *options)
    assert message in str(exit.value) and "\n" not in str(exit.value)


def test_separate_score_report(train, place):
    el, sepformer = (run(train, place, config, config) for config in ("codecformer_el", "sepformer"))
    data, common = ["--data", str(place / "data")], ["--nj", "1", "--metrics", "si_sdr sdr pesq stoi"]
    for exp in (el, sepformer):
        options = ["--prompt", "none estimate enrol", "--output", " ".join(separate.OUTPUTS), "--ceiling", "true"]
        separate.main(["--exp", str(exp), *data, *options])
        evaluate_separation.main(["--exp", str(exp), *data, *common])
    ways = {f"{p}_{q}" for p in ("none", "estimate", "enrol") for q in separate.OUTPUTS}
    summary = json.loads((el / "summary.json").read_text())
    assert (summary["sample_rate"], summary["pesq"]) == (8000, "nb")
    test = summary["splits"]["test"]
    assert set(test) == {"mixture"} | ways | {f"ceiling_{way}" for way in ways}
    assert test["mixture"]["si_sdri"]["mean"] == test["mixture"]["stoii"]["mean"] == 0.0
    assert test["mixture"]["mixtures"] == 2
    assert test["none_continuous"]["si_sdr"]["n"] == 2
    assert set(json.loads((sepformer / "summary.json").read_text())["splits"]["test"]) == {"mixture", "waveform"}
    wav, rate = load_audio(next((el / "separated/test.none_continuous").glob("*.s2.wav")))
    assert rate == 8000 and wav.shape == (1, 12800)
    # which estimate is whose is told before anything is decoded, where there are embeddings
    for exp, condition, ordered in ((el, "none_continuous", True), (sepformer, "waveform", False)):
        folder = exp / f"separated/test.{condition}"
        assert json.loads((folder / "done.json").read_text())["ordered"] is ordered
        assert evaluate_separation.in_order(folder, "embedding") is ordered
        assert not evaluate_separation.in_order(folder, "stoi")
    # masks share the mixture out among the talkers
    paths = sorted((el / "separated/test.none_masked").glob("*.wav"))[:2]
    dataset = MixtureDataset(place / "data/test")
    item = next(dataset[i] for i, m in enumerate(dataset.mixtures) if paths[0].name == f"{m.mix}.s1.wav")
    assert torch.allclose(sum(load_audio(path)[0] for path in paths), item["mix"], atol=1e-4)
    # prompts and codebooks do something
    names = [f"separated/test.{way}" for way in sorted(ways)]
    wavs = [load_audio(sorted((el / name).glob("*.wav"))[0])[0] for name in names]
    assert all(not torch.equal(a, b) for i, a in enumerate(wavs) for b in wavs[:i])
    cost = json.loads((el / "cost.json").read_text())
    assert cost["encoder"]["total"] > 0 and cost["separator"]["attention"] > 0
    # where one condition is written again, it alone is scored again, with the same result
    rows = (el / "scores.tsv").read_text()
    (el / "separated/test.none_masked/scores.json").unlink()
    kept = (el / "separated/test.none_continuous/scores.json").stat().st_mtime_ns
    evaluate_separation.main(["--exp", str(el), *data, *common])
    assert (el / "scores.tsv").read_text() == rows
    assert (el / "separated/test.none_continuous/scores.json").stat().st_mtime_ns == kept
    # what was scored before something broke is kept
    folder = el / "separated/test.none_masked"
    (folder / "scores.json").unlink()
    lost = sorted(folder.glob("*.wav"))[-1]
    lost.rename(place / "lost.wav")
    with pytest.raises(SystemExit):
        evaluate_separation.main(["--exp", str(el), *data, *common])
    assert len(json.loads((folder / "scores.json").read_text())["rows"]) == 1
    (place / "lost.wav").rename(lost)
    evaluate_separation.main(["--exp", str(el), *data, *common])
    assert (el / "scores.tsv").read_text() == rows
    # what takes longest may be of some alone
    few = ["--nj", "1", "--metrics", "stoi dnsmos", "--dnsmos", "1"]
    evaluate_separation.main(["--exp", str(sepformer), *data, *few])
    test = json.loads((sepformer / "summary.json").read_text())["splits"]["test"]
    assert [(name, *(test[name].get(c, {}).get("n") for c in ("stoi", "dnsmos_ovrl"))) for name in test] == [
        ("mixture", 2, 1),
        ("reference", None, 1),
        ("waveform", 2, 1),
    ]
    evaluate_separation.main(["--exp", str(sepformer), *data, *common])
    # what is scored is not scored again
    before = (el / "separated/test.none_continuous/scores.json").stat().st_mtime_ns
    evaluate_separation.main(["--exp", str(el), *data, *common])
    assert (el / "separated/test.none_continuous/scores.json").stat().st_mtime_ns == before

    out = place / "report"
    paper = ["--paper", str(RECIPE / "paper"), "--out", str(out), "--examples", "1"]
    report_separation.main(["--exp", str(el), "--exp", str(sepformer), *data, *paper])
    text = (out / "index.html").read_text()
    for wanted in (
        "prompt enrolled, quantised",
        "prompt enrolled, the mixture masked",
        "PESQ narrowband",
        "DAC, AMUSE",
        "-29.1",
        "77.3",
        "the mixture itself",
    ):
        assert wanted in text, wanted
    assert text.count("<audio") == 1 + 2 + 2 * 18 + 2 and "http" not in text
    assert "| codec | loss |" in (out / "results.md").read_text()


def test_two_processes_separate_and_score_as_one(train, place):
    exp = run(train, place, "codecformer_el", "ranks", "--seed", "3")
    data, options = ["--data", place / "data"], ["--prompt", "none enrol", "--ceiling", "true"]
    scoring = ["--exp", exp, *data, "--nj", 1, "--metrics", "sdr stoi"]

    def left():
        wavs = {p.relative_to(exp): load_audio(p)[0] for p in sorted((exp / "separated").rglob("*.wav"))}
        rows = [line.split("\t") for line in (exp / "scores.tsv").read_text().splitlines()]
        return wavs, [row[:3] for row in rows], [float(x) for row in rows[1:] for x in row[3:]]

    separate.main([str(x) for x in ("--exp", exp, *data, *options)])
    evaluate_separation.main([str(x) for x in scoring])
    wavs, rows, scores = left()
    shutil.rmtree(exp / "separated")
    status, out, err = torchrun(2, "pscodec.bin.separate", "--exp", exp, *data, *options)
    assert status == 0, err
    assert out.count("2 mixtures") == 1
    summaries = []
    for _ in range(2):  # the second time from what the first left
        status, _, err = torchrun(2, "pscodec.bin.evaluate_separation", *scoring)
        assert status == 0, err
        summaries.append((exp / "summary.json").read_text())
    again, *scored = left()
    assert again.keys() == wavs.keys() and all(torch.allclose(again[name], wavs[name], atol=1e-4) for name in wavs)
    assert scored[0] == rows and scored[1] == pytest.approx(scores, abs=0.01) and summaries[0] == summaries[1]


def test_another_codec_is_refused(train, place, tmp_path):
    exp = run(train, place, "codecformer_el", "codecformer_el")
    (tmp_path / "hyperparams.yaml").write_text(CODEC)
    torch.manual_seed(1)
    AtomicCheckpointer(tmp_path / "save", {"codec": build_only(CODEC, "codec")}).save_checkpoint(
        {"step": 0, "score": 0}
    )
    with pytest.raises(SystemExit) as exit:
        separate.main(["--exp", str(exp), "--data", str(place / "data"), "--codec", str(tmp_path)])
    assert "not the codec that" in str(exit.value)


# ---- scores


def test_sdr_forgives_a_filter_and_nothing_else():
    rng = np.random.default_rng(0)
    ref, other = rng.standard_normal((2, 16000))
    ref[-10:] = 0.0
    filtered = np.convolve(ref, [0, 0, 0.6, -0.3, 0.1])[:16000]
    assert sdr(ref, filtered, 8000) > 60
    noise = other * np.linalg.norm(filtered) / np.linalg.norm(other)
    # 512 taps explain 512 of 16,000 dimensions of independent noise
    expected = 10 * np.log10((1 + 0.01 * 512 / 16000) / (0.01 * (1 - 512 / 16000)))
    assert sdr(ref, filtered + 0.1 * noise, 8000) == pytest.approx(expected, abs=0.05)
    with pytest.raises(MetricError):
        sdr(ref, 0 * ref, 8000)


def test_sdr_is_that_of_bss_eval():
    """The same signals through mir_eval 0.8.2's bss_eval_sources gave these two numbers."""
    rng = np.random.default_rng(7)
    refs = rng.standard_normal((2, 4000)).cumsum(1)
    refs -= refs.mean(1, keepdims=True)
    refs /= np.abs(refs).max(1, keepdims=True)
    hyps = refs + 0.3 * refs[::-1] + 0.05 * rng.standard_normal((2, 4000))
    assert [sdr(r, h, 8000) for r, h in zip(refs, hyps, strict=True)] == pytest.approx(
        [5.4076369, 15.18350847], abs=1e-5
    )


def test_the_order_and_the_improvement():
    refs = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    mix = refs.sum(0, keepdim=True)
    hyps = refs[[2, 0, 1]] + 0.01 * mix
    assert best_order(refs.numpy(), hyps.numpy()).tolist() == [1, 2, 0]
    # a source at 0 dB against two others: -3 dB; the rest of the mixture is 40 dB down in the estimates
    assert si_sdr_improvement(mix, refs, hyps) == pytest.approx(40 + 3 - 3, abs=0.5)
    refs[1] = 0
    assert math.isfinite(si_sdr_improvement(mix, refs, hyps))
    assert si_sdr_improvement(0 * mix, 0 * refs, hyps) is None


def test_estimates_without_phases_are_told_apart_by_stoi():
    rng, t = np.random.default_rng(0), np.arange(32000) / 8000
    loudness = np.stack([1 + np.sin(2 * np.pi * 3 * t), 1 - np.sin(2 * np.pi * 3 * t)])
    refs, hyps = loudness * rng.standard_normal((2, 32000)), loudness[::-1] * rng.standard_normal((2, 32000))
    by_stoi = SeparationScorer(["stoi"], "stoi")(refs.sum(0), refs, hyps, 8000)[0]["stoi"]
    floors = {}
    for _ in range(2):
        gain = SeparationScorer(["stoi"])(refs.sum(0), refs, refs, 8000, ordered=True, floors=floors)[0]["stoii"]
        assert gain == pytest.approx(1 - np.mean(list(floors.values()))) and set(floors) == {("stoi", 0), ("stoi", 1)}
    in_place = SeparationScorer(["stoi"])(refs.sum(0), refs, hyps, 8000, ordered=True)[0]["stoi"]
    turned = SeparationScorer(["stoi"])(refs.sum(0), refs, hyps[::-1], 8000, ordered=True)[0]["stoi"]
    assert by_stoi == turned > in_place + 0.3


def test_scores_of_a_mixture_by_hand():
    rng = np.random.default_rng(0)
    a, b, n = np.linalg.qr(rng.standard_normal((8000, 3)))[0].T
    a, b, n = (x - x.mean() for x in (a, b, n))
    scores, failures = SeparationScorer(["si_sdr"])(
        a + b, np.stack([a, b]), np.stack([b + 0.1 * n, a + 0.01 * n]), 8000
    )
    assert scores["si_sdr"] == pytest.approx((20 + 40) / 2, abs=0.1) and not failures
    assert scores["si_sdri"] == pytest.approx(30, abs=0.2)  # of the mixture: 0 dB
    scores, failures = SeparationScorer(["si_sdr", "sdr"])(a, np.stack([a, 0 * a]), np.stack([a, b]), 8000)
    assert scores["si_sdri"] == pytest.approx(0, abs=0.1) and not failures  # the silent source is left out
    scores, failures = SeparationScorer(["si_sdr"])(a, np.stack([0 * a, 0 * a]), np.stack([a, b]), 8000)
    assert not scores and set(failures) == {"si_sdr", "si_sdri"}
    assert columns(["sdr", "si_sdr"]) == ["si_sdr", "si_sdri", "sdr", "sdri"]
    assert (pesq_mode(8000), pesq_mode(16000)) == ("nb", "wb")
