"""LaDiffCodec: what it is made of, what it learns from, and files of the codec that it decodes."""

import math
import runpy
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, make_experiment

from pscodec import cli
from pscodec.brains.start import start_from
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.inference import load_codec
from pscodec.layers.unet import UNet
from pscodec.models.ladiffcodec import Upsampler
from pscodec.models.sampling import Sampling
from pscodec.streaming import StreamDecoder
from pscodec.types import Evidence, Plan, Prompt
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build, build_only, compose, plain, resolve
from pscodec.utils.weights import codec_state

CONF = ROOT / "recipes/LibriTTS/codec/conf"
SMALL = {"unet_widths": [8, 8], "unet_middle": 8, "latent_dim": 8, "width": 2, "encoder_strides": [4, 5, 8]}
SMALL |= {"decoder_strides": [8, 5, 4], "codec.upsampler.strides": [2]}


def text_of(discrete, **options):
    fit = {"discrete": str(discrete), "codec.upsampler.i": 16}
    return resolve(compose(CONF / "ladiffcodec.yaml"), SMALL | fit | options)


def codec_of(discrete, **options):
    torch.manual_seed(0)
    codec = build_only(text_of(discrete, **options), "codec").eval()
    torch.nn.init.normal_(codec.unet.last.weight, std=0.1)  # as if it had learned something
    return codec


@pytest.fixture(scope="module")
def discrete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discrete") / "untrained"
    return make_experiment(folder, 0, "pscodec_base_no_vpp", latent_dim=16, decoder_width=16, melp_width=16)


@pytest.fixture(scope="module")
def exp(tmp_path_factory, discrete):
    """An experiment as training leaves it, that decodes files of `discrete`."""
    folder = tmp_path_factory.mktemp("ladiffcodec") / "untrained"
    folder.mkdir()
    text, codec = text_of(discrete), codec_of(discrete)
    start_from(codec, {"discrete": str(discrete)}, text)
    (folder / "hyperparams.yaml").write_text(text)
    AtomicCheckpointer(folder / "save", {"codec": codec}).save_checkpoint({"step": 1, "score": 1.0})
    return folder


def speech(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.normal(size=(1, round(seconds * 24000)))).astype(np.float32)


# ---- what it is made of


def test_sizes_are_the_public_configurations():
    codec = build_only(resolve(compose(CONF / "ladiffcodec.yaml")), "codec")
    assert [block.convs[0].out_channels for block in codec.unet.down] == [128, 256, 256, 512, 512]
    assert len(codec.unet.down) == len(codec.unet.up) == 5 and codec.unet.middle.convs[2].out_channels == 512
    assert {block.attention.n_heads for block in [*codec.unet.down, codec.unet.middle, *codec.unet.up]} == {4}
    assert codec.schedule.T == 1000 and codec.sampling == Sampling("midway", None, None, 0.3)
    assert codec.autoencoder.hop_length == 8 and codec.hop_length == 320 and codec.bitrate == 675


@pytest.mark.parametrize("by", ["stack", "film"])
@pytest.mark.parametrize("frames", [1, 7, 12])
def test_the_unet_takes_any_length_and_heeds_all_that_it_is_told(by, frames):
    torch.manual_seed(0)
    unet = UNet(3, 5, widths=(8, 8, 16), middle=16, heads=2, by=by)
    x, condition, t = torch.randn(2, 3, frames), torch.randn(2, 5, frames), torch.tensor([3, 700])
    assert not unet(x, t, condition).any(), "it begins with the mean of all noise"
    torch.nn.init.normal_(unet.last.weight)
    found = unet(x, t, condition)
    assert found.shape == x.shape
    for other in ((x.flip(0), t, condition), (x, t.flip(0), condition), (x, t, condition.flip(0))):
        assert not torch.allclose(unet(*other), found, atol=1e-3)
    assert torch.allclose(unet(x[1:], t[1:], condition[1:]), found[1:], atol=1e-5)
    with pytest.raises(ValueError, match="stack or film, not 'add'"):
        UNet(3, 5, by="add")


def test_levels_without_attention_hear_their_neighbours_alone():
    torch.manual_seed(0)
    x, t = torch.randn(1, 3, 400), torch.tensor([300])

    def reach(attend_from):
        unet = UNet(3, 3, widths=(8, 8), middle=8, attend_from=attend_from)
        unet.middle = torch.nn.Identity()
        unet.middle.forward = lambda x, *rest: x
        torch.nn.init.normal_(unet.last.weight)
        for module in unet.modules():  # whose statistics are of all frames
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
        moved = x.clone()
        moved[..., 0] += 1
        return (unet(moved, t, x) - unet(x, t, x)).abs().amax(1)[0]

    assert reach(0)[200:].any() and reach(1)[200:].any() and not reach(2)[200:].any()


def test_an_upsampled_frame_lies_between_minus_one_and_one():
    torch.manual_seed(0)
    upsampler = Upsampler(4, 6, [2, 3])
    found = upsampler(50 * torch.randn(2, 4, 7))
    assert found.shape == (2, 6, 42) and torch.allclose(found.abs().amax(1), torch.ones(2, 42))


def test_codecs_that_do_not_fit_are_refused(discrete):
    with pytest.raises(UserError, match="a frame of the discrete codec is 320 samples, the autoencoder's 160, and"):
        text = text_of(discrete, **{"codec.upsampler.strides": [4], "codec.upsampler.i": 16})
        build_only(text, "codec")
    with pytest.raises(UserError, match="the discrete codec's sample rate"):
        build_only(text_of(discrete, sample_rate=16000), "codec")
    with pytest.raises(UserError, match="loss is l1 or l2"):
        build_only(text_of(discrete, **{"codec.loss": "l3"}), "codec")


def test_the_codec_that_is_named_is_written_out(discrete, tmp_path):
    theirs = plain((discrete / "hyperparams.yaml").read_text())["codec"]
    assert plain(text_of(discrete))["codec"]["discrete"] == theirs
    for name, told in (("null", "discrete: no experiment is named"), (tmp_path, "so not an experiment")):
        with pytest.raises(UserError, match=told):
            resolve(compose(CONF / "ladiffcodec.yaml"), {"discrete": None if name == "null" else str(name)})


# ---- training


def test_the_discrete_codec_and_the_autoencoder_come_from_their_experiments_and_stay(discrete):
    text = text_of(discrete)
    codec = build_only(text, "codec")
    lines = start_from(codec, {"discrete": str(discrete)}, text)
    state, _ = codec_state(discrete)
    assert all(torch.equal(value, state[name]) for name, value in codec.discrete.state_dict().items())
    assert "learned in 1 steps" in lines[0] and "new: autoencoder upsampler unet, " in lines[-1]
    codec.freeze(["discrete", "autoencoder"])
    output = codec.train()(torch.from_numpy(speech(0.4))[None].repeat(2, 1, 1), Prompt(mel=torch.randn(2, 80, 50)))
    output.losses["diffusion"].backward()
    learning = {name.split(".")[0] for name, p in codec.named_parameters() if p.grad is not None}
    assert output.wav_hat is None and learning == {"upsampler", "unet"}
    other = text_of(discrete, latent_dim=16)
    with pytest.raises(UserError, match="its autoencoder is not this configuration's"):
        start_from(codec, {"autoencoder": str(discrete)}, other)


def test_the_loss_is_equation_3_of_the_plans_steps_and_noise(discrete):
    codec = codec_of(discrete).train()
    wav = torch.from_numpy(np.stack([speech(0.4, seed) for seed in (0, 1)]))
    plan = Plan(codec.draw(np.random.default_rng(0), 2))
    assert 1 <= plan.drawn["t"].min() and plan.drawn["t"].max() <= 1000
    codec.plan = plan
    whole = codec(wav).losses["diffusion"].item()
    parts = []
    for item, part in zip(wav.chunk(2), plan.parts(2), strict=True):
        codec.plan = part
        parts.append(codec(item).losses["diffusion"].item())
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-4), "each item has its own step and noise"
    torch.nn.init.zeros_(codec.unet.last.weight)
    seeds = plan.drawn["noise"].tolist()
    noise = [torch.randn(1, 8, 60, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    codec.plan = plan
    assert codec(wav).losses["diffusion"].item() == pytest.approx(torch.cat(noise).abs().mean().item(), rel=1e-5)
    codec.loss = "l2"
    output = codec(wav)
    assert output.losses["diffusion"].item() == pytest.approx(torch.cat(noise).square().mean().item(), rel=1e-5)
    codec.predicts, kept = "velocity", codec.schedule.alpha_bar[plan.drawn["t"]].float().view(2, 1, 1)
    velocity = kept.sqrt() * torch.cat(noise) - (1 - kept).sqrt() * output.latents["z"]
    assert codec(wav).losses["diffusion"].item() == pytest.approx(velocity.square().mean().item(), rel=1e-4)


def test_a_velocity_tells_the_noise(discrete):
    codec = codec_of(discrete, **{"codec.predicts": "velocity", "codec.limit": 0})
    z, schedule = torch.randn(1, 8, 12), codec.schedule

    def exact(x, t, condition):  # of z in x, whatever the noise
        kept = schedule.alpha_bar[t].float().view(-1, 1, 1)
        noise = (x - kept.sqrt() * z) / (1 - kept).sqrt()
        return kept.sqrt() * noise - (1 - kept).sqrt() * z

    codec.unet.forward = exact
    assert torch.allclose(codec.generate(torch.zeros(1, 8, 12), Sampling("ddim", steps=9)), z, atol=1e-3)


def test_validation_draws_nothing(discrete):
    codec = codec_of(discrete)
    wav = torch.from_numpy(speech(0.4))[None].repeat(5, 1, 1)
    t, _ = codec._drawn(torch.zeros(5, 8, 4))
    assert t.tolist() == [101, 301, 501, 701, 901]
    assert codec(wav).losses["diffusion"].item() == codec(wav).losses["diffusion"].item()


@pytest.mark.parametrize("dim", [8, 3])
def test_latents_are_standardised_by_what_training_items_show(discrete, dim):
    options = {"codec.latent_dim": 8, "codec.unet.dim": dim, "codec.unet.condition": dim}
    codec = codec_of(discrete, **options, **{"codec.upsampler.o": dim})
    wav = torch.from_numpy(np.stack([(1 + seed) * speech(0.2, seed) for seed in range(4)]))
    codec.observe(wav)
    with torch.no_grad():
        z, standard = codec.autoencoder.encoder(wav), codec(wav).latents["z"]
        back = codec.synthesis @ standard + codec.mean
    numbers = standard.transpose(0, 1).flatten(1)
    assert torch.allclose(numbers.mean(1), torch.zeros(dim), atol=1e-4)
    assert torch.allclose(numbers.std(1, correction=0), torch.ones(dim), atol=1e-4)
    if dim == 8:
        assert torch.allclose(back, z, atol=1e-4) and torch.equal(codec.analysis, codec.analysis.diag().diag())
    else:  # no three channels are nearer to all than the principal components, which are not correlated
        assert torch.allclose(numbers.cov(correction=0), torch.eye(3), atol=1e-3)
        flat = z.transpose(0, 1).flatten(1)
        variances = torch.linalg.eigvalsh(flat.cov(correction=0))
        lost = (back - z).square().mean((0, 2)).sum()
        assert lost.item() == pytest.approx(variances[:5].sum().item(), rel=1e-3)


def test_it_learns_one_latent(discrete):
    """Of a single utterance, the diffusion finds the way back to what it was trained on."""
    codec = codec_of(discrete, **{"unet_widths": [32], "unet_middle": 32, "codec.predicts": "velocity"}).train()
    codec.freeze(["discrete", "autoencoder"])
    wav, rng = torch.from_numpy(speech(0.04))[None].repeat(8, 1, 1), np.random.default_rng(0)
    optimizer = torch.optim.Adam([p for p in codec.parameters() if p.requires_grad], 5e-3)
    codec.observe(wav)
    for _ in range(80):
        codec.plan = Plan(codec.draw(rng, 8))
        loss = codec(wav).losses["diffusion"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codec.eval()
    with torch.inference_mode():
        z = codec(wav[:1]).latents["z"]
        condition = codec.upsampler(codec.discrete.fuse(codec.discrete.quantizer(codec.encoder(wav[:1])).z_q, {}))
        found = codec.generate(condition, Sampling("dpm", steps=2))
    assert (found - z).square().mean() < 0.2, "noise alone would be 2, and silence 1"


# ---- use


def test_files_of_the_discrete_codec_are_decoded(exp, discrete, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", speech(1)[0], 24000)
    assert cli.main(["encode", str(tmp_path / "x.wav"), str(tmp_path / "x.psc"), "--exp", str(discrete)]) in (0, None)
    decode = ["decode", str(tmp_path / "x.psc"), "--exp", str(exp), "--tau", "4", "--force", "-o"]
    for name, more in {"a": [], "b": [], "seed": ["--seed", "1"], "dpm": ["--sampler", "dpm", "--steps", "2"]}.items():
        cli.main([*decode, str(tmp_path / f"{name}.wav"), *more])
    wavs = {name: soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("a", "b", "seed", "dpm")}
    assert all(len(wav) == 24000 for wav in wavs.values())
    assert np.array_equal(wavs["a"], wavs["b"])
    assert not np.allclose(wavs["a"], wavs["seed"], atol=1e-3) and not np.allclose(wavs["a"], wavs["dpm"], atol=1e-3)


def test_it_codes_as_the_discrete_codec(exp, discrete):
    mine, theirs = load_codec(exp), load_codec(discrete)
    assert mine.fingerprint == theirs.fingerprint
    stream, other = (coder.encode(speech(0.5), 24000) for coder in (mine, theirs))
    assert np.array_equal(stream.codes, other.codes)
    for name, vector in stream.header.side.items():
        assert np.array_equal(vector.numbers(), other.header.side[name].numbers())


def test_what_cannot_be_decoded_is_refused(exp, tiny_exp, discrete):
    coder = load_codec(exp, sampling={"tau": 2})
    with pytest.raises(UserError, match="coded by model tiny"):
        coder.decode(load_codec(tiny_exp).encode(speech(0.2), 24000))
    with pytest.raises(UserError, match="2 codes a frame; this LaDiffCodec has learned to decode 1"):
        coder.model.decode(torch.zeros(1, 2, 3, dtype=torch.long), {})
    with pytest.raises(UserError, match="generates a recording as a whole, so it is not for streams"):
        StreamDecoder(coder.model, coder.silent_side)
    with pytest.raises(UserError, match="leaves nothing to chance when it decodes, so it has no gamma"):
        load_codec(discrete, sampling={"gamma": 0.1})
    with pytest.raises(UserError, match="sampler is midway or ddpm"):
        load_codec(exp, sampling={"sampler": "euler"})


def test_a_batch_is_decoded_as_its_items(exp):
    coder = load_codec(exp, sampling={"tau": 3})
    streams = coder.encode([speech(0.4, 1), speech(0.3, 2), speech(0.4, 3)], 24000)
    for wav, stream in zip(coder.decode(streams), streams, strict=True):
        assert torch.allclose(wav, coder.decode(stream), atol=1e-5)


def test_long_signals_are_generated_in_windows_that_fade(discrete):
    codec = codec_of(discrete, **{"codec.window": 0.4, "codec.overlap": 0.1})
    assert (codec.window, codec.shared) == (60, 15)
    seen = []

    def ones(part):
        seen.append((part.start or 0, part.stop))
        return torch.ones(1, 8, 60)

    assert torch.allclose(codec._windows(torch.zeros(1, 8, 200), ones), torch.ones(1, 8, 200))
    assert seen == [(0, 60), (45, 105), (90, 150), (135, 195), (140, 200)]
    # what two share is the more the one's the nearer it is to its middle: 1/16 of the new window in its first frame
    number = iter((0.0, 1.0, 1.0, 1.0, 1.0))
    ramp = codec._windows(torch.zeros(1, 8, 200), lambda part: torch.full((1, 8, 60), next(number)))[0, 0]
    assert ramp[44] == 0 and ramp[60] == 1 and ramp[45].item() == pytest.approx(1 / 16)
    with torch.inference_mode():
        condition = torch.rand(1, 8, 130)
        whole = replace(Sampling(), tau=2)
        assert codec.generate(condition, whole).shape == condition.shape
    assert math.isfinite(codec.generate(condition, whole).sum().item())


def test_long_latents_are_decoded_piece_by_piece(discrete):
    codec = codec_of(discrete)
    z, seen = torch.randn(1, 8, 70), []
    with torch.inference_mode():
        whole = codec.decoder(z)
        codec.piece = 0.1  # 15 frames
        codec.autoencoder.decoder.forward = lambda z, forward=codec.decoder.forward: seen.append(z) or forward(z)
        assert torch.allclose(codec._spoken(z), whole, atol=1e-5)
    assert len(seen) == 1 and not isinstance(seen[0], torch.Tensor), "recorded once, then never called with signals"


def test_an_autoencoder_sends_nothing():
    options = {k: v for k, v in SMALL.items() if "." not in k}
    hp = build(resolve(compose(CONF / "ladiffcodec_autoencoder.yaml"), {"msstft_width": 4} | options))
    codec = hp["codec"]
    wav = torch.from_numpy(speech(0.4))[None]
    output = codec(wav)
    assert output.wav_hat.shape == wav.shape and output.quantized is None and codec.bitrate == 0
    with pytest.raises(UserError, match="no codes to send"):
        codec.encode(wav)


# ---- every configuration


@pytest.fixture(scope="module")
def encodec(tmp_path_factory):
    """Of the paper's discrete codec, as training leaves it."""
    folder = tmp_path_factory.mktemp("encodec") / "untrained"
    return make_experiment(folder, 0, "ladiffcodec_discrete", latent_dim=16)


CONFIGURATIONS = {  # and what else of each must be told
    "ladiffcodec": {},
    "ladiffcodec_encodec": {"codec.n_q": 2},
    "ladiffcodec_waveform": {"codec.n_q": 6},
    "ladiffcodec_autoencoder": {},
    "ladiffcodec_autoencoder_16k": {},
    "ladiffcodec_discrete": {"codebook_size": 16},
    "../../../Small24k/conf/ladiffcodec": {},
    "../../../Small24k/conf/ladiffcodec_autoencoder": {},
}


def test_no_configuration_is_left_out():
    folders = {"": CONF, "../../../Small24k/conf/": ROOT / "recipes/Small24k/conf"}
    there = {f"{name}{path.stem}" for name, folder in folders.items() for path in folder.glob("ladiffcodec*.yaml")}
    assert there == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_learns_and_all_of_it(encodec, name):
    torch.manual_seed(0)
    small = {"unet_widths": [8, 8], "unet_middle": 8, "width": 4, "msstft_width": 2, **CONFIGURATIONS[name]}
    if "codec.n_q" in small:
        small |= {"discrete": str(encodec), "codec.upsampler.i": 16}
    if "Small24k" not in name and name != "ladiffcodec_waveform":
        small["latent_dim"] = 8
    hp = build(resolve(compose(CONF / f"{name}.yaml"), small))
    codec, discriminators = hp["codec"], hp["discriminators"]
    codec.freeze(hp["frozen"])
    if hasattr(codec, "unet"):
        torch.nn.init.normal_(codec.unet.last.weight, std=0.1)  # zero passes no gradient on
    wav = 0.1 * torch.randn(2, 1, 640 if name.endswith("waveform") else 3200)
    codec.observe(wav)
    codec.train()
    output = codec(wav, Prompt(mel=torch.randn(2, 80, 60)))
    judged = [discriminators(x) for x in (wav, output.wav_hat)] if len(discriminators) else []
    total, terms = hp["losses"](Evidence(wav, output, *judged))
    total.backward()
    assert torch.isfinite(total) and set(terms) == set(hp["losses"].terms)
    still = [k for k, p in codec.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still, f"not trained: {still}"
    if hasattr(codec, "unet"):
        codec.eval().sampling = Sampling("dpm", steps=1)
        codes = codec.encode(wav)
        assert codes.shape == (2, codec.n_q, wav.shape[2] // 320) and codec.decode(codes, {}).shape == wav.shape


# ---- the bench of windows


def test_the_seam_of_windows_is_measured(tmp_path, discrete, capsys):
    """Of a network that looks a few frames around, windows change next to nothing; two samples are far apart."""
    text = text_of(discrete, **{"codec.window": 1.0, "codec.overlap": 0.25})
    codec = codec_of(discrete, **{"codec.window": 1.0, "codec.overlap": 0.25})
    start_from(codec, {"discrete": str(discrete)}, text)
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "hyperparams.yaml").write_text(text)
    AtomicCheckpointer(exp / "save", {"codec": codec}).save_checkpoint({"step": 1, "score": 1.0})
    read = [soundfile.read(path) for path in sorted((ROOT / "docs/samples").glob("*.0.ogg"))]
    wav, rate, utterances = np.concatenate([wav for wav, _ in read]), read[0][1], []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", wav[i * rate : (i + 1) * rate], rate)
        utterances.append(Utterance(f"{i}", f"speaker{i % 2}", str(tmp_path / f"{i}.wav"), 1.0))
    write_data_dir(tmp_path / "data", utterances)
    bench = runpy.run_path(str(ROOT / "tools/bench/diffusion_seam.py"))["main"]
    options = ["--exp", exp, "--data", tmp_path / "data", "--sampler", "dpm", "--steps", "2"]
    bench([str(x) for x in (*options, "--seconds", 2, "--number", 2)])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "2 recordings of 2 s, windows of 1.00 s that share 0.25 s"
    found = {name.strip(): float(rest[52:].split()[0]) for rest in lines for name in [rest[:52]]}
    assert 0 < found["windows from one, where they overlap"] < found["one from another sample"]
    assert found["windows from one, elsewhere"] < found["one from another sample"]
    assert found["PESQ, windows"] >= 1 and found["STOI, one"] < 1
    with pytest.raises(SystemExit, match="1 speakers|0 speakers"):
        bench([str(x) for x in (*options, "--seconds", 9, "--number", 2)])
    with pytest.raises(SystemExit, match="is one window"):
        bench([str(x) for x in (*options, "--seconds", 0.9, "--number", 1)])
