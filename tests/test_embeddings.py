"""The cache of embeddings: what a fresh computation gives, and refused where it would not."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import untrained_codec

from pscodec.bin import embed
from pscodec.data.embeddings import CacheWriter, EmbeddingCache, cache_folder, data_file
from pscodec.data.mixture import Mixture, MixtureDataset, Source, collate, read_mixtures, write_mixtures
from pscodec.downstream.codec import FrozenCodec
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError


@pytest.fixture
def cached(folder, codec_exp, capsys):
    """A folder of mixtures and that of their embeddings, by stage 2."""
    embed.main(["--exp", str(codec_exp), "--data", str(folder), "--num-workers", "0", "--device", "cpu"])
    return folder, Path(capsys.readouterr().out.splitlines()[-1])


def fresh(folder, codec_exp):
    """Collated embeddings of all mixtures, computed now and in one batch."""
    data = MixtureDataset(folder)
    frozen = FrozenCodec(load_codec(codec_exp).model, data.sample_rate, "peak")
    batch = collate([data[i] for i in range(len(data))])
    return frozen.embed(batch["mix"], batch["sources"], batch["lengths"])


def test_the_cache_is_what_the_encoder_gives(cached, codec_exp):
    folder, where = cached
    coder = load_codec(codec_exp)
    assert where == cache_folder(folder, coder.fingerprint.hex(), "peak")
    z_mix, z_sources, frames = fresh(folder, codec_exp)
    data = MixtureDataset(folder, embeddings=where)
    batch = collate([data[i] for i in range(2)])
    assert "mix" not in batch and batch["frames"].tolist() == frames.tolist() == [75, math.ceil(9000 * 3 / 320)]
    assert batch["z_mix"].shape == (2, 16, 85) and batch["z_sources"].shape == (2, 2, 16, 85)
    largest = z_sources.abs().max()
    assert torch.allclose(batch["z_mix"], z_mix, atol=1e-3 * largest)
    assert torch.allclose(batch["z_sources"], z_sources, atol=1e-3 * largest)
    assert not torch.allclose(batch["z_sources"][:, 0], batch["z_sources"][:, 1], atol=0.1 * largest)


@pytest.mark.parametrize(("dtype", "precision"), [("f32", 1e-5), ("bf16", 5e-3)])
def test_other_number_formats(folder, codec_exp, tmp_path, dtype, precision):
    out = tmp_path / dtype
    embed.main(
        ["--exp", str(codec_exp), "--data", str(folder), "--out", str(out), "--dtype", dtype, "--num-workers", "0"]
    )
    z_mix, _, _ = fresh(folder, codec_exp)
    assert torch.allclose(EmbeddingCache(out)["m2"]["z_mix"], z_mix[1], atol=precision * z_mix.abs().max())
    assert data_file(out, dtype).stat().st_size == 3 * 16 * (75 + 85) * {"f32": 4, "bf16": 2}[dtype]


def test_a_segment_is_the_same_stretch_of_frames_and_of_audio(cached):
    folder, where = cached
    data, whole = MixtureDataset(folder, segment=0.4, embeddings=where, audio=True), MixtureDataset(folder)
    for number in range(5):
        item = data[(number, 1)]
        assert item["frames"] == 30 and item["length"] == 3200
        z = EmbeddingCache(where)["m2"]["z_mix"]
        first = next(i for i in range(56) if torch.equal(z[:, i : i + 30], item["z_mix"]))
        start = round(first * 8000 / 75)
        assert torch.equal(item["sources"], whole[1]["sources"][:, start : start + 3200])


def test_a_second_run_keeps_it_and_a_broken_one_is_made_again(cached, codec_exp, capsys):
    folder, where = cached
    command = ["--exp", str(codec_exp), "--data", str(folder), "--num-workers", "0", "--device", "cpu"]
    before = data_file(where, "f16").stat().st_mtime_ns
    embed.main(command)
    assert "already there" in capsys.readouterr().err and data_file(where, "f16").stat().st_mtime_ns == before
    bits = bytearray(data_file(where, "f16").read_bytes())
    bits[:200] = bytes(200)
    data_file(where, "f16").write_bytes(bits)
    embed.main(command)
    assert "from what is computed now" in capsys.readouterr().err
    data_file(where, "f16").write_bytes(bits[:-2])
    with pytest.raises(UserError, match="not whole"):
        EmbeddingCache(where)
    embed.main(command)
    assert "not whole" in capsys.readouterr().err
    assert EmbeddingCache(where)["m1"]["z_mix"].abs().max() > 0


def test_other_mixtures_recordings_and_codecs_are_refused(cached, codec_exp, tmp_path, capsys):
    folder, where = cached
    data = MixtureDataset(folder, embeddings=where)
    data.cache.require(load_codec(codec_exp).fingerprint.hex(), "peak")
    for wrong in ((load_codec(codec_exp).fingerprint.hex(), "none"), ("00" * 8, "peak")):
        with pytest.raises(UserError, match="run stage 2"):
            data.cache.require(*wrong)
    for how in ({"dynamic": True}, {"speed": (0.95, 1.0)}, {"gain_db": 1.0}):
        with pytest.raises(UserError, match="embeddings of stage 2 are of fixed mixtures"):
            MixtureDataset(folder, embeddings=where, **how)
    mixtures, meta = read_mixtures(folder)
    write_mixtures(folder, [Mixture("m1", (Source("a-1", 0, 2.0), Source("b-1", 1, 0.5)), 8000), mixtures[1]], meta)
    with pytest.raises(UserError, match="other mixtures or recordings"):
        MixtureDataset(folder, embeddings=where)
    write_mixtures(folder, mixtures, meta)
    MixtureDataset(folder, embeddings=where)
    with open(Path(meta["clean"]).parent / "a-1.wav", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match="other mixtures or recordings"):
        MixtureDataset(folder, embeddings=where)
    other = untrained_codec(tmp_path / "other", seed=1)
    embed.main(["--exp", str(other), "--data", str(folder), "--where"])
    assert Path(capsys.readouterr().out.strip()) not in (where, Path("."))


def test_an_interrupted_run_goes_on_and_ends_equal(cached, tmp_path):
    folder, where = cached
    whole = EmbeddingCache(where)
    blocks = {utt: torch.cat([whole[utt]["z_mix"][None], whole[utt]["z_sources"]]) for utt in ("m1", "m2")}
    writer = CacheWriter(tmp_path / "x", whole.meta)
    writer.add("m1", blocks["m1"])
    writer.file.write(b"half a block")  # the machine goes down here
    writer.file.flush()
    with pytest.raises(UserError, match="holds no embeddings"):
        EmbeddingCache(tmp_path / "x")
    writer = CacheWriter(tmp_path / "x", whole.meta)
    assert list(writer.places) == ["m1"]
    writer.add("m2", blocks["m2"])
    writer.close()
    assert data_file(tmp_path / "x", "f16").read_bytes() == data_file(where, "f16").read_bytes()
    assert json.loads((tmp_path / "x/embeddings.json").read_text()) == json.loads(
        (where / "embeddings.json").read_text()
    )
    assert CacheWriter(tmp_path / "x", whole.meta | {"fingerprint": "another"}).places == {}


def test_numbers_that_the_format_cannot_hold_are_refused(cached, tmp_path):
    writer = CacheWriter(tmp_path / "x", EmbeddingCache(cached[1]).meta)
    with pytest.raises(UserError, match="--dtype f32"):
        writer.add("m1", torch.full((3, 16, 5), 1e5))
