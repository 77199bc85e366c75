"""Entropy coding: range coder and fixed point by hand, the network that both sides run, files that need it."""

import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from test_inference import RATE, speech

from pscodec import bitstream, cli
from pscodec.bin import decode, evaluate
from pscodec.bitstream import Header, Stream
from pscodec.data.kaldi import Utterance, write_data_dir, write_table
from pscodec.entropy import ranges
from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.export import export
from pscodec.entropy.network import FILE, Network, Shape, powers
from pscodec.inference import load_codec
from pscodec.models.language import CodesLanguageModel
from pscodec.utils.errors import UserError


def language(n_q=2, size=64, seed=0, favoured=None, **options):
    """A small language model with random weights, that thinks one code of each book likely if `favoured` says so."""
    torch.manual_seed(seed)
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden": 32, "context": 20, "longest": 80} | options
    model = CodesLanguageModel(n_q, size, **sizes).eval()
    with torch.no_grad():
        model.heads.mul_(10)
        if favoured is not None:
            model.head_biases[:, favoured] += 12
    return model


def network(codec="00" * 8, **options):
    return export(language(**options), codec, 75.0)


def random_codes(k, frames, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, size, (k, frames))


# ---- the range coder


def test_frequencies_by_hand():
    # 2**24 - 3 in shares of 1 : 2 : 5 are 2097151.6, 4194303.2, 10485758.1; what is left over, 1, goes to the largest,
    # and each has one more
    found = ranges.frequencies(np.array([1.0, 2.0, 5.0]))
    assert found.tolist() == [2097152, 4194304, 10485760] and found.sum() == ranges.ONE
    assert ranges.frequencies(np.array([0.0, 0.0, 7.0])).tolist() == [1, 1, ranges.ONE - 2]


def test_a_number_falls_to_the_symbol_whose_interval_it_is_in():
    freqs = np.array([[3.0, 5.0, ranges.ONE - 8]])
    for number, symbol in ((0, 0), (2, 0), (3, 1), (7, 1), (8, 2), (ranges.ONE - 1, 2)):
        assert ranges.Decoder(number.to_bytes(3, "big")).decode(freqs).tolist() == [symbol]
    # the shortest bytes within an interval: none for what begins at 0, 3 / 2**24 needs three, 1 / 2**8 is in the last
    made = [ranges.encode(np.array([symbol]), freqs) for symbol in (0, 1, 2)]
    assert made == [b"", b"\x00\x00\x03", b"\x01"]


@pytest.mark.parametrize("size", [2, 64, 1024])
def test_bytes_are_what_the_probabilities_cost(size):
    rng = np.random.default_rng(0)
    freqs = ranges.frequencies(np.floor(np.exp(3 * rng.normal(size=(300, size))) * 1000))
    symbols = np.array([rng.choice(size, p=row / row.sum()) for row in freqs])
    data = ranges.encode(symbols, freqs)
    bits = -np.log2(freqs[np.arange(300), symbols] / ranges.ONE).sum()
    assert 0 <= 8 * len(data) - bits < 16, "two bytes at most"
    decoder = ranges.Decoder(data)
    assert np.concatenate([decoder.decode(freqs[i : i + 7]) for i in range(0, 300, 7)]).tolist() == symbols.tolist()


# ---- the network


def test_powers_of_two_are_the_nearest_integers():
    table = powers()
    exact = 2.0 ** (24 - np.arange(len(table) - 1) / 256)
    assert np.abs(table[:-1] - exact).max() <= 0.5 and table[-1] == 0
    assert table[[0, 256, 512, 24 * 256]].tolist() == [2**24, 2**23, 2**22, 1]
    assert table[128] == round(2**24 / math.sqrt(2))


def frequencies_of(network, codes, cuts=()):
    """Of every frame of `codes` `[K, T]`, computed in pieces that end at `cuts`."""
    books, memory = network.shape.books(len(codes)), network.begin()
    x = np.concatenate([network.start(), network.embed(books, codes[:, :-1], 1)])
    return np.concatenate([network.step(memory, part, books) for part in np.split(x, list(cuts))])


def test_frames_one_by_one_equal_all_at_once():
    net, codes = network(), random_codes(2, 60)
    whole = frequencies_of(net, codes)
    assert whole.shape == (60, 2, 64) and (whole.sum(-1) == ranges.ONE).all() and whole.min() >= 1
    for cuts in (range(1, 60), (1, 7, 30)):
        assert np.array_equal(frequencies_of(net, codes, cuts), whole)


def test_a_frame_is_judged_by_those_before_it_within_the_context():
    one = network(n_layers=1, context=10)
    codes = random_codes(2, 60)
    other = codes.copy()
    other[:, 30] = (codes[:, 30] + 1) % 64
    before, after = frequencies_of(one, codes), frequencies_of(one, other)
    changed = (before != after).any((1, 2))
    # the code of frame 30 is what frame 31 is shown, at whose place layers of ten frames see it until frame 40
    assert not changed[:31].any() and changed[31:41].all() and not changed[41:].any()


def test_integers_say_what_the_trained_network_does():
    model, codes = language(), random_codes(2, 60)
    found = frequencies_of(export(model, "00" * 8, 75.0), codes) / ranges.ONE
    with torch.no_grad():
        logits = model.double().logits(torch.from_numpy(codes)[None], [0, 1])[0]
    wanted = torch.softmax(logits, -1).transpose(0, 1).numpy()
    cost = (wanted * np.log2(wanted / found)).sum(-1)
    assert wanted.max() > 0.1 and cost.mean() < 1e-4  # bits a code, of up to six


def test_fewer_codebooks_of_groups_are_the_first_of_each():
    shape = Shape("", 4, 64, 2, 4, 20, 80, 75.0)
    assert shape.books(2) == [0, 2] and shape.books(4) == [0, 1, 2, 3]
    net = network(n_q=4, groups=2)
    codes = random_codes(2, 30)
    coder = EntropyCoder(net, 2, 80)
    assert coder.books == [0, 2] and np.array_equal(coder.decode(coder.encode(codes), 30), codes)
    for n_q, frames in ((3, 80), (6, 80), (2, 81)):
        with pytest.raises(ValueError, match="language model knows"):
            EntropyCoder(net, n_q, frames)


def test_a_network_is_kept_in_one_file_with_its_fingerprint(tmp_path):
    net = network()
    net.save(tmp_path / FILE)
    back = Network.load(tmp_path / FILE)
    assert back.fingerprint == net.fingerprint != network(seed=1).fingerprint
    assert np.array_equal(frequencies_of(back, random_codes(2, 9)), frequencies_of(net, random_codes(2, 9)))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-5])
    with pytest.raises(UserError, match="not a language model of codes"):
        Network.load(tmp_path / FILE)


def test_training_skips_what_is_missing_and_learns_as_the_coder_asks():
    model, codes = language(), torch.from_numpy(random_codes(2, 30))[None]
    nats, counts = model(codes)
    logits = model.logits(codes, [0, 1])[0]
    by_hand = [torch.nn.functional.cross_entropy(logits[k], codes[0, k], reduction="sum") for k in range(2)]
    assert torch.allclose(nats, torch.stack(by_hand), atol=1e-3) and counts.tolist() == [30, 30]
    missing = codes.clone()
    missing[:, 1] = -1
    missing[:, :, 20:] = -1
    nats, counts = model(missing)
    assert counts.tolist() == [20, 0] and nats[1] == 0
    assert torch.allclose(nats[0], model(missing[:, :, :20])[0][0], atol=1e-4)


# ---- packets and files


def stream(codes, net):
    header = Header(24000, 320, len(codes), 6, b"12345678", "mini", entropy=net.fingerprint)
    return Stream(header, codes, codes.shape[1] * 320)


def test_packets_that_would_not_shrink_stay_plain():
    net = network(favoured=5)
    coder = EntropyCoder(net, 2, 75)
    likely, unlikely = np.full((2, 75), 5), random_codes(2, 75)
    made = stream(np.concatenate([likely, unlikely, likely[:, :40]], 1), net)
    data = bitstream.pack(made, coder)
    sizes = [int.from_bytes(data[at : at + 2], "little") for at in _size_fields(made, data)]
    plain = 2 * 75 * 6 // 8 + 1  # 112.5 bytes
    assert sizes[1] == plain and all(size > 0x8000 and size - 0x8000 < 20 for size in (sizes[0], sizes[2]))
    back = bitstream.unpack(data, lambda header: coder)
    assert np.array_equal(back.codes, made.codes) and back.coded == sum(size & 0x7FFF for size in sizes)
    assert len(data) == back.sizes()["total"] < len(bitstream.pack(replaced(made, entropy=None))) - 150


def replaced(made, **header):
    from dataclasses import replace

    return replace(made, header=replace(made.header, **header))


def _size_fields(made, data):
    """Where the sizes of the packets' codes are, read by the format's description."""
    at, n_packets = len(made.header.pack()), -(-made.codes.shape[1] // made.header.frames_per_packet)
    for i in range(n_packets):
        at += 1 if i < n_packets - 1 else 5
        yield at
        at += 2 + (int.from_bytes(data[at : at + 2], "little") & 0x7FFF) + 4


def test_damage_costs_one_packet():
    net = network(favoured=5)
    coder, codes = EntropyCoder(net, 2, 75), np.full((2, 300), 5)
    codes[:, ::11] = random_codes(2, 28)
    made = stream(codes, net)
    data = bytearray(bitstream.pack(made, coder))
    data[list(_size_fields(made, data))[1] + 5] ^= 4
    back = bitstream.unpack(bytes(data), lambda header: coder)
    assert back.lost == [(75, 150)] and back.n_samples == made.n_samples
    there = np.r_[:75, 150:300]
    assert np.array_equal(back.codes[:, there], codes[:, there])


def test_bytes_that_no_coder_wrote_are_told():
    with pytest.raises(UserError, match="cannot have written"):
        EntropyCoder(network(), 2, 80).decode(b"\xff" * 40, 75)


@pytest.fixture
def exp(tiny_exp, tmp_path):
    """An experiment with a language model that thinks the tiny codec's most used code likely."""
    shutil.copytree(tiny_exp, tmp_path / "exp")
    codec = load_codec(tiny_exp)
    common = np.bincount(codec.encode(speech(3), RATE).codes[0]).argmax()
    network(codec.fingerprint.hex(), n_q=1, favoured=int(common)).save(tmp_path / "exp/entropy" / FILE)
    return tmp_path / "exp"


def test_commands_find_the_language_model_or_refuse(exp, tiny_exp, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", speech(3), RATE)
    encode = ["encode", str(tmp_path / "x.wav"), "--exp", str(exp), "--precision", "fp32"]
    cli.main([*encode, "-o", str(tmp_path / "plain.psc")])
    cli.main([*encode, "-o", str(tmp_path / "x.psc"), "--entropy", "auto", "--packet", "1"])
    plain, coded = bitstream.read(tmp_path / "plain.psc"), load_codec(exp).read(tmp_path / "x.psc")
    assert np.array_equal(plain.codes, coded.codes) and coded.coded <= plain.sizes()["codes"]
    capsys.readouterr()
    cli.main(["info", str(tmp_path / "x.psc")])
    told = capsys.readouterr().out
    assert f"language model {coded.header.entropy.hex()}" in told and f"codes {coded.coded} bytes" in told
    cli.main(["info", str(exp)])
    assert f"language model {coded.header.entropy.hex()}" in capsys.readouterr().out

    def decode(name, to, folder, *more):
        more = ("--precision", "fp32", *more)
        cli.main(["decode", str(tmp_path / name), "-o", str(tmp_path / to), "--exp", str(folder), *more])
        return (tmp_path / to).read_bytes()

    wav = decode("plain.psc", "a.wav", exp)
    assert decode("x.psc", "b.wav", exp) == wav
    with pytest.raises(SystemExit, match=f"language model {coded.header.entropy.hex()}, which is not here"):
        decode("x.psc", "c.wav", tiny_exp)
    assert not (tmp_path / "c.wav").exists()
    assert decode("x.psc", "c.wav", tiny_exp, "--entropy", str(exp / "entropy")) == wav


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_is_decoded_elsewhere_or_by_anothers_language_model_can_be_scored(exp, tiny_exp, tmp_path, elsewhere):
    soundfile.write(tmp_path / "a-1.wav", speech(2), RATE)
    write_data_dir(tmp_path / "data/test", [Utterance("a-1", "a", str(tmp_path / "a-1.wav"), 2.0)])
    write_table(tmp_path / "data/test/utt2prompt", {"a-1": "a-1"})
    data = ["--data", str(tmp_path / "data"), "--splits", "test"]
    if elsewhere:  # the codec's own, in a folder that has no codec
        out, how = tmp_path / "out", ["--exp", str(exp), "--entropy", "auto", "--out", str(tmp_path / "out")]
    else:
        out = tmp_path / "same"
        shutil.copytree(tiny_exp, out)
        how = ["--exp", str(out), "--entropy", str(exp / "entropy")]
    decode.main([*data, *how, "--packet", "1", "--device", "cpu"])
    with pytest.raises(UserError, match="which is not here"):
        bitstream.read(out / "decode/test/psc/a-1.psc")
    evaluate.main([*data, "--exp", str(out), "--metrics", "stoi", "--nj", "1"])
    books = json.loads((out / "summary.json").read_text())["test"]["codec"]["codebooks"]
    assert len(books) == 1 and books[0]["frames"] == 150


@pytest.mark.parametrize(
    ("entropy", "packet", "message"),
    [
        ("auto", "2", "has learned 1.06667 s at most"),
        ("auto", "0", "a packet cannot have 0 s"),
        ("auto", "100", "packets of 100 s; of this codec they hold 16 s at most"),
        ("nowhere", "1", "nowhere: no language model"),
    ],
)
def test_what_cannot_be_coded_with_is_told_in_a_line(exp, tmp_path, entropy, packet, message):
    soundfile.write(tmp_path / "x.wav", speech(1), RATE)
    arguments = ["--exp", str(exp), "--entropy", entropy, "--packet", packet]
    with pytest.raises(SystemExit, match=message):
        cli.main(["encode", str(tmp_path / "x.wav"), "-o", str(tmp_path / "x.psc"), *arguments])
    assert not (tmp_path / "x.psc").exists()


def test_a_language_model_of_another_codec_is_refused(exp, tiny_exp):
    network("ab" * 8, n_q=1).save(exp / "entropy" / FILE)
    with pytest.raises(UserError, match="a language model of codec abababababababab; this is"):
        load_codec(exp, entropy="auto")
    with pytest.raises(UserError, match="no language model"):
        load_codec(tiny_exp, entropy="auto")
