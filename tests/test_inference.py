"""Codecs from Python: what may come in, batches, prompts and profiles, damaged streams, other models' streams."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_experiment

import pscodec
from pscodec import bitstream
from pscodec.data.audio import silence
from pscodec.profile import Vector
from pscodec.types import Prompt
from pscodec.utils.errors import UserError

RATE = 24000


@pytest.fixture(scope="module")
def codec(tiny_exp):
    return pscodec.load_codec(tiny_exp, precision="fp32")


def speech(seconds, seed=0, rate=RATE):
    """Noise with a slow envelope."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    return (0.2 * rng.normal(size=n) * (1 + np.sin(np.arange(n) / 1500)) / 2).clip(-1, 1).astype(np.float32)


PROMPT = (speech(1, 9), RATE)


def same(one, two):
    return np.array_equal(one.codes, two.codes) and one.n_samples == two.n_samples


def test_what_a_recording_may_be(codec):
    wav = speech(0.3)
    plain = codec.encode(wav, RATE, PROMPT)
    assert plain.codes.shape == (1, 23) and plain.n_samples == 7200 and len(np.unique(plain.codes)) > 1
    for form in (wav[None], torch.from_numpy(wav), wav.tolist(), wav.astype(np.float64)):
        assert same(codec.encode(form, RATE, PROMPT), plain)
    integers = np.round(wav * 32768).astype(np.int16)
    assert same(codec.encode(integers, RATE, PROMPT), codec.encode(integers / 32768, RATE, PROMPT))
    decoded = codec.decode(plain)
    assert decoded.shape == (1, 7200) and decoded.dtype == torch.float32 and not decoded.is_inference()


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(0), "empty"),
        (np.full(9999, np.nan), "NaN"),
        (np.full(9999, 1000.0), "not scaled"),
        (np.zeros((1000, 2)), "more channels than samples"),
        (np.zeros(9999, np.int64), "int64"),
        (np.zeros((1, 1, 1, 9999))[0, 0], None),
        (np.zeros(100), "at least 25 ms"),
    ],
)
def test_what_it_may_not_be(codec, wav, message):
    if message is None:
        assert codec.encode(wav, RATE).n_samples == 9999
        return
    with pytest.raises(UserError, match=message):
        codec.encode(wav, RATE)


def test_other_sample_rates(codec):
    for rate in (8000, 16000, 44100, 48000):
        stream = codec.encode(speech(0.5, rate=rate), rate, PROMPT)
        assert stream.n_samples == 12000 and stream.header.sample_rate == RATE
    with pytest.raises(UserError, match="cannot resample from 10 "):
        codec.encode(speech(0.5), 10, PROMPT)
    with pytest.raises(UserError, match="cannot resample from 44101 "):
        codec.encode(speech(0.5), 44101, PROMPT)


def test_channels_are_averaged_or_coded_each(codec):
    left, right = speech(0.4), speech(0.4, 1)
    mixed = codec.encode(np.stack([left, right]), RATE, PROMPT)
    assert same(mixed, codec.encode((left + right) / 2, RATE, PROMPT))
    split = codec.encode(np.stack([left, right]), RATE, PROMPT, channels="split")
    assert same(split[0], codec.encode(left, RATE, PROMPT)) and same(split[1], codec.encode(right, RATE, PROMPT))


def test_a_batch_of_different_lengths_equals_one_by_one(codec):
    lengths = (0.3, 1.0, 0.5, 0.3, 0.995, 0.299, 1.0)  # the last but two: 75 frames as 1.0, the next 23 as 0.3
    wavs = [speech(s, i) for i, s in enumerate(lengths)]
    prompts = [(speech(1, 20 + i), RATE) for i in range(len(wavs))]
    singles = [codec.encode(w, RATE, p) for w, p in zip(wavs, prompts, strict=True)]
    batch = codec.encode(wavs, RATE, prompts)
    assert all(same(*pair) for pair in zip(batch, singles, strict=True))
    for one, other in zip(batch, singles, strict=True):
        for name, vector in one.header.side.items():
            assert np.array_equal(vector.levels, other.header.side[name].levels)
    for wav, single, length in zip(codec.decode(batch), singles, lengths, strict=True):
        assert wav.shape == (1, int(length * RATE))
        assert (wav - codec.decode(single)).abs().max() < 1e-5
    shared = codec.encode(wavs[:2], RATE, prompts[0])
    assert shared[0].header.side == shared[1].header.side
    assert [s.n_samples for s in codec.encode(np.stack([wavs[1], wavs[6]])[:, None], RATE)] == [RATE, RATE]
    assert codec.encode([], RATE) == [] and codec.decode([]) == []
    with pytest.raises(ValueError, match="1 prompts for 2"):
        codec.encode(wavs[:2], RATE, prompts[:1])


def test_long_recordings_in_memory_are_coded_in_pieces(codec, monkeypatch):
    monkeypatch.setattr("pscodec.pieces.BATCH", 3.0)
    wav = speech(7.01)
    pieces = codec.encode(wav, RATE, PROMPT)
    decoded = codec.decode(pieces)
    monkeypatch.undo()
    whole = codec.encode(wav, RATE, PROMPT)
    assert pieces.n_samples == whole.n_samples and np.mean(pieces.codes != whole.codes) <= 0.005  # ties aside
    assert (decoded - codec.decode(pieces)).abs().max() < 1e-4


def test_prompts_of_every_kind_say_the_same(codec, tmp_path):
    wav, prompt = speech(0.3), speech(1, 9)
    soundfile.write(tmp_path / "prompt.wav", prompt, RATE, subtype="FLOAT")
    streams = [
        codec.encode(wav, RATE, p)
        for p in ((prompt, RATE), tmp_path / "prompt.wav", str(tmp_path / "prompt.wav"), codec.prompt(prompt, RATE))
    ]
    for stream in streams[1:]:
        assert np.array_equal(stream.header.side["z_vp"].levels, streams[0].header.side["z_vp"].levels)
        assert np.array_equal(stream.header.side["z_mel"].levels, streams[0].header.side["z_mel"].levels)
    own = codec.encode(prompt, RATE)
    assert np.array_equal(own.header.side["z_mel"].levels, streams[0].header.side["z_mel"].levels)
    long = np.concatenate([np.tile(speech(1, 3), 30), prompt])  # only 30 s are heard
    one, two = codec.prompt(long, RATE), codec.prompt(long[: 30 * RATE], RATE)
    assert isinstance(one, Prompt) and torch.equal(one.mel, two.mel)


def test_a_profile_is_the_mean_and_is_referred_to_by_its_hash(codec, tmp_path):
    one, two = speech(1, 5), speech(2, 6)
    profile = codec.enroll((one, RATE), (two, RATE))
    assert profile.recordings == 2 and profile.seconds == 3.0
    with torch.inference_mode():
        sides = [codec.model.side(codec.prompt(w, RATE)) for w in (one, two)]
    for name, vector in profile.side.items():
        mean = (sides[0][name] + sides[1][name]).flatten() / 2
        assert np.abs(vector.floats() - mean.numpy()).max() <= 0.51 * vector.step
    stream = codec.encode(speech(0.4), RATE, profile)
    assert stream.header.profile == profile.hash and not stream.header.side and stream.sizes()["side"] == 8
    carried = replace(stream, header=replace(stream.header, profile=None, side=profile.side))
    assert torch.equal(codec.decode(stream, profile), codec.decode(carried))
    pscodec.write_profile(tmp_path / "alice.psp", profile)
    assert torch.equal(codec.decode(stream, tmp_path), codec.decode(carried))
    assert torch.equal(codec.decode(stream, [tmp_path / "alice.psp"]), codec.decode(carried))
    with pytest.raises(UserError, match=profile.hash.hex()):
        codec.decode(stream)


def test_what_is_written_is_what_is_decoded(codec, tmp_path):
    stream = codec.encode(speech(2.2), RATE, PROMPT)
    pscodec.write(tmp_path / "x.psc", stream)
    read = pscodec.read(tmp_path / "x.psc")
    assert same(read, stream) and torch.equal(codec.decode(read), codec.decode(stream))
    assert stream.header.model == "tiny" and stream.header.bits == 6


def test_lost_stretches_are_silent_and_the_rest_keeps_its_place(codec):
    stream = codec.encode(speech(5.2), RATE, PROMPT)
    data, at = bytearray(bitstream.pack(stream)), len(stream.header.pack())
    data[at + 2 * (1 + 57 + 4) + 9] ^= 1  # 6 bits * 75 are 57 bytes
    damaged = bitstream.unpack(data)
    assert damaged.lost == [(150, 225)]
    whole, wav = codec.decode(stream), codec.decode(damaged)
    assert wav.shape == whole.shape
    reach = 10 * 320  # of the decoder's convolutions, and then some
    assert torch.allclose(wav[:, : 48000 - reach], whole[:, : 48000 - reach], atol=1e-5)
    assert torch.allclose(wav[:, 72000 + reach :], whole[:, 72000 + reach :], atol=1e-5)
    assert wav[:, 48000 + 480 : 72000 - 480].abs().max() == 0 and wav[:, :48000].abs().min(1)[0] >= 0


def test_silence_by_hand():
    wav = silence(torch.ones(1, 10), 100, [(90, 103), (105, 108)], fade=2)
    # 90 to 103: full silence but for the last sample; 105, 106, 107: half, none, half
    assert wav[0].tolist() == [0, 0, 0.5, 1, 1, 0.5, 0, 0.5, 1, 1]


def test_another_models_stream_and_profile_are_refused_by_name(codec, tmp_path):
    other = pscodec.load_codec(make_experiment(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match=r"coded by model other \([0-9a-f]{16}\); this is tiny \([0-9a-f]{16}\)"):
        codec.decode(other.encode(speech(0.3), RATE, PROMPT))
    with pytest.raises(UserError, match="enrolled by model other"):
        codec.encode(speech(0.3), RATE, other.enroll(PROMPT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_length": 160}, "frames that are not those of tiny"),
        ({"sample_rate": 16000}, "frames that are not those"),
        ({"bits": 7}, "frames that are not those"),
        ({"side": {"z_vp": Vector.of(np.ones(32)), "z_mel": Vector.of(np.ones(31))}}, "side information"),
        ({"side": {"z_vp": Vector.of(np.ones(32)), "z_xy": Vector.of(np.ones(32))}}, "side information"),
    ],
)
def test_headers_that_lie_about_this_model(codec, change, message):
    stream = codec.encode(speech(0.3), RATE, PROMPT)
    with pytest.raises(UserError, match=message):
        codec.decode(replace(stream, header=replace(stream.header, **change)))


def test_codes_beyond_the_codebook(tmp_path):
    codec = pscodec.load_codec(make_experiment(tmp_path / "odd", codebook_size=50))
    stream = codec.encode(speech(0.3), RATE, PROMPT)
    assert stream.header.bits == 6
    stream.codes[0, 0] = 50
    with pytest.raises(UserError, match="code 50 in a codebook of 50"):
        codec.decode(stream)


def test_codecs_without_prompts_need_none(tmp_path):
    codec = pscodec.load_codec(make_experiment(tmp_path / "plain"))
    codec.model.sees, codec.model.side_sizes = (), {}
    stream = codec.encode(speech(0.01), RATE)
    assert stream.sizes()["side"] == 0 and codec.decode(stream).shape == (1, 240)
    with pytest.raises(UserError, match="no speaker profiles"):
        codec.enroll(PROMPT)


def test_devices_and_precisions_that_are_none(tiny_exp):
    with pytest.raises(UserError, match="device abacus: "):
        pscodec.load_codec(tiny_exp, device="abacus")
    with pytest.raises(UserError, match="precision is auto, fp32 or bf16"):
        pscodec.load_codec(tiny_exp, precision="fp8")


def test_folders_that_are_no_experiments(tmp_path):
    with pytest.raises(UserError, match="no hyperparams.yaml"):
        pscodec.load_codec(tmp_path)
    with pytest.raises(AttributeError):
        pscodec.nothing  # noqa: B018


def test_fewer_codebooks_code_and_every_number_is_decoded(tmp_path):
    exp = make_experiment(tmp_path / "two", n_residual=2, n_q_dropout=0.5)
    whole = pscodec.load_codec(exp)
    one = pscodec.load_codec(exp, n_q=1)
    both, first = whole.encode(speech(1), RATE, PROMPT), one.encode(speech(1), RATE, PROMPT)
    assert first.codes.shape == (1, 75) and np.array_equal(first.codes, both.codes[:1])
    assert first.header.n_q == 1 and whole.decode(first).shape == (1, RATE)
    assert torch.equal(whole.decode(first), one.decode(first))
    assert torch.equal(one.decode(both), whole.decode(both)), "nothing was cut off"
    one.model.quantizer.n_q = None
    assert one.fingerprint == whole.fingerprint and np.array_equal(
        one.encode(speech(1), RATE, PROMPT).codes, both.codes
    )
    with pytest.raises(UserError, match="cannot code with 3 codebooks; it can be 1 2"):
        pscodec.load_codec(exp, n_q=3)
