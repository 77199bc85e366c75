"""Prompts as a few tokens: their codebooks, and streams that hold them."""

import numpy as np
import pytest
import torch
from conftest import RATE, tone

from pscodec import cli, load_codec
from pscodec.bin import learn_side
from pscodec.bitstream import pack, unpack
from pscodec.profile import Tokens, Vector
from pscodec.side_tokens import FILE, Codebook, SideTokens, lloyd_max
from pscodec.utils.errors import UserError


def vectors(n=400, seed=0):
    """Of 8 numbers in 3 directions, far from zero."""
    places = np.random.default_rng(seed).normal(size=(n, 3)) * [5, 2, 1]
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(8, 3)))[0].T
    return (20 + places @ directions).astype(np.float32)


def test_levels_of_four_points_are_these_points():
    assert lloyd_max(np.array([4.0, 1.0, 1.0, 2.0, 7.0, 7.0]), 4) == pytest.approx([1, 2, 4, 7])


def test_levels_of_a_normal_distribution_are_lloyds_and_maxs():
    places = np.random.default_rng(0).normal(size=200_000)  # Max (1960), Table I: two and four levels
    assert lloyd_max(places, 2) == pytest.approx([-0.798, 0.798], abs=0.01)
    assert lloyd_max(places, 4) == pytest.approx([-1.510, -0.453, 0.453, 1.510], abs=0.02)


def test_a_vector_comes_back_as_near_as_its_levels_are():
    book, x = Codebook.fit(vectors(5000), 3, 32), vectors(seed=1)
    told = np.stack([book.vector(book.tokens(v)) for v in x])
    assert book.entries == 32 and told.dtype == np.float32
    assert learn_side.lost(x, told, book.mean) < 0.005  # 5 bits: 32 levels of a normal distribution leave 0.0025
    fewer = Codebook.fit(vectors(), 1, 32)
    told = np.stack([fewer.vector(fewer.tokens(v)) for v in x])
    assert learn_side.lost(x, told, fewer.mean) == pytest.approx(5 / 30, abs=0.03)  # 4 and 1 of 25 + 4 + 1


@pytest.mark.parametrize("n, numbers, entries", [(400, 9, 4), (400, 0, 4), (16, 3, 16), (3, 3, 2)])
def test_too_little_to_learn_from(n, numbers, entries):
    with pytest.raises(ValueError, match="too few"):
        Codebook.fit(vectors(n), numbers, entries)


def test_files(tmp_path):
    tokens = SideTokens({"z_mel": Codebook.fit(vectors(), 3, 4)})
    tokens.save(tmp_path / FILE)
    read = SideTokens.load(tmp_path / FILE)
    assert read.pack("z_mel", vectors()[0])[0] == tokens.pack("z_mel", vectors()[0])[0]
    assert SideTokens.load(tmp_path / "none").pack("z_mel", vectors()[0]) is None
    for wrong in (b"", (tmp_path / FILE).read_bytes()[:-1], b"x" * 1000):
        (tmp_path / FILE).write_bytes(wrong)
        with pytest.raises(UserError, match="not codebooks"):
            SideTokens.load(tmp_path / FILE)


def test_what_does_not_fit_a_codebook_stays_as_it_is():
    tokens = SideTokens({"z_mel": Codebook.fit(vectors(), 3, 4)})
    name, sent = tokens.pack("z_mel", vectors()[0])
    assert sent.size == 3 and sent.bits == 2 and list(tokens.unpack({name: sent})) == ["z_mel"]
    for other in ({name: Tokens(sent.codes[:2], 4)}, {name: Tokens(sent.codes, 5)}, {"z_mel_00000000": sent}):
        assert tokens.unpack(other) == other
    plain = {"z_mel": Vector.of(vectors()[0])}
    assert tokens.unpack(plain) == plain


@pytest.fixture
def learned(codec_exp, tmp_path, folder):
    """A codec with its codebooks, learned by the program from four utterances."""
    exp = tmp_path / "exp"
    exp.mkdir()
    for file in codec_exp.iterdir():
        (exp / file.name).symlink_to(file)
    learn_side.main(["--exp", str(exp), "--data-dir", str(folder.parent / "clean"), "--numbers", "2", "--bits", "1"])
    return exp


def test_streams_send_tokens_and_decode_to_what_their_vectors_say(learned, codec_exp):
    coder, plain, wav = load_codec(learned), load_codec(codec_exp), tone(1, 200)
    stream = coder.encode(wav, RATE)
    (name, sent), *_ = ((n, s) for n, s in stream.header.side.items() if n.startswith("z_mel"))
    assert isinstance(sent, Tokens) and (sent.size, sent.bits) == (2, 1) and stream.header.version == 3
    assert len(stream.header.pack()) < len(plain.encode(wav, RATE).header.pack())
    again = unpack(pack(stream))
    side = coder.side(again.header)
    book = coder.tokens.codebooks["z_mel"]
    assert torch.equal(side["z_mel"].flatten(), torch.from_numpy(book.vector(again.header.side[name])))
    heard = coder.decode(again)
    with torch.inference_mode():
        expected = coder.model.decode(torch.from_numpy(stream.codes)[None], side, stream.n_samples)[0]
    assert torch.allclose(heard, expected, atol=1e-6)


def test_vectors_are_still_sent_on_demand_and_read(learned, codec_exp):
    wav = tone(1, 200)
    plain = load_codec(codec_exp).encode(wav, RATE)
    stream = load_codec(learned, vectors=True).encode(wav, RATE)
    assert all(isinstance(sent, Vector) for sent in stream.header.side.values())
    assert torch.equal(load_codec(learned).decode(plain), load_codec(codec_exp).decode(plain))


def test_profiles_stay_vectors(learned):
    coder = load_codec(learned)
    profile = coder.enroll((tone(1, 200), RATE), (tone(1, 300), RATE))
    assert all(isinstance(sent, Vector) for sent in profile.side.values())
    stream = coder.encode(tone(1, 200), RATE, profile)
    assert coder.decode(stream, [profile]).shape == (1, 24000)


def test_a_codec_without_the_codebook_refuses_in_one_line(learned, codec_exp):
    stream = load_codec(learned).encode(tone(1, 200), RATE)
    with pytest.raises(UserError, match=r"tokens z_vp_[0-9a-f]{8}, whose codebook \(side.safetensors\)"):
        load_codec(codec_exp).decode(stream)


def test_the_program_refuses_codecs_without_vectors(folder, tmp_path):
    with pytest.raises(SystemExit):
        learn_side.main(["--exp", str(tmp_path), "--data-dir", str(folder.parent / "clean")])


def test_the_command_line_sends_either(learned, folder, tmp_path):
    sizes = []
    for more in ([], ["--vectors"]):
        psc, how = str(tmp_path / "x.psc"), ["--exp", str(learned), "--force"]
        cli.main(["encode", str(folder.parent / "a-1.wav"), "-o", psc, *how, *more])
        cli.main(["decode", psc, "-o", str(tmp_path / "x.wav"), *how])
        sizes.append((tmp_path / "x.psc").stat().st_size)
    assert sizes[0] < sizes[1]
