"""A separator in use: windows whose talkers keep their order, any rate and length, and the command."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from pscodec import cli, released, separation
from pscodec.bin import release
from pscodec.data.audio import load_audio, resample
from pscodec.downstream.masks import Masks, masked
from pscodec.inference import load_codec
from pscodec.losses.separation import EmbeddingLoss
from pscodec.separation import joined, load_separator, windows
from pscodec.types import Separation
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, plain, resolve

CONF = ROOT / "recipes/WSJ0Mix/separation/conf"
SMALL = {"sample_rate": 16000, "n_src": 2, "channels": 16, "n_blocks": 2, "n_heads": 2, "hidden": 16}
SMALL |= {"activation": "elu", "attend_every": 0}


@pytest.fixture(scope="module")
def exp(tmp_path_factory, tiny_exp):
    """An untrained separator in the embedding of the tiny codec, of mixtures at 16 kHz."""
    folder = tmp_path_factory.mktemp("separator") / "exp"
    coder = load_codec(tiny_exp)
    facts = {"codec": str(tiny_exp), "codec_fingerprint": coder.fingerprint.hex(), "latent_dim": 32} | SMALL
    text = resolve(compose(CONF / "residual_tcn_el.yaml"), facts)
    torch.manual_seed(0)
    separator = build_only(text, "separator")
    torch.nn.init.normal_(separator.output.linear.weight, std=0.3)
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(text)
    AtomicCheckpointer(folder / "save", {"separator": separator}).save_checkpoint({"step": 1, "score": 1.0})
    return folder


def speech(seconds, rate=16000, seed=0):
    noise = np.random.default_rng(seed).normal(size=round(seconds * rate))
    return (0.1 * noise * np.sin(np.arange(noise.size) * 8 / rate) ** 2).astype(np.float32)


# ---- windows


@pytest.mark.parametrize("cut", [1, 3, 7, 40])
@pytest.mark.parametrize(("length", "count"), [(2, 1), (10, 1), (11, 2), (16, 2), (17, 3), (40, 6)])
def test_windows_by_hand(length, count, cut):
    signal = torch.arange(length)[None]
    found = list(windows(signal.split(cut, -1), 10, 6))
    assert len(found) == count and found[-1][0, -1] == length - 1
    assert [w[0, 0].item() for w in found] == [6 * i for i in range(count)]
    assert all(w.shape[-1] == 10 for w in found[:-1]) and (count == 1 or 4 < found[-1].shape[-1] <= 10)


def test_talkers_keep_their_order_from_window_to_window():
    signal = torch.randn(3, 2, 100, generator=torch.Generator().manual_seed(0))
    parts = list(windows([signal], 30, 20))
    orders = [torch.randperm(3, generator=torch.Generator().manual_seed(i)) for i in range(len(parts))]
    assert len({tuple(o.tolist()) for o in orders}) > 2
    whole = torch.cat(list(joined((p[o] for p, o in zip(parts, orders, strict=True)), 10)), -1)
    assert torch.allclose(whole, signal[orders[0]], atol=1e-6)
    # where two windows do not agree, the second is faded in: thirds of the way at two shared samples
    faded = torch.cat(list(joined([torch.ones(1, 1, 4), torch.full((1, 1, 4), 4.0)], 2)), -1)
    assert faded.flatten().tolist() == pytest.approx([1, 1, 2, 3, 4, 4])


# ---- recordings


def test_a_short_recording_is_separated_as_the_recipe_does(exp):
    unmixer = load_separator(exp)
    wav = torch.from_numpy(speech(2.3))[None]
    with torch.no_grad():
        z, _, _ = unmixer.frozen.embed(wav[None])
        whole = unmixer.frozen.decode(unmixer.system.separator(z), {}, wav.shape[1], unmixer.frozen.scale(wav[None]))
    decoded, masked = unmixer.separate(wav, 16000, masked=False), Masks(16000).push(wav, whole[0], last=True)
    assert torch.allclose(decoded, whole[0], atol=1e-4 * whole.abs().max())
    voices = unmixer.separate(wav, 16000)
    assert torch.allclose(voices, masked, atol=1e-3 * wav.abs().max())
    assert torch.allclose(voices.sum(0), wav[0], atol=1e-5)  # every sound of the recording is somebody's


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.01), (16000, 3.0), (44100, 7.1), (48000, 3.0001)])
def test_rate_and_length_are_the_recordings(exp, rate, seconds, monkeypatch):
    monkeypatch.setattr(separation, "WINDOW", 1.0)
    monkeypatch.setattr(separation, "OVERLAP", 0.25)
    unmixer, wav = load_separator(exp), speech(seconds, rate)
    for as_masks in (True, False):
        voices = unmixer.separate(np.stack([wav, wav]), rate, as_masks)  # channels are averaged
        assert voices.shape == (2, wav.size) and torch.isfinite(voices).all()
        blocks = torch.from_numpy(wav)[None].split(997, -1)
        again = torch.cat(list(unmixer.separate_blocks(blocks, rate, float(np.abs(wav).max()), as_masks)), 1)
        assert torch.allclose(voices, again, atol=1e-3 * voices.abs().max())


def test_a_long_recording_is_separated_as_its_parts_are(exp):
    """Far from the seams: a network that looks at a bounded stretch gives in windows what it gives at once."""
    unmixer, wav = load_separator(exp), torch.from_numpy(speech(40.0))[None]
    voices = unmixer.separate(wav, 16000, masked=False)
    with torch.no_grad():
        z, _, _ = unmixer.frozen.embed(wav[None])
        whole = unmixer.frozen.decode(unmixer.system.separator(z), {}, wav.shape[1], unmixer.frozen.scale(wav[None]))
    off = (voices - whole[0]).abs()
    assert off[:, 2 * 16000 : 8 * 16000].max() < 1e-4 * whole.abs().max()
    assert off.mean() < 0.02 * whole.abs().mean()  # seams, and the ends of windows, included


@pytest.mark.parametrize("config", ["sepformer", "sepformer_coded"])
def test_separators_of_waveforms_work_in_windows_too(config, tmp_path, tiny_exp, monkeypatch):
    monkeypatch.setattr(separation, "WINDOW", 0.5)
    monkeypatch.setattr(separation, "OVERLAP", 0.1)
    facts = {"sample_rate": 8000, "n_src": 2, "filters": 8, "chunk": 20, "n_layers": 1, "n_blocks": 1, "n_heads": 2}
    facts |= {"hidden": 8}
    if config == "sepformer_coded":
        facts |= {"codec": str(tiny_exp), "codec_fingerprint": load_codec(tiny_exp).fingerprint.hex()}
    text = resolve(compose(CONF / f"{config}.yaml"), facts)
    (tmp_path / "hyperparams.yaml").write_text(text)
    weights = {"separator": build_only(text, "separator")}
    AtomicCheckpointer(tmp_path / "save", weights).save_checkpoint({"step": 1, "score": 1.0})
    unmixer, wav = load_separator(tmp_path), torch.from_numpy(speech(1.3, 8000))[None]
    voices = unmixer.separate(wav, 8000)
    assert voices.shape == (2, wav.shape[1]) and torch.isfinite(voices).all() and voices.abs().max() > 0
    batch = {"mix": wav[None, :, :4000], "sources": None, "lengths": torch.tensor([4000])}
    with torch.no_grad():
        first = unmixer.system(batch).estimates[0]
    assert torch.allclose(voices[:, :3000], first[:, :3000], atol=1e-5)  # before the second window fades in


# ---- the command


def test_the_command_writes_a_recording_of_each_talker(exp, tmp_path, capsys):
    for name, seconds in (("a", 1.0), ("b", 0.5)):
        soundfile.write(tmp_path / f"{name}.flac", speech(seconds, 22050), 22050)
    cli.main(["separate", str(tmp_path), "-o", str(tmp_path / "apart"), "--exp", str(exp)])
    files = sorted((tmp_path / "apart").iterdir())
    assert [f.name for f in files] == ["a.s1.wav", "a.s2.wav", "b.s1.wav", "b.s2.wav"]
    assert [(soundfile.info(f).frames, soundfile.info(f).samplerate) for f in files] == 2 * [(22050, 22050)] + 2 * [
        (11025, 22050)
    ]
    assert "b.s*.wav: 2 talkers, 0.50 s at 22050 Hz" in capsys.readouterr().out
    cli.main(["separate", str(tmp_path / "a.flac"), "-o", str(tmp_path / "as_it_is"), "--exp", str(exp), "--decoded"])
    masked, decoded = (load_audio(tmp_path / folder / "a.s1.wav")[0] for folder in ("apart", "as_it_is"))
    assert masked.shape == decoded.shape and not torch.allclose(masked, decoded, atol=1e-3)
    with pytest.raises(SystemExit, match="a.s1.wav exists; --force overwrites it"):
        cli.main(["separate", str(tmp_path / "a.flac"), "-o", str(tmp_path / "apart"), "--exp", str(exp)])


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros(16000), "near-silent"), (np.zeros(0), "empty audio file"), (None, "no such file")],
)
def test_mistakes_are_one_line_and_nothing_is_left(exp, tmp_path, samples, message):
    source = tmp_path / "x.wav"
    if samples is not None:
        soundfile.write(source, samples, 16000)
    with pytest.raises(SystemExit) as exit:
        cli.main(["separate", str(source), "-o", str(tmp_path / "apart"), "--exp", str(exp)])
    assert message in str(exit.value) and "\n" not in str(exit.value)
    assert not list(tmp_path.glob("apart/*"))


def test_what_is_no_separator_is_told(tiny_exp, exp, tmp_path):
    with pytest.raises(UserError, match="not an experiment of the separation recipe"):
        load_separator(tiny_exp)
    with pytest.raises(SystemExit, match="-o DIR"):
        cli.main(["separate", "x.wav", "--exp", str(exp)])


@pytest.fixture(scope="module")
def refined(exp, tmp_path_factory):
    """The same, with a refiner of its masks that corrects at random."""
    folder = tmp_path_factory.mktemp("refined") / "exp"
    keys = plain((exp / "hyperparams.yaml").read_text())
    facts = {key: keys[key] for key in ("codec", "codec_fingerprint", "latent_dim")} | SMALL
    text = resolve(compose(CONF / "residual_tcn_refined.yaml"), facts | {"refiner_channels": 4, "refiner_blocks": 2})
    refiner = build_only(text, "refiner")
    torch.nn.init.normal_(refiner.last.weight)
    parts = load_separator(exp).system.parts | {"refiner": refiner}
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(text)
    AtomicCheckpointer(folder / "save", parts).save_checkpoint({"step": 1, "score": 1.0})
    return folder


def test_corrected_masks_in_windows_are_those_of_the_whole(exp, refined):
    wav = torch.from_numpy(speech(9.3))[None]
    uncorrected, corrected = load_separator(exp), load_separator(refined)
    voices = corrected.separate(wav, 16000)
    pieces = torch.cat(list(corrected.separate_blocks(wav.split(5001, -1), 16000, wav.abs().max().item())), 1)
    assert torch.allclose(voices, pieces, atol=1e-3 * wav.abs().max())
    assert torch.allclose(voices.sum(0), wav[0], atol=1e-5)
    estimates = uncorrected.separate(wav, 16000, masked=False)
    assert torch.equal(estimates, corrected.separate(wav, 16000, masked=False))
    whole = masked(wav[None], estimates[None], 16000, corrected.system.refiner)[0]
    assert torch.allclose(voices, whole, atol=1e-3 * wav.abs().max())
    assert not torch.allclose(voices, uncorrected.separate(wav, 16000), atol=0.01)


@pytest.mark.parametrize("kind", ["exp", "refined"])
def test_a_released_separator_is_the_trained_one_without_pickle(kind, request, tmp_path, monkeypatch):
    exp = request.getfixturevalue(kind)
    monkeypatch.setattr(released, "WEIGHTS", tmp_path)
    release.main(["--exp", str(exp), "--out", str(tmp_path / "given")])
    files = ["hyperparams.yaml", *["refiner.safetensors"] * (kind == "refined"), "separator.safetensors"]
    assert sorted(p.name for p in (tmp_path / "given").iterdir()) == files
    assert released.names("separator") == ["given"] and released.names() == []
    wav = speech(1.0)
    given, trained = (load_separator(name).separate(wav, 16000) for name in ("given", exp))
    assert torch.equal(given, trained)


def test_the_separator_of_the_package_tells_two_voices_apart():
    """One is the same person's at three quarters of the rate, a deep voice; at 0 stands the mean of both."""
    one, two = sorted((ROOT / "docs/samples").glob("*.0.ogg"))[1:]
    sources = [load_audio(one, 16000)[0], resample(load_audio(two, 16000)[0], 12000, 16000)]
    length = min(wav.shape[1] for wav in sources)
    sources = torch.cat([0.05 * wav[:, :length] / wav[:, :length].std() for wav in sources])
    unmixer = load_separator(released.SEPARATOR)
    z_mix, z_sources, frames = unmixer.frozen.embed(sources.sum(0, keepdim=True)[None], sources[None])
    with torch.inference_mode():
        estimates = unmixer.system.separator(z_mix)
    separation, loss = Separation(estimates, z_sources, frames, z_mix), EmbeddingLoss()
    mean, mixture = loss.trivial(separation)
    assert (loss(separation)[0] - mean) / (mixture - mean) < -0.3
