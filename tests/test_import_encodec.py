"""Weights of the authors' package become experiments that code as it does."""

import runpy

import pytest
import soundfile
import torch
from conftest import LOCAL
from safetensors.torch import save_file
from test_encodec import random_public

from pscodec import bitstream, cli
from pscodec.inference import load_codec

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")  # the package's own


@pytest.fixture
def run(recipe, monkeypatch, capsys):
    """The program, called from the recipe's folder as its users do; it returns what was printed."""
    monkeypatch.chdir(recipe)
    main = runpy.run_path(str(LOCAL / "import_encodec.py"))["main"]

    def call(*words):
        main([str(word) for word in words])
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    ("name", "form", "channels", "rate"),
    [("encodec_model_24khz", "th", 1, 24000), ("encodec_model_48khz", "safetensors", 2, 48000)],
)
def test_an_experiment_of_published_weights_codes_as_the_package(run, tmp_path, name, form, channels, rate):
    theirs, path = random_public(name), tmp_path / f"weights.{form}"
    if form == "th":
        torch.save(theirs.state_dict(), path)
    else:
        save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    assert run(path, "--exp", tmp_path / "exp").splitlines()[-1] == f"wrote {tmp_path / 'exp'}: {rate} Hz, 24000 bit/s"
    wav = 0.1 * torch.randn(channels, rate // 2)
    theirs.set_target_bandwidth(6)
    with torch.no_grad():
        frames = theirs.encode(wav[None])
        wav_hat = theirs.decode(frames)[0]
    coder = load_codec(tmp_path / "exp", n_q=frames[0][0].shape[1])
    stream = coder.encode(wav, rate)
    stream.codes = frames[0][0][0].numpy()
    whole = wav.shape[-1] // 320 * 320 - 4000  # what is beyond the end of a last frame differs
    assert torch.allclose(coder.decode(stream)[:, :whole], wav_hat[:, :whole], atol=2e-5)
    soundfile.write(tmp_path / "a.wav", wav.T.numpy(), rate, subtype="FLOAT")
    for words in (["encode", "a.wav", "a.psc", "--n-q", "4"], ["decode", "a.psc", "b.wav"]):
        cli.main([words[0], *(str(tmp_path / w) if "." in w else w for w in words[1:]), "--exp", str(tmp_path / "exp")])
    info = soundfile.info(tmp_path / "b.wav")
    assert (info.channels, info.samplerate, info.frames) == (channels, rate, rate // 2)
    assert len(bitstream.read(tmp_path / "a.psc").codes) == 4
    with pytest.raises(SystemExit, match="exp exists"):
        run(path, "--exp", tmp_path / "exp")


def test_anything_else_is_one_line(run, tmp_path):
    state = random_public("encodec_model_24khz").state_dict()
    for name, thing, words in (
        ("odd.th", {"encoder.model.0.conv.conv.weight_v": torch.zeros(32, 2, 7)}, "not the weights of the encodec"),
        ("other.th", {"encoder": {"a": torch.zeros(1)}}, "not the weights of the encodec"),
        ("object.th", {"a": LOCAL}, "holds more than tensors"),
        ("short.th", dict(list(state.items())[:-1]), "is missing"),
        ("text.safetensors", None, "is no checkpoint"),
        ("text.th", None, "is no checkpoint"),
        ("none.th", None, "no such checkpoint"),
    ):
        if thing:
            torch.save(thing, tmp_path / name)
        elif name != "none.th":
            (tmp_path / name).write_text("hello")
        with pytest.raises(SystemExit, match=f"^error: [^\n]*{name}[^\n]*{words}[^\n]*$|^error: {words}: .*{name}$"):
            run(tmp_path / name, "--exp", tmp_path / "exp")
    assert not (tmp_path / "exp").exists()
