"""The PSCodec family: what DRL, ICT, CasAN and HifiCodec are made of, and every configuration of the recipe."""

import re
import runpy
import shutil

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from pscodec.brains.start import digest, start_from
from pscodec.discriminators.msd import MultiScaleDiscriminator
from pscodec.discriminators.msstft import STFTDiscriminator
from pscodec.inference import load_codec
from pscodec.layers.transformer import CrossAttention
from pscodec.losses.adversarial import FeatureMatching, LeastSquaresGenerator, least_squares_discriminator
from pscodec.losses.disentangle import DRL, ssim
from pscodec.models.hificodec import Decoder, HifiCodec
from pscodec.prompts.casan import CasAN
from pscodec.types import CodecOutput, Evidence, Judged, Prompt, Quantized
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.files import write_text
from pscodec.utils.hparams import build, build_only, compose, plain, resolve


def latent(*values):
    """Numbers of one frame as `[1, D, 1]`."""
    return torch.tensor(values).view(1, -1, 1)


# ---- SSIM and DRL


def test_ssim_by_hand():
    a, b = latent(1.0, 3.0), latent(2.0, 6.0)
    # means 2 and 4, variances 1 and 4, covariance 2
    by_hand = (2 * 2 * 4 + 0.01) * (2 * 2 + 0.03) / ((4 + 16 + 0.01) * (1 + 4 + 0.03))
    assert ssim(a, b).item() == pytest.approx(by_hand)
    assert ssim(a, a).item() == pytest.approx(1)
    # means 0, variance 1 each, covariance -1: only the constants keep it from -1
    assert ssim(latent(1.0, -1.0), latent(-1.0, 1.0)).item() == pytest.approx((-2 + 0.03) / (2 + 0.03))


def equation_3(a, b, c1=0.01, c2=0.03):
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    top = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
    return top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2))


def test_ssim_is_equation_3_over_utterances_and_over_frames():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, (3, 8, 5)), rng.normal(-0.2, 2, (3, 8, 1))
    whole = [equation_3(x, np.repeat(y, 5, 1)) for x, y in zip(a, b, strict=True)]
    frames = [np.mean([equation_3(x[:, t], y[:, 0]) for t in range(5)]) for x, y in zip(a, b, strict=True)]
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    assert ssim(*tensors).tolist() == pytest.approx(whole, rel=1e-4)
    assert ssim(*tensors, over="frame").tolist() == pytest.approx(frames, rel=1e-4)
    with pytest.raises(ValueError, match="utterance or frame"):
        ssim(*tensors, over="window")


def evidence(**latents):
    return Evidence(None, CodecOutput(torch.zeros(1, 1, 4), Quantized(None, None, None), latents))


def test_drl_weighs_the_pairs_there_are():
    q, vp, mel = latent(1.0, 2.0, 4.0), latent(-1.0, 0.0, 2.0), latent(3.0, -2.0, 0.5)
    total = 2 * ssim(q, mel) + 5 * ssim(q, vp) + 1 * ssim(vp, mel)
    assert DRL()(evidence(z_q=q, z_vp=vp, z_mel=mel)).item() == pytest.approx(total.item())
    assert DRL()(evidence(z_q=q, z_mel=mel)).item() == pytest.approx(2 * ssim(q, mel).item())
    assert DRL()(evidence(z_q=q)).item() == 0


@pytest.mark.parametrize(("sign", "expected"), [("raw", -1), ("abs", 1), ("relu", 0)])
def test_anti_correlation_is_rewarded_only_as_the_paper_writes_it(sign, expected):
    latents = {"z_q": latent(10.0, -10.0), "z_vp": latent(-10.0, 10.0)}
    assert DRL(q_vp=1, sign=sign)(evidence(**latents)).item() == pytest.approx(expected, abs=1e-3)


# ---- CasAN


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def prompts(batch=2, dim=32, frames=30):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, dim, n, generator=generator) for n in (frames, 1, 1)]


@pytest.fixture
def casan():
    torch.manual_seed(0)
    casan = CasAN(latent_dim=32, n_blocks=2, n_heads=4, hidden=64, n_groups=4).eval()
    for p in casan.parameters():
        if not p.any():  # it has learned something
            torch.nn.init.normal_(p, std=0.1)
    return casan


def test_casan_has_25_million_parameters_and_the_codec_109(recipe):
    assert millions(CasAN()) == pytest.approx(25.2, rel=0.005)
    codec = build_only(resolve(compose(recipe / "conf/pscodec_casan.yaml")), "codec")
    assert millions(codec) == pytest.approx(109, rel=0.02)


def test_casan_begins_as_the_sum():
    z_q, z_vp, z_mel = prompts()
    assert torch.equal(CasAN(latent_dim=32, n_blocks=2, n_groups=4).eval()(z_q, z_vp, z_mel), z_q + z_vp)


@pytest.mark.parametrize("query", ["context", "context_plus_query", "sum"])
def test_casan_keeps_the_stream_and_hears_z_mel(query):
    torch.manual_seed(0)
    z_q, z_vp, z_mel = prompts()
    casan = CasAN(latent_dim=32, n_blocks=2, n_groups=4, query=query).eval()
    begun = {"context": z_q + z_vp, "context_plus_query": z_q + z_vp + 2 * z_mel, "sum": z_q + z_vp + z_mel}[query]
    assert torch.allclose(casan(z_q, z_vp, z_mel), begun, atol=1e-5)  # two blocks, whose last layers begin at zero
    for p in casan.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    fused = casan(z_q, z_vp, z_mel)
    assert (fused - fused.mean(2, keepdim=True)).std() > 0.5  # it varies with time
    assert not torch.allclose(fused, casan(z_q, z_vp, -z_mel), atol=1e-2)
    # all frames alike: attention finds the same whatever asks
    constant = [casan(z_q[:, :, :1].expand(-1, -1, 5), z_vp, x) for x in (z_mel, -z_mel)]
    assert torch.allclose(*constant, atol=1e-5) == (query == "context")


def test_drl_looks_at_what_it_does_not_teach():
    latents = {"z_q": torch.randn(2, 8, 5, requires_grad=True), "z_vp": torch.randn(2, 8, 1, requires_grad=True)}
    output = CodecOutput(torch.zeros(1), None, latents)
    DRL(stopgrad=["z_q"])(Evidence(None, output)).backward()
    assert latents["z_q"].grad is None and latents["z_vp"].grad.abs().sum() > 0


def test_casan_uses_every_prompt_it_is_given(casan):
    z_q, z_vp, z_mel = prompts()
    fused = casan(z_q, z_vp, z_mel)
    assert fused.shape == z_q.shape
    for other in (casan(z_q), casan(z_q, z_vp), casan(z_q, None, z_mel), casan(z_q, z_vp, -z_mel)):
        assert not torch.allclose(fused, other, atol=1e-2)


def test_a_padded_batch_is_fused_like_its_items(casan):
    z_q, z_vp, z_mel = prompts()
    mask = torch.arange(30)[None] < torch.tensor([[30], [20]])
    batch = casan(z_q, z_vp, z_mel, mask)
    assert torch.allclose(batch[:1], casan(z_q[:1], z_vp[:1], z_mel[:1]), atol=1e-5)
    assert torch.allclose(batch[1:, :, :20], casan(z_q[1:, :, :20], z_vp[1:], z_mel[1:]), atol=1e-5)
    casan.context = 8  # windows that lie behind the shorter item's end
    assert torch.isfinite(casan(z_q, z_vp, z_mel, mask)).all()


def test_a_long_stream_is_fused_in_windows_whose_middle_halves_are_kept(casan):
    z_q, *side = prompts(frames=100)
    casan.context = 40
    fused = casan(z_q, *side)
    assert torch.equal(casan(z_q[:, :, :40], *side)[:, :, :30], fused[:, :, :30])
    for begin in (20, 40):
        window = casan(z_q[:, :, begin : begin + 40], *side)
        assert torch.equal(window[:, :, 10:30], fused[:, :, begin + 10 : begin + 30])
    assert torch.equal(casan(z_q[:, :, 60:], *side)[:, :, 10:], fused[:, :, 70:])
    casan.train()
    assert not torch.allclose(casan(z_q, *side), fused, atol=1e-4), "training sees the whole"


@pytest.mark.parametrize("frames", [39, 40, 41, 59, 60, 61, 1001])
def test_windows_cover_every_length(casan, frames):
    z_q, *side = prompts(frames=frames)
    casan.context = 40
    assert casan(z_q, *side).shape == z_q.shape


def test_casans_work_grows_with_the_length(casan):
    seen = []
    casan.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0].shape[1]))
    z_q, *side = prompts(batch=1, frames=15000)  # 200 s
    casan(z_q, *side)
    assert max(seen) == 3000 and sum(seen) < 2 * 15000


def test_a_query_of_equal_keys_gets_the_mean_of_the_values():
    attention = CrossAttention(4, 2)
    with torch.no_grad():
        attention.kv.weight[:4] = 0
    stream = torch.randn(1, 6, 4)
    values = attention.kv(stream)[:, :, 4:].mean(1, keepdim=True)
    assert torch.allclose(attention(torch.randn(1, 1, 4), stream), attention.out(values), atol=1e-6)


def test_an_stft_by_its_window_is_torchaudios():
    wav = 0.1 * torch.randn(1, 1, 2000)
    seen = []
    disc = STFTDiscriminator(512, width=2, by_window=True)
    disc.convs[0].register_forward_hook(lambda _, args, __: seen.append(args[0]))
    disc(wav)
    transform = torchaudio.transforms.Spectrogram(512, hop_length=128, power=None, normalized="window")
    theirs = transform(wav)[0, 0].T
    assert torch.allclose(torch.complex(*seen[0][0]), theirs, atol=1e-5)


# ---- HifiCodec's own losses


def test_least_squares_by_hand():
    real, fake = Judged([torch.tensor([2.0, 1.0])], []), Judged([torch.tensor([1.0, -1.0])], [])
    assert least_squares_discriminator(real, fake).item() == pytest.approx(0.5 + 1.0)
    heard = evidence()
    heard.fake = fake
    assert LeastSquaresGenerator()(heard).item() == pytest.approx((0 + 4) / 2)
    heard.fake = Judged([torch.tensor([3.0])], [[torch.tensor([1.0]), torch.tensor([2.0])]])
    heard.real = Judged([torch.tensor([1.0])], [[torch.tensor([2.0]), torch.tensor([5.0])]])
    assert FeatureMatching(summed=True)(heard).item() == pytest.approx(1 + 3 + 2)


def test_multi_scale_discriminator_has_its_published_size_and_scales():
    assert millions(MultiScaleDiscriminator()) == pytest.approx(29.6, rel=0.01)
    judged = MultiScaleDiscriminator(8)(torch.randn(2, 1, 6400))
    assert [x.shape[2] for x in judged.logits] == [100, 51, 26]  # strides 2 * 2 * 4 * 4, and the rate halved
    assert [len(fmaps) for fmaps in judged.fmaps] == [7, 7, 7]


# ---- ICT

TINY = {
    "width": 2,
    "latent_dim": 32,
    "decoder_width": 32,
    "kernels": [3],
    "dilations": [1],
    "melp_width": 16,
    "melp_heads": 1,
    "melp_hidden": 16,
    "vpp_hidden": 16,
    "mpd_width": 1,
    "msstft_width": 2,
    "msd_width": 8,
    "casan_heads": 1,
    "casan_hidden": 32,
    "codebook_size": 16,
}


def text_of(recipe, name, **overrides):
    return resolve(compose(recipe / f"conf/{name}.yaml"), TINY | overrides)


@pytest.fixture
def parent(recipe, tmp_path):
    """An experiment as stage 3 leaves it, every weight of theta_1 told apart from theta_0."""
    text = text_of(recipe, "pscodec_base")
    write_text(tmp_path / "parent/hyperparams.yaml", text)
    torch.manual_seed(0)
    codec = build_only(text, "codec")
    checkpointer = AtomicCheckpointer(tmp_path / "parent/save", {"codec": codec})
    save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, tmp_path / "parent/save/theta_0.safetensors")
    with torch.no_grad():
        for p in codec.parameters():
            p.add_(1)
    checkpointer.save_checkpoint({"step": 7, "score": 1.0})
    return tmp_path / "parent"


ICT = dict.fromkeys(("quantizer", "encoder", "vpp_enc", "melp_enc"), "parent") | {"decoder": "theta_0"}


def test_ict_copies_exactly_the_named_parts(recipe, parent):
    text = text_of(recipe, "pscodec_drl_ict")
    assert plain(text)["start_from"] == ICT | {"fusion": "theta_0"}
    torch.manual_seed(1)
    codec = build_only(text, "codec")
    lines = start_from(codec, ICT, text, parent)
    torch.manual_seed(0)
    start = build_only(text, "codec").state_dict()
    for name, parameter in codec.named_parameters():
        learned = name.split(".")[0] in ("quantizer", "encoder", "vpp_enc", "melp_enc")
        assert torch.equal(parameter, start[name] + 1 if learned else start[name]), name
    told = {line.split()[0]: line for line in lines}
    assert f"theta_0 {digest(start)}" in told["decoder"] and digest(codec.decoder.state_dict()) in told["decoder"]
    for name in ("quantizer", "encoder", "vpp_enc", "melp_enc"):
        assert "learned in 7 steps" in told[name] and digest(getattr(codec, name).state_dict()) in told[name]
    assert "new: fusion, discriminators" in lines[-1]


def test_a_part_of_a_part_can_be_taken_where_its_weights_fit(recipe, parent):
    text = text_of(recipe, "pscodec_base", decoder_width=64)
    codec = build_only(text, "codec")
    assert "encoder" in start_from(codec, {"encoder.last": str(parent)}, text)[-1], "most of it is new"
    torch.manual_seed(0)
    start = build_only(text_of(recipe, "pscodec_base"), "codec")
    assert torch.equal(codec.encoder.last.bias, start.encoder.last.bias + 1)
    all_of_it = [f"encoder.{name}" for name, part in codec.encoder.named_children() if part.state_dict()]
    assert "encoder" not in start_from(codec, dict.fromkeys(all_of_it, str(parent)), text)[-1]
    with pytest.raises(UserError, match=r"decoder.first is not this configuration's \(size mismatch"):
        start_from(codec, {"decoder.first": str(parent)}, text)


def test_whose_codes_stay_when_a_decoder_is_trained_anew(recipe, parent, monkeypatch):
    monkeypatch.syspath_prepend(str(recipe))
    codes_of = runpy.run_path(str(recipe / "train.py"))["codes_of"]
    kept = ["encoder", "quantizer", "vpp_enc", "melp_enc"]
    hp = {"codec": build_only(text_of(recipe, "pscodec_base"), "codec"), "frozen": kept}
    hp["start_from"] = dict.fromkeys(kept, str(parent))
    fingerprint = load_codec(parent).fingerprint.hex()
    assert codes_of(hp, None) == fingerprint
    assert codes_of(hp | {"start_from": dict.fromkeys(kept, "parent")}, parent) == fingerprint
    assert codes_of(hp | {"frozen": kept[1:]}, None) is None, "the encoder learns"
    assert codes_of(hp | {"start_from": dict.fromkeys(kept[1:], str(parent))}, None) is None, "the encoder is new"
    assert codes_of(hp | {"start_from": dict.fromkeys(kept, "theta_0")}, parent) is None, "untrained"
    # and files name that fingerprint
    text = (parent / "hyperparams.yaml").read_text()
    write_text(parent / "hyperparams.yaml", re.sub(r"codes_of:.*", "codes_of: 0123456789abcdef", text))
    assert load_codec(parent).fingerprint.hex() == "0123456789abcdef"


def test_parts_come_from_several_experiments_and_the_others_start_anew(recipe, parent, tmp_path):
    shutil.copytree(parent, tmp_path / "other")
    text = text_of(recipe, "pscodec_base", decoder_width=64)  # a decoder that no experiment has
    torch.manual_seed(5)
    codec = build_only(text, "codec")
    decoder = {k: v.clone() for k, v in codec.decoder.state_dict().items()}
    start_from(codec, {"encoder": str(parent), "quantizer": str(tmp_path / "other")}, text)
    torch.manual_seed(0)
    start = build_only(text_of(recipe, "pscodec_base"), "codec")
    assert torch.equal(codec.encoder.last.bias, start.encoder.last.bias + 1)
    assert torch.equal(codec.quantizer.codebooks[0].entries, start.quantizer.codebooks[0].entries + 1)
    assert all(torch.equal(decoder[k], v) for k, v in codec.decoder.state_dict().items())


def test_a_parent_of_an_older_program_counts_with_the_defaults_of_keys_that_it_had_not(recipe, parent):
    config = parent / "hyperparams.yaml"
    older = re.sub(r"\n\s+pool: 1(?=\n)", "", config.read_text())
    assert older != config.read_text()
    config.write_text(older)
    text = text_of(recipe, "pscodec_drl_ict")
    start_from(build_only(text, "codec"), ICT, text, parent)
    text = text_of(recipe, "pscodec_drl_ict", melp_pool=2)
    with pytest.raises(UserError, match=r"its melp_enc is not this configuration's \(pool: 1 there, 2 here\)"):
        start_from(build_only(text, "codec"), ICT, text, parent)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"latent_dim": 64}, "its quantizer is not this configuration's (dim: 32 there, 64 here)"),
        ({"sample_rate": 16000}, "its sample_rate is not this configuration's (value: 24000 there, 16000 here)"),
        ({"decoder_strides": [8, 5, 4, 2]}, "its decoder is not this configuration's (strides: [4, 4, 4, 5] there"),
    ],
)
def test_parts_of_another_configuration_are_refused(recipe, parent, overrides, message):
    text = text_of(recipe, "pscodec_drl_ict", **overrides)
    with pytest.raises(UserError) as refused:
        start_from(build_only(text, "codec"), ICT, text, parent)
    assert message in str(refused.value)


def test_what_cannot_be_started_from_is_told(recipe, parent, tmp_path):
    text = text_of(recipe, "pscodec_drl_ict")
    codec = build_only(text, "codec")
    with pytest.raises(UserError, match="has no part 'quantiser'"):
        start_from(codec, {"quantiser": "parent"}, text, parent)
    with pytest.raises(UserError, match="quantizer: parent needs an experiment, --parent"):
        start_from(codec, ICT, text)
    with pytest.raises(UserError, match="not an experiment"):
        start_from(codec, {"encoder": str(tmp_path / "none")}, text)
    (parent / "save/theta_0.safetensors").unlink()
    with pytest.raises(UserError, match="run stage 3"):
        start_from(codec, {"decoder": "theta_0"}, text, parent)


def test_frozen_parts_stand_still_in_training(recipe):
    text = text_of(recipe, "pscodec_base", codebook_update="ema", kmeans_steps=0, restart_after=1)
    codec = build_only(text, "codec")
    codec.freeze(["encoder", "quantizer"])
    codec.train()
    assert not codec.encoder.training and not codec.quantizer.codebooks[0].training and codec.decoder.training
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in codec.parameters() if p.requires_grad], lr=0.1)
    prompt = Prompt(mel=torch.randn(2, 80, 60), voiceprint=torch.randn(2, 192))
    codec(0.1 * torch.randn(2, 1, 3200), prompt).wav_hat.square().sum().backward()
    optimizer.step()
    moved = {k.split(".")[0] for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"vpp_enc", "melp_enc", "decoder"}
    assert all(codec.encoder.training is False for _ in [codec.eval(), codec.train()])
    with pytest.raises(ValueError, match="the codec has no part 'coder'"):
        codec.freeze(["coder"])


# ---- every configuration


def test_every_choice_is_marked_as_the_papers_or_ours(recipe):
    lines = (recipe / "conf/base.yaml").read_text().split("# ---- the codec, and")[0].splitlines()
    choices = [line for line in lines if re.match(r"\w+: ", line)]
    assert len(choices) > 60
    assert [line for line in choices if not re.search(r"# (paper|ours, because)\b", line)] == []


CONFIGURATIONS = [
    "apcodec",
    "audiodec",
    "audiodec_vocoder",
    "dac",
    "encodec",
    "encodec_48k",
    "encodec_mpd",
    "encodec_msd_stft",
    "encodec_msstft_mpd",
    "encodec_noncausal",
    "encodec_public",
    "encodec_sum",
    "hificodec",
    "hificodec_public",
    "pscodec_base",
    "pscodec_base_mrd",
    "pscodec_base_no_melp",
    "pscodec_base_no_vpp",
    "pscodec_casan",
    "pscodec_drl",
    "pscodec_drl_ict",
    "pscodec_frames",
    "pscodec_ict",
    "soundstream",
    "soundstream_public",
    "ticodec",
    "ticodec_consistency",
]


def test_no_configuration_is_left_out(recipe):
    there = sorted(p.stem for p in (recipe / "conf").glob("*.yaml") if p.stem != "base")
    assert CONFIGURATIONS == [name for name in there if "ladiffcodec" not in name]  # tests/test_ladiffcodec.py has them


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_trains_two_steps_and_codes(recipe, name):
    torch.manual_seed(0)
    # not narrower: weight norm gives a weight that sees one channel no direction to learn, and a gradient of rounding
    hp = build(text_of(recipe, name, dropout=0.1, width=4))
    codec, discriminators = hp["codec"], hp["discriminators"]
    trained = {"codec_optimizer": codec} | ({"discriminator_optimizer": discriminators} if len(discriminators) else {})
    for optimizer_of, module in trained.items():
        hp[optimizer_of] = hp[optimizer_of]([p for p in module.parameters() if p.requires_grad])
    wav, other = (0.1 * torch.randn(2, codec.channels, 4800) for _ in range(2))
    if "pitch" in hp["losses"].terms:  # which noise has none of
        phases = 2 * torch.pi * 150 * torch.arange(4800) / 24000
        wav = 0.1 * wav + 0.03 * sum(torch.sin(k * phases) for k in range(1, 12))
    prompt = Prompt(mel=torch.randn(2, 80, 60), voiceprint=torch.randn(2, 192), wav=other)
    before = {k: v.clone() for k, v in codec.named_parameters() if v.requires_grad}
    for _ in range(2):
        output = codec.train()(wav, prompt)
        if len(discriminators):  # a first training may do without
            disc = hp["discriminator_loss"](discriminators(wav), discriminators(output.wav_hat.detach()))
            hp["discriminator_optimizer"].zero_grad()
            disc.backward()
            hp["discriminator_optimizer"].step()
        judged = Evidence(wav, output, discriminators(wav), discriminators(output.wav_hat))
        total, terms = hp["losses"](judged)
        assert torch.isfinite(total) and set(terms) == set(hp["losses"].terms)
        hp["codec_optimizer"].zero_grad()
        total.backward()
        hp["codec_optimizer"].step()
    still = [k for k, v in codec.named_parameters() if k in before and torch.equal(v, before[k])]
    assert not still, f"not trained: {still}"

    codec.eval()
    level = codec.level(wav) if codec.chunk else 1
    codes, side = codec.encode(wav / level), codec.side(prompt if codec.side_of == "speaker" else Prompt(wav=wav))
    assert codes.shape == (2, codec.n_q, 4800 // codec.hop_length) and codes.max() < codec.codebook_size
    decoded = level * codec.decode(codes, side, 4700)
    assert decoded.shape == (2, codec.channels, 4700)
    with torch.no_grad():
        assert torch.allclose(
            codec(wav, prompt).wav_hat[..., :4700], decoded, atol=2e-3 if hasattr(codec.decoder, "pitch") else 1e-5
        )


# ---- weights of the public code


def public_states(recipe):
    """A checkpoint laid out as the authors' code does: flat lists, the older names of weight norm."""
    torch.manual_seed(0)
    codec = build_only(text_of(recipe, "hificodec_public", kernels=[3, 5], norm="group"), "codec")
    states = {"encoder": {}, "generator": {}, "quantizer": {}}
    for key, value in codec.state_dict().items():
        part, key = key.split(".", 1)
        words = key.replace("parametrizations.weight.original0", "weight_g")
        words = words.replace("parametrizations.weight.original1", "weight_v").split(".")
        if part == "quantizer":
            if words[-1] == "entries":  # groups.G.layers.R.entries
                states[part][f"quantizer_modules{'2' if words[3] == '1' else ''}.{words[1]}.embedding.weight"] = value
            continue
        if words[0] == "mrfs":  # mrfs.SCALE.blocks.KERNEL...
            kind = {"blocks": "resblocks", "norms": "normalize"}[words[2]]
            words = [kind, str(2 * int(words[1]) + int(words[3])), *words[4:]]
        words[0] = {"first": "conv_pre", "last": "conv_post", "downs": "ups"}.get(words[0], words[0])
        states["generator" if part == "decoder" else part][".".join(words)] = value
    return codec, states


def test_the_slope_before_the_decoders_last_layer_by_hand():
    torch.manual_seed(0)
    decoder = Decoder(latent_dim=4, width=8, strides=[2], kernels=[3], dilations=[1], last_slope=0.1).eval()
    x = torch.tensor([[[-1.0, 2.0, 0.0]] * 4])
    with torch.no_grad():
        by_hand = torch.tanh(decoder.last(torch.tensor([[[-0.1, 2.0, 0.0]] * 4])))
        assert torch.allclose(decoder.finish(x), by_hand)


def test_public_weights_become_an_experiment(recipe, tmp_path, capsys):
    codec, states = public_states(recipe)
    assert "resblocks.7.convs1.0.weight_v" in states["encoder"] and "quantizer_modules2.1.embedding.weight" in str(
        states["quantizer"].keys()
    )
    fresh = build_only(text_of(recipe, "hificodec_public", kernels=[3, 5], norm="group"), "codec")
    fresh.load_public(states)
    wav = torch.randn(1, 1, 3200)
    assert torch.equal(fresh.eval().encode(wav), codec.eval().encode(wav))
    with pytest.raises(ValueError, match="last_slope"):
        HifiCodec(fresh.encoder, fresh.quantizer, Decoder()).load_public(states)
    del states["encoder"]["normalize.0.weight"]
    with pytest.raises(ValueError, match=r"encoder.mrfs.0.norms.0.weight is missing"):
        fresh.load_public(states)
