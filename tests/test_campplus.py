"""CAM++: the published weights load strictly, stay frozen, and know one voice from another."""

import hashlib
import io
import itertools

import pytest
import soundfile
import torch

from pscodec.features import FBank
from pscodec.prompts.campplus import CAMPPlus, load_campplus, segment_means, spread
from pscodec.utils.errors import UserError

# SHA-256 of the sorted "key shape" lines of campplus_cn_en_common.pt
KEYS = "1e7e99eda3e38738396748173b242dcb30503353a402dff2b15784004046c218"


@pytest.fixture(scope="module")
def campplus(campplus_path):
    return load_campplus(campplus_path)


def fingerprint(state):
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_keys_and_shapes_are_those_of_the_published_checkpoint(campplus_path):
    assert fingerprint(CAMPPlus().state_dict()) == (937, KEYS)
    assert fingerprint(torch.load(campplus_path, weights_only=True)) == (937, KEYS)


@pytest.mark.parametrize(("size", "millions"), [(192, 6.85), (512, 7.18)])
def test_parameters_as_published(size, millions):
    count = sum(p.numel() for p in CAMPPlus(embedding_dim=size).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_loading_fills_every_tensor(campplus, campplus_path):
    official = torch.load(campplus_path, weights_only=True)
    assert all(torch.equal(value, official[key]) for key, value in campplus.state_dict().items())


def test_training_mode_and_optimizers_cannot_reach_it(campplus):
    whole = torch.nn.ModuleDict({"voice": campplus, "other": torch.nn.BatchNorm1d(4)})
    before = {key: value.clone() for key, value in campplus.state_dict().items()}
    whole.train()
    campplus(torch.randn(2, 80, 60))
    assert whole["other"].training and not any(module.training for module in campplus.modules())
    assert not any(p.requires_grad for p in campplus.parameters())
    assert all(torch.equal(value, before[key]) for key, value in campplus.state_dict().items())


def test_gradient_reaches_the_input(campplus):
    fbank = torch.randn(1, 80, 60, requires_grad=True)
    campplus(fbank).sum().backward()
    assert fbank.grad.abs().sum() > 0


def test_segments_are_averaged_over_their_true_length():
    x = torch.cat([torch.full((1, 1, 100), 2.0), torch.tensor([[[4.0, 8.0]]])], dim=-1)
    assert segment_means(x).tolist() == [[[2.0, 6.0]]]
    assert spread(segment_means(x), 102)[0, 0, 98:].tolist() == [2.0, 2.0, 6.0, 6.0]


@pytest.mark.parametrize("frames", [3, 4, 199, 200, 201, 402])
def test_any_length_from_three_frames(campplus, frames):
    embedding = campplus(torch.randn(2, 80, frames))
    assert embedding.shape == (2, 192) and embedding.isfinite().all()


def test_two_frames_are_too_few(campplus):
    with pytest.raises(ValueError, match="at least 3 frames"):
        campplus(torch.randn(1, 80, 2))


def test_bin_means_are_taken_off(campplus):
    fbank = torch.randn(1, 80, 120)
    torch.testing.assert_close(campplus(fbank), campplus(fbank + torch.randn(1, 80, 1)), atol=1e-3, rtol=1e-3)


def test_wrong_size_is_told_in_one_line(campplus_path):
    with pytest.raises(UserError, match="192-dimensional embeddings, the codec wants 512") as caught:
        load_campplus(campplus_path, embedding_dim=512)
    assert "\n" not in str(caught.value)


def saved(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a CAM\\+\\+ checkpoint"),
        (b"<html>not found</html>", "not a CAM\\+\\+ checkpoint"),
        (saved({"weight": torch.ones(1)}), "not a CAM\\+\\+ checkpoint"),
        (saved([1, 2]), "not a CAM\\+\\+ checkpoint"),
        (saved({"xvector.dense.linear.weight": torch.ones(192, 1024, 1)}), "Missing key"),
        (None, "no such file"),
    ],
)
def test_another_file_is_told_in_one_line(tmp_path, content, told):
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        load_campplus(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.fixture(scope="module")
def voices(mini_corpus):
    """Filter banks of 3-6 s utterances, 6 for each of four speakers."""
    fbank, voices = FBank(), {}
    for folder in sorted(p for p in mini_corpus.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for path in sorted(folder.rglob("*.*")):
            info = soundfile.info(path) if path.suffix in {".wav", ".flac"} else None
            chosen = voices.setdefault(folder.name, [])
            if info and info.samplerate == 16000 and 3 <= info.duration <= 6 and len(chosen) < 6:
                wav = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].T)
                chosen.append(fbank(wav)[None])
    # one woman speaks English and Spanish
    return {name: chosen for name, chosen in voices.items() if chosen and name != "es_MX_f_Allison"}


def test_utterances_of_one_voice_are_closer_than_of_two(campplus, voices):
    embedded = [(name, campplus(fbank)[0]) for name, chosen in voices.items() for fbank in chosen]
    same, different = [], []
    for (a, x), (b, y) in itertools.combinations(embedded, 2):
        (same if a == b else different).append(torch.cosine_similarity(x, y, dim=0))
    same, different = torch.stack(same), torch.stack(different)
    assert same.mean() > 0.6 and different.mean() < 0.35
    assert same.quantile(0.1) > different.quantile(0.9)


def test_wrapping_around_is_heard_less_than_padding(campplus, voices):
    """Why a short prompt is wrapped: with it doubled the voice stays, zeros of that length are heard."""
    for fbank in [chosen[0][..., :300] for chosen in voices.values()]:
        embedding = campplus(fbank)
        wrapped = torch.cosine_similarity(embedding, campplus(torch.cat([fbank, fbank], dim=-1))).item()
        padded = torch.cosine_similarity(embedding, campplus(torch.nn.functional.pad(fbank, (0, 300)))).item()
        assert wrapped > 0.99 > 0.98 > padded


def test_bfloat16_hears_the_same_voice(campplus, voices):
    for fbank in [chosen[0][..., :300] for chosen in voices.values()]:
        with torch.autocast("cpu", torch.bfloat16):
            embedding = campplus(fbank)
        assert embedding.dtype == torch.float32
        assert torch.cosine_similarity(campplus(fbank), embedding).item() > 0.99
