"""Codes that are searched: nearer to the recording than the encoder's, in files like any other."""

import numpy as np
import pytest
import torch
from conftest import make_experiment

import pscodec
from pscodec import cli, search
from pscodec.bin import decode
from pscodec.coders import open_coder
from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.inference import Coder
from pscodec.metrics.pesq import pesq
from pscodec.metrics.stoi import stoi
from pscodec.search import Search
from pscodec.types import CodecOutput, Evidence
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve

RATE = 24000


@pytest.fixture(scope="module")
def speech(mini_corpus):
    """Some 3 s of real speech, `[1, L]`."""
    return load_audio(sorted((mini_corpus / "it_IT_m_Carlo").rglob("*.wav"))[0], RATE)[0][:, : 3 * RATE]


def noise(seconds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, round(seconds * RATE), generator=generator)


def loss_of(coder, wav, stream):
    """What the search hears of `stream`."""
    made, wav = coder.decode(stream), coder.model.pad(wav[None])
    made = torch.nn.functional.pad(made, (0, wav.shape[-1] - made.shape[-1]))
    return coder.search.loss(Evidence(wav, CodecOutput(made[None])))[0].item()


def test_what_is_heard_is_nearer_and_the_bytes_are_as_many(speech):
    plain = pscodec.load_codec("pscodec_small_24k_v2", n_q=1).encode(speech, RATE)
    coder = pscodec.load_codec("pscodec_small_24k_v2", n_q=1, search=10)
    searched = coder.encode(speech, RATE)
    assert str(searched.header) == str(plain.header) and searched.sizes() == plain.sizes()
    assert searched.codes.shape == plain.codes.shape and 0.3 < (searched.codes != plain.codes).mean() < 0.95
    scores = []
    for stream in (plain, searched):
        signals = [resample(wav, RATE, 16000)[0].numpy() for wav in (speech, coder.decode(stream))]
        scores.append((pesq(*signals, 16000), stoi(*signals, 16000)))
    assert scores[1][0] > scores[0][0] + 0.1 and scores[1][1] > scores[0][1] + 0.01
    again = coder.encode(speech, RATE)
    assert np.array_equal(again.codes, searched.codes)


@pytest.mark.parametrize("steps", [1, 6])
def test_it_is_never_farther_than_the_encoder(tiny_exp, steps):
    wav = noise(0.7)
    coder = pscodec.load_codec(tiny_exp, search=steps)
    plain, searched = pscodec.load_codec(tiny_exp).encode(wav, RATE), coder.encode(wav, RATE)
    assert loss_of(coder, wav, searched) <= loss_of(coder, wav, plain) + 1e-4
    assert coder.search.model.quantizer is coder.model.quantizer
    assert not any(p.grad is not None for p in coder.search.model.parameters())


@pytest.mark.parametrize("seconds", [0.45, 0.8, 2.003])
def test_windows_meet_and_blocks_do_not_matter(tiny_exp, monkeypatch, seconds):
    monkeypatch.setattr(search, "WINDOW", 0.4)
    monkeypatch.setattr(search, "CONTEXT", 0.2)
    coder, wav = pscodec.load_codec(tiny_exp, search=2), noise(seconds)
    side, seen = coder.side(coder.header((wav, RATE))), []
    window = coder.search._window

    def counted(held, *args):
        seen.append(held.shape[1])
        return window(held, *args)

    coder.search._window = counted
    whole = coder.search.codes(wav, side)
    assert whole.shape == (1, -(-wav.shape[1] // 320))
    assert max(seen) <= 0.8 * RATE and len(seen) == max(1, round((seconds - 0.2) / 0.4 + 0.4999))
    pieces = list(coder.search.pieces(wav.split(1111, 1), side))
    assert torch.equal(torch.cat([block for block, _ in pieces], 1), wav)
    assert np.array_equal(np.concatenate([codes for _, codes in pieces], 1), whole)


def test_a_window_begins_with_what_came_before_it(tiny_exp, monkeypatch):
    """The frames of the context are decoded from the codes that were sent, not from others."""
    monkeypatch.setattr(search, "WINDOW", 0.4)
    monkeypatch.setattr(search, "CONTEXT", 0.2)
    coder, wav = pscodec.load_codec(tiny_exp, search=1), noise(1.3)
    side, given = coder.side(coder.header((wav, RATE))), []
    window = coder.search._window

    def noted(held, before, n, side):
        given.append((before.clone(), n))
        return window(held, before, n, side)

    coder.search._window = noted
    codes, at = torch.from_numpy(coder.search.codes(wav, side)), 0
    for before, n in given:
        assert torch.equal(before[0], codes[:, max(0, at - 15) : at])
        at += n
    assert at == codes.shape[1] and len(given) > 2


@pytest.mark.parametrize("wav", [torch.ones(1, 1) / 9, noise(0.02), noise(0.3), torch.zeros(1, RATE)])
def test_short_and_silent_recordings(tiny_exp, wav):
    stream = pscodec.load_codec(tiny_exp, search=2).encode(wav, RATE, prompt=None)
    assert stream.codes.shape == (1, max(1, -(-wav.shape[1] // 320))) and stream.n_samples == wav.shape[1]


def test_numbers_of_codebooks_batches_and_speakers(tmp_path):
    exp = make_experiment(tmp_path / "two", n_residual=2, n_q_dropout=0.5)
    coder = pscodec.load_codec(exp, search=2)
    profile = coder.enroll((noise(1, 7), RATE))
    wavs = [noise(0.6), noise(0.6, 1), noise(0.9, 2)]
    for n_q in (1, 2):
        coder.model.quantizer.n_q = n_q
        for prompt in (profile, None, (noise(1, 8), RATE)):
            streams = coder.encode(wavs, RATE, prompt)
            assert [s.codes.shape for s in streams] == [(n_q, 45), (n_q, 45), (n_q, 68)]
            alone = coder.encode(wavs[2], RATE, prompt)
            assert np.array_equal(alone.codes, streams[2].codes)
            assert coder.decode(alone, [profile]).shape == (1, round(0.9 * RATE))


@pytest.mark.parametrize(
    "config", ["hificodec", "soundstream", "encodec", "dac", "ticodec", "audiodec", "apcodec", "pscodec_casan"]
)
def test_every_codec_that_is_not_of_chunks(config, recipe):
    conf = recipe / "conf"
    torch.manual_seed(0)
    text = resolve(compose(conf / f"{config}.yaml", [conf / "presets/mini.yaml"]), {})
    model = build_only(text, "codec").eval()
    coder, wav = Coder(model, search=Search(model, 1)), noise(0.3)[:, : 6 * model.hop_length]
    stream = coder.encode(wav, model.sample_rate)
    assert stream.codes.shape == (model.n_q, 6) and coder.decode(stream).isfinite().all()


def test_codecs_that_cannot_be_searched_say_so(tiny_exp):
    coder = pscodec.load_codec(tiny_exp, precision=None)
    with pytest.raises(UserError, match="-3 steps"):
        pscodec.load_codec(tiny_exp, search=-3)
    coder.model.chunk = 24000
    with pytest.raises(UserError, match="codec of chunks"):
        Search(coder.model)
    coder.model.chunk, coder.model.sampling = 0, object()
    with pytest.raises(UserError, match="generates"):
        Search(coder.model)


def test_from_the_command_line(tiny_exp, tmp_path):
    save_audio(tmp_path / "x.wav", noise(0.8), RATE)
    words = ["encode", str(tmp_path / "x.wav"), "--exp", str(tiny_exp), "--precision", "fp32"]
    cli.main([*words, "-o", str(tmp_path / "plain.psc")])
    cli.main([*words, "-o", str(tmp_path / "searched.psc"), "--search", "4"])
    coder = pscodec.load_codec(tiny_exp, search=4)
    plain, searched = (coder.read(tmp_path / f"{name}.psc") for name in ("plain", "searched"))
    assert np.array_equal(searched.codes, coder.encode(load_audio(tmp_path / "x.wav")[0], RATE).codes)
    assert not np.array_equal(searched.codes, plain.codes) and str(searched.header) == str(plain.header)
    cli.main(["decode", str(tmp_path / "searched.psc"), "--exp", str(tiny_exp)])
    raw = ["--raw", "--sample-rate", "16000", "--search", "4"]
    with pytest.raises(SystemExit, match="--search looks ahead; --raw samples are coded as they come"):
        cli.main([*words, "-o", str(tmp_path / "raw.psc"), *raw])


def test_in_stage_5(tmp_path):
    exp = make_experiment(tmp_path / "bare", vpp_enc=None, melp_enc=None)
    save_audio(tmp_path / "x.wav", noise(0.7), RATE)
    write_data_dir(tmp_path / "data/test", [Utterance("a-1", "a", str(tmp_path / "x.wav"), 0.7)])
    words = ["--exp", str(exp), "--data", str(tmp_path / "data"), "--device", "cpu", "--search", "2"]
    decode.main([*words, "--out", str(tmp_path / "out")])
    coder = pscodec.load_codec(exp, search=2)
    sent = coder.read(next((tmp_path / "out").rglob("*.psc")))
    assert np.array_equal(sent.codes, coder.encode(load_audio(tmp_path / "x.wav")[0], RATE, None).codes)


def test_who_waits_for_a_long_file_sees_how_far_it_is(tiny_exp, tmp_path, monkeypatch, capsys):
    for name, seconds in (("short", 1.5), ("long", 21)):
        save_audio(tmp_path / f"{name}.wav", noise(seconds), RATE)
    monkeypatch.setattr(search, "WINDOW", 2.0)
    words = ["--exp", str(tiny_exp), "--precision", "fp32", "--no-prompt", "--search", "1"]
    cli.main(["encode", str(tmp_path / "short.wav"), *words])
    assert capsys.readouterr().err == ""
    cli.main(["encode", str(tmp_path / "long.wav"), *words])
    assert "search: 100%" in capsys.readouterr().err
    assert pscodec.load_codec(tiny_exp).read(tmp_path / "long.psc").codes.shape == (1, 21 * 75)


def test_by_name_where_codecs_are_scored(tiny_exp):
    wav, name = noise(0.6), tiny_exp.as_posix()
    searched, plain = open_coder(f"{name}:1+2"), open_coder(f"{name}:1")
    assert searched.coder.search.steps == 2 and plain.coder.search is None
    assert searched.stamp == plain.stamp + " +2"
    (made, _, rates), (other, _, same) = searched(wav, RATE), plain(wav, RATE)
    assert rates == same and not torch.equal(made, other)


def test_an_experiment_may_be_called_like_a_search(tmp_path):
    exp = make_experiment(tmp_path / "two+2")
    assert open_coder(exp.as_posix()).coder.search is None
    assert open_coder(f"{exp.as_posix()}:1+3").coder.search.steps == 3
    with pytest.raises(UserError, match="no codec .*two:1[+]3; there are"):
        open_coder(f"{tmp_path.as_posix()}/two:1+3")
