"""Prompts of every condition, what a codec does without one, their section of the report, and figure 7."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pscodec import bitstream
from pscodec.bin import decode, latents, report_prompts
from pscodec.bin.extract_features import Settings, extract
from pscodec.bin.extract_features import main as stage_2
from pscodec.commands import many
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import Utterance, load_matrices, write_data_dir, write_table
from pscodec.data.prompts import Prompts, check, describe, noise_like, seconds_of
from pscodec.inference import Coder, load_codec
from pscodec.losses.disentangle import DRL, ssim
from pscodec.metrics.summary import CODEC
from pscodec.prompts.melprompt import MelPEnc
from pscodec.types import Plan, Prompt
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build_only, compose, resolve

CONF = Path(__file__).parents[1] / "recipes/LibriTTS/codec/conf"
TINY = {"width": 4, "latent_dim": 16, "decoder_width": 32, "melp_width": 32, "casan_groups": 4}
SEES = ("voiceprint", "mel")  # as PSCodec
UTTS = {"a-1": 0.8, "a-2": 1.4, "b-1": 0.6, "b-2": 0.5}  # seconds


def tiny(config="pscodec_base.yaml", **overrides):
    torch.manual_seed(0)
    text = resolve(compose(CONF / config, [CONF / "presets/mini.yaml"]), TINY | overrides)
    return build_only(text, "codec").eval(), text


def save_experiment(exp, config, **overrides):
    codec, text = tiny(config, **overrides)
    write_text(exp / "hyperparams.yaml", text)
    AtomicCheckpointer(exp / "save", {"codec": codec}).save_checkpoint({"score": 1.0, "step": 7})
    return exp


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two speakers, two utterances each, with features: a folder that holds the data dir `test`."""
    root = tmp_path_factory.mktemp("prompts")
    noise = torch.Generator().manual_seed(0)
    utterances = []
    for number, (utt, seconds) in enumerate(UTTS.items()):
        time = torch.arange(int(seconds * 24000)) / 24000
        wav = 0.2 * torch.sin(2 * torch.pi * (150 + 70 * number) * time) * torch.sin(5 * time).abs()
        save_audio(root / f"{utt}.wav", wav + 0.01 * torch.randn(wav.shape, generator=noise), 24000)
        utterances.append(Utterance(utt, utt[0], str(root / f"{utt}.wav"), seconds))
    write_data_dir(root / "test", utterances)
    write_table(root / "test/utt2prompt", {"a-1": "a-2", "a-2": "a-1", "b-1": "b-2", "b-2": "b-1"})
    extract(root / "test", Settings())
    return root


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return save_experiment(tmp_path_factory.mktemp("exp") / "base", "pscodec_base.yaml")


# ---- which prompt it is


@pytest.mark.parametrize(
    ("condition", "source"),
    [(None, "a-2"), ("own_prompt", "a-1"), ("wrong_prompt", "b-1"), ("prompt_1s", "a-2"), ("noise_prompt", "a-2")],
)
def test_whose_speech_the_prompt_is(data, condition, source):
    assert Prompts(data / "test", SEES).source("a-1", condition) == source


def test_prompts_of_whole_utterances_are_stage_2s_features(data):
    prompts = Prompts(data / "test", SEES)
    for condition, source in ((None, "a-2"), ("own_prompt", "a-1"), ("wrong_prompt", "b-1")):
        prompt = prompts.of("a-1", condition)
        for kind in ("mel", "fbank"):
            theirs = load_matrices(data / f"test/{kind}.scp")[source]
            assert np.array_equal(getattr(prompt, kind)[0].numpy().T, theirs)


def test_a_cut_prompt_is_the_middle_at_its_true_length(data):
    heard = []
    prompts = Prompts(data / "test", SEES, lambda wav, rate: heard.append((wav, rate)))
    prompts.of("a-1", "prompt_0.5s")
    whole, rate = load_audio(data / "a-2.wav")
    assert heard[0][1] == rate and torch.equal(heard[0][0], whole[:, 10800:22800])  # 0.45 to 0.95 s of 1.4 s
    prompts.of("b-1", "prompt_1s")  # of an utterance of 0.5 s
    assert torch.equal(heard[1][0], load_audio(data / "b-2.wav")[0])


def test_features_of_a_cut_prompt_are_not_padded(data):
    codec, _ = tiny()
    prompt = Prompts(data / "test", SEES, Coder(codec).prompt).of("a-1", "prompt_1s")
    assert prompt.mel.shape == (1, 80, 101) and prompt.fbank.shape == (
        1,
        80,
        98,
    )  # 24000 / 240 + 1; (16000 - 400) / 160 + 1
    whole = load_matrices(data / "test/mel.scp")["a-2"]
    assert np.allclose(prompt.mel[0].numpy().T[5:-5], whole[25:116], atol=1e-3)  # the middle of 1.4 s begins at 0.2 s


def test_noise_has_the_prompts_length_and_level(data):
    heard = []
    prompts = Prompts(data / "test", SEES, lambda wav, rate: heard.append(wav))
    for utt in ("a-1", "a-1", "a-2"):
        prompts.of(utt, "noise_prompt")
    whole, _ = load_audio(data / "a-2.wav")
    assert heard[0].shape == whole.shape and torch.equal(heard[0], heard[1])
    assert heard[0].square().mean().item() == pytest.approx(whole.square().mean().item(), rel=0.03)
    loud, soft = noise_like(torch.ones(1, 1000), 3), noise_like(torch.full((1, 1000), 0.5), 3)
    assert torch.allclose(loud, 2 * soft)
    assert noise_like(torch.zeros(1, 9), 0).abs().max() == 0


def test_names_of_conditions():
    assert seconds_of("prompt_1s") == 1 and seconds_of("prompt_0.5s") == 0.5 and seconds_of("own_prompt") is None
    assert describe("prompt_1s") == "1 s of the prompt" and describe("shuffled_codes") is None
    check(["own_prompt", "prompt_12s"])
    for name in ("prompt_0s", "prompt_s", "half_prompt"):
        with pytest.raises(UserError, match="no prompt condition"):
            check([name])


# ---- a prompt of several vectors


def test_a_prompt_pooled_over_stretches_is_the_mean_of_each():
    torch.manual_seed(0)
    encoder = MelPEnc(latent_dim=8, width=16, n_blocks=0, hidden=16, kernel_size=1, pool=3).eval()
    mel = torch.randn(1, 80, 90)
    with torch.no_grad():
        z_mel = encoder(mel)
        encoder.pool = 1
        alone = torch.cat([encoder(stretch) for stretch in mel.split(30, 2)], 2)
    assert z_mel.shape == (1, 8, 3) and torch.allclose(z_mel, alone, atol=1e-5)
    with pytest.raises(ValueError, match="at least one stretch"):
        MelPEnc(pool=0)


@pytest.mark.parametrize("config", ["pscodec_base.yaml", "pscodec_casan.yaml", "pscodec_drl.yaml"])
def test_several_vectors_of_a_prompt_go_through_a_file(config, data, tmp_path):
    exp = save_experiment(tmp_path / "exp", config, melp_pool=3)
    coder = load_codec(exp)
    wav, other = (str(data / f"{utt}.wav") for utt in ("a-1", "a-2"))
    stream = coder.encode(*load_audio(wav), load_audio(other))
    assert stream.header.side["z_mel"].size == 3 * stream.header.side["z_vp"].size
    coder.write(tmp_path / "a.psc", stream)
    side = coder.side(coder.read(tmp_path / "a.psc").header)
    sent = coder.model.side(coder.prompt(*load_audio(other)).to(coder.device))
    assert side["z_mel"].shape == sent["z_mel"].shape == (1, 16, 3)
    assert torch.allclose(side["z_mel"], sent["z_mel"], atol=0.02 * sent["z_mel"].abs().max().item())
    z_q = torch.randn(1, 16, 5)
    assert coder.model.synthesise(z_q, side).shape == (1, 1, 5 * 320)
    latents = {"z_q": z_q, **{name: z.detach() for name, z in sent.items()}}
    output = SimpleNamespace(latents=latents, wav_hat=z_q)
    assert torch.isfinite(DRL()(SimpleNamespace(output=output)))


# ---- a codec without a prompt


@pytest.mark.parametrize("config", ["pscodec_base.yaml", "pscodec_casan.yaml", "pscodec_base_no_vpp.yaml"])
def test_without_a_prompt_nothing_is_sent_and_zeros_are_fused(config):
    codec, _ = tiny(config)
    assert codec.takes_prompt and codec.side(None) == {}
    z_q = torch.randn(1, 16, 5)
    with torch.no_grad():
        zeros = {name: torch.zeros(1, 16, 1) for name in codec.side(prompt(1))}
        assert torch.equal(codec.synthesise(z_q, {}), codec.synthesise(z_q, zeros))
        if "no_vpp" not in config:
            assert len(zeros) == 2
        if config == "pscodec_base.yaml":
            assert torch.equal(codec.synthesise(z_q, {}), codec.decoder(z_q))


def test_a_codec_that_takes_no_prompt_says_so():
    codec, _ = tiny("hificodec.yaml")
    assert not codec.takes_prompt and codec.side(prompt(1)) == {}


def prompt(batch):
    generator = torch.Generator().manual_seed(1)
    return Prompt(**{k: torch.randn(batch, 80, 120, generator=generator) for k in ("fbank", "mel")})


def test_prompt_dropout_takes_both_prompts_of_an_item_and_only_in_training():
    codec, _ = tiny(prompt_dropout=0.5)
    side = {"z_vp": torch.randn(400, 16, 1), "z_mel": torch.randn(400, 16, 1)}
    codec.plan = Plan(codec.draw(np.random.default_rng(3), 400))
    dropped = codec.train()._shown(side)
    gone = {name: (z == 0).all(1).flatten() for name, z in dropped.items()}
    assert torch.equal(gone["z_vp"], gone["z_mel"]) and 160 <= gone["z_vp"].sum() <= 240  # 200 +- 4 deviations of 10
    kept = ~gone["z_vp"]
    assert torch.equal(kept, codec.plan.drawn["prompted"])
    assert all(torch.equal(dropped[name][kept], side[name][kept]) for name in side)
    assert codec.eval()._shown(side) is side


def test_prompt_dropout_of_all_trains_on_zeros_and_none_draws_nothing():
    wav = torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    codec, _ = tiny(prompt_dropout=1.0, quantize_start=0, kmeans_steps=0)
    codec.plan = Plan(codec.draw(np.random.default_rng(0), 2))
    output = codec.train()(wav, prompt(2))
    expected = codec.decoder(output.quantized.z_q)
    assert torch.allclose(output.wav_hat, expected, atol=1e-6)
    assert output.latents["z_mel"].abs().max() > 0  # DRL still sees what the encoders say
    codec.prompt_dropout = 0.0
    assert codec.draw(None, 2) == {}


# ---- stage 5


def run_decode(exp, data, *options):
    decode.main(["--exp", str(exp), "--data", str(data), "--splits", "test", *options])


def test_stage_5_decodes_the_conditions(data, exp, capsys):
    run_decode(
        exp,
        data,
        "--controls",
        "test",
        "--prompts",
        "test",
        "--conditions",
        "own_prompt prompt_1s wrong_prompt no_prompt",
    )
    folders = sorted(path.name for path in (exp / "decode").iterdir())
    assert folders == [
        "test",
        *(f"test.{c}" for c in ("no_prompt", "own_prompt", "prompt_1s", "shuffled_codes", "wrong_prompt")),
    ]
    assert capsys.readouterr().out.count("test.wrong_prompt: 4 utterances") == 1  # asked for twice
    streams = {name: bitstream.read(exp / "decode" / name / "psc/a-1.psc") for name in folders}
    plain = streams.pop("test")
    for name, stream in streams.items():
        assert np.array_equal(stream.codes, plain.codes) == (name != "test.shuffled_codes")
    assert streams["test.no_prompt"].header.side == {} and set(plain.header.side) == {"z_vp", "z_mel"}

    def levels(stream):
        return stream.header.side["z_mel"].levels

    for name in ("own_prompt", "prompt_1s", "wrong_prompt"):
        assert not np.array_equal(levels(streams[f"test.{name}"]), levels(plain))
    sizes = [line.split("\t")[3] for line in (exp / "decode/test.no_prompt/bits.tsv").read_text().splitlines()[1:]]
    assert sizes == ["0"] * 4


def test_prompt_conditions_of_a_codec_without_prompts_are_left_out(data, tmp_path, capsys):
    other = save_experiment(tmp_path / "hificodec", "hificodec.yaml")
    run_decode(other, data, "--controls", "test", "--prompts", "test")
    assert "left out: test.no_prompt: this codec takes no prompt" in capsys.readouterr().out
    assert sorted(path.name for path in (other / "decode").iterdir()) == ["test", "test.shuffled_codes"]


def test_utterances_whose_prompt_has_no_features_are_left_out(data, exp, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    for path in (data / "test").iterdir():
        text = path.read_bytes()
        if path.name == "mel.scp":
            text = b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"a-2 "))
        (tmp_path / "test" / path.name).write_bytes(text)
    how = many.Settings(str(exp), "best", "cpu", "fp32", True), False
    count = decode.decode_split(how, tmp_path / "test", tmp_path / "out")
    assert count == 3 and "left out: a-1: its prompt a-2 has no features" in capsys.readouterr().out


def test_processes_share_the_utterances_and_leave_the_files_of_one(data, exp, tmp_path, monkeypatch):
    monkeypatch.setattr("pscodec.utils.processes.FEW", 1)
    for nj in ("1", "2"):
        run_decode(exp, data, "--nj", nj, "--controls", "test", "--out", str(tmp_path / nj))
    names = sorted(str(p.relative_to(tmp_path / "1")) for p in (tmp_path / "1").rglob("*.*") if p.is_file())
    assert len([name for name in names if name.endswith(".psc")]) == 3 * 4
    for name in names:
        if not name.endswith("wav.scp"):  # which names the folder
            assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nj", "0"], "--nj must be at least 1"),
        (["--conditions", "half"], "no prompt condition 'half'"),
        (["--prompts", "dev"], "--prompts names dev"),
        (["--prompts", "test", "--conditions", "prompt_0.01s"], "at least 25 ms"),
    ],
)
def test_mistakes_are_one_line(data, exp, options, message):
    with pytest.raises(SystemExit) as exit:
        run_decode(exp, data, *options)
    assert message in str(exit.value) and "\n" not in str(exit.value)


# ---- the report


def scored(**stoi):
    """An experiment whose conditions have these STOIs of utterances u0, u1 ..."""
    rows = [
        {"split": "test", "condition": condition, "utt": f"u{i}", "spk": "a", "stoi": value}
        for condition, values in stoi.items()
        for i, value in enumerate(values)
    ]
    return {"name": "x", "scores": rows, "summary": {"test": dict.fromkeys(stoi, {})}}


def test_the_reports_section(tmp_path):
    experiment = scored(codec=[0.8, 0.9], no_prompt=[0.5, 0.7], prompt_1s=[0.8, 0.8], shuffled_codes=[0.2, 0.2])
    text = report_prompts.prompts([experiment], tmp_path, {"stoi": "STOI ↑", "pesq": "PESQ ↑"})
    rows = [re.findall(r"<td>(.*?)</td>", line) for line in text.splitlines() if line.startswith("<tr class")]
    assert [row[0] for row in rows] == ["another utterance of the speaker", "1 s of the prompt", "no prompt"]
    assert rows[0][1:] == ["2", "0.850 ± 0.635"]  # 12.706 * 0.05
    # differences -0.3 and -0.2: mean -0.25, half width 12.706 * 0.05
    assert rows[2][1:] == ["2", "0.600 ± 1.271<small>−0.250 ± 0.635</small>"]
    assert "PESQ" not in text and "shuffled" not in text
    for theme in ("light", "dark"):
        assert (tmp_path / f"figures/prompts.test.{theme}.png").stat().st_size > 1000


def test_no_section_without_other_prompts(tmp_path):
    assert report_prompts.prompts([scored(codec=[0.8], wrong_prompt=[0.7])], tmp_path, {}) == ""
    assert not (tmp_path / "figures").exists()


def test_conditions_are_in_order():
    experiment = scored(no_prompt=[1], prompt_1s=[1], wrong_prompt=[1], prompt_3s=[1], codec=[1], own_prompt=[1])
    assert list(report_prompts.by_condition(experiment, "test")) == [
        "own_prompt",
        CODEC,
        "prompt_3s",
        "prompt_1s",
        "wrong_prompt",
        "no_prompt",
    ]


# ---- figure 7


def test_latents_are_those_that_the_decoder_is_given(data, exp):
    coder, wav = load_codec(exp), load_audio(data / "a-1.wav")[0]
    p = Prompts(data / "test", SEES).of("a-1")
    found = latents.latents(coder, wav, 24000, p)
    with torch.no_grad():
        output = coder.model(coder.model.pad(wav[None]), p)
    for name in ("z_q", "z_vp", "z_mel"):
        assert torch.allclose(found[name], output.latents[name], atol=1e-5), name
    scores = latents.similarities(found)
    assert scores["z_q_z_vp"] == pytest.approx(ssim(found["z_q"], found["z_vp"]).item())
    assert set(scores) == {"z_q_z_vp", "z_q_z_mel", "z_vp_z_mel"}


def test_figure_7_compares_experiments(data, exp, tmp_path, capsys):
    other = save_experiment(tmp_path / "no_vpp", "pscodec_base_no_vpp.yaml")
    out = tmp_path / "figures/figure7"
    latents.main(["--exp", str(exp), str(other), "--data", str(data), "--out", str(out)])
    header, *lines = [line.split("\t") for line in Path(f"{out}.tsv").read_text().splitlines()]
    assert header == ["exp", "utt", "z_q_z_vp", "z_q_z_mel", "z_vp_z_mel"]
    assert [line[:2] for line in lines] == [[e, u] for e in ("base", "no_vpp") for u in UTTS]
    assert all(line[2] == line[4] == "-" for line in lines[4:]) and all("-" not in line for line in lines[:4])
    mean = np.mean([float(line[3]) for line in lines[:4]])
    assert f"{mean:.3f} ± " in Path(f"{out}.md").read_text().splitlines()[2].split("|")[4]
    assert all(Path(f"{out}.{theme}.png").stat().st_size > 1000 for theme in ("light", "dark"))


def test_figure_7_of_a_codec_without_prompts_is_refused(data, tmp_path):
    other = save_experiment(tmp_path / "hificodec", "hificodec.yaml")
    with pytest.raises(SystemExit, match="no prompt features"):
        latents.main(["--exp", str(other), "--data", str(data), "--out", str(tmp_path / "x")])


# ---- codecs that see other things


def test_prompts_without_features_on_disk_are_made_from_the_recordings(data, exp, tmp_path):
    made, bare = Prompts(data / "test", SEES).of("a-1"), tmp_path / "bare"
    bare.mkdir()
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "utt2prompt"):
        shutil.copy(data / "test" / name, bare / name)
    coder = load_codec(exp)
    anew = Prompts(bare, SEES, coder.prompt).of("a-1")
    assert torch.allclose(anew.mel, made.mel, atol=1e-5) and torch.allclose(anew.fbank, made.fbank, atol=1e-3)
    decode.main(["--exp", str(exp), "--data", str(tmp_path), "--splits", "bare", "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out/decode/bare/psc").iterdir())) == len(UTTS)


def test_a_codec_is_shown_what_it_sees_and_no_more(data):
    wav, rate = load_audio(data / "a-1.wav")
    for config, kinds in (("hificodec", set()), ("pscodec_base_no_vpp", {"mel"}), ("pscodec_base", {"mel", "fbank"})):
        codec, _ = tiny(f"{config}.yaml")
        prompt = Coder(codec).prompt(wav, rate)
        assert {kind for kind, value in vars(prompt).items() if value is not None} == kinds
    assert codec.side_sizes == {"z_vp": None, "z_mel": None} and codec.sees == SEES


def test_stage_2_makes_what_the_codec_sees(data, tmp_path, capsys):
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur"):
        shutil.copy(data / "test" / name, tmp_path / name)
    stage_2(["--data-dir", str(tmp_path), "--config", str(CONF / "hificodec.yaml")])
    assert "hificodec.yaml: its codec sees no features" in capsys.readouterr().out and not list(tmp_path.glob("*.ark"))
    stage_2(["--data-dir", str(tmp_path), "--config", str(CONF / "pscodec_base_no_vpp.yaml")])
    assert [p.name for p in tmp_path.glob("*.ark")] == ["mel.ark"]
