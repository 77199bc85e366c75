"""Codes for language models: codes.scp, npz files, runs that go on, other codecs' codes."""

import json

import numpy as np
import pytest
import soundfile
from conftest import make_experiment
from test_inference import RATE, speech

from pscodec.bin import dump_codes
from pscodec.data.kaldi import Utterance, read_table, write_data_dir
from pscodec.inference import load_codec
from pscodec.quantizers.rvq import GroupResidualVQ


def test_codes_of_a_data_dir(tiny_exp, tmp_path, capsys):
    utterances = []
    for seed, utt in enumerate(("a-1", "a-2", "b-1")):
        soundfile.write(tmp_path / f"{utt}.wav", speech(0.4 + seed / 10, seed), RATE, subtype="FLOAT")
        utterances.append(Utterance(utt, utt[0], str(tmp_path / f"{utt}.wav"), 0.4 + seed / 10))
    write_data_dir(tmp_path / "data", utterances)
    (tmp_path / "a-2.wav").write_text("broken")
    args = ["--exp", str(tiny_exp), "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    dump_codes.main(args)
    assert "left out: a-2: " in capsys.readouterr().out
    places = read_table(tmp_path / "out/codes.scp")
    assert list(places) == ["a-1", "b-1"]
    codec = load_codec(tiny_exp)
    for seed, utt in ((0, "a-1"), (2, "b-1")):
        found = np.load(places[utt])
        stream = codec.encode(speech(0.4 + seed / 10, seed), RATE, None)
        assert found["codes"].dtype == np.uint8 and np.array_equal(found["codes"], stream.codes)
        assert found["n_samples"] == stream.n_samples
    note = json.loads((tmp_path / "out/codec.json").read_text())
    assert (note["codebook_size"], note["hop_length"], note["fingerprint"]) == (64, 320, codec.fingerprint.hex())

    soundfile.write(tmp_path / "a-2.wav", speech(0.5, 1), RATE, subtype="FLOAT")
    before = (tmp_path / "out/npz/a-1.npz").stat().st_mtime_ns
    dump_codes.main(args)
    assert list(read_table(tmp_path / "out/codes.scp")) == ["a-1", "a-2", "b-1"]
    assert (tmp_path / "out/npz/a-1.npz").stat().st_mtime_ns == before
    args[1] = str(make_experiment(tmp_path / "other", seed=1))
    with pytest.raises(SystemExit, match="codes of another codec"):
        dump_codes.main(args)


def test_the_order_of_the_public_code_by_hand(tiny_exp, tmp_path):
    quantizer = GroupResidualVQ(8, n_groups=2, codebook_size=16, n_residual=2)
    codes = np.array([[11, 11], [12, 12], [21, 21], [22, 22]])  # group, layer
    assert dump_codes.by_layer(codes, quantizer)[:, 0].tolist() == [11, 21, 12, 22]
    assert dump_codes.by_layer(codes[[0, 2]], quantizer)[:, 0].tolist() == [11, 21]  # by one layer of two
    soundfile.write(tmp_path / "a.wav", speech(0.4), RATE, subtype="FLOAT")
    write_data_dir(tmp_path / "data", [Utterance("a", "a", str(tmp_path / "a.wav"), 0.4)])
    args = ["--exp", str(tiny_exp), "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    dump_codes.main([*args, "--order", "layer"])
    assert json.loads((tmp_path / "out/codec.json").read_text())["order"] == "layer"
    with pytest.raises(SystemExit, match="move them away"):
        dump_codes.main(args)


def test_fewer_codebooks_go_to_another_folder(tmp_path):
    exp = make_experiment(tmp_path / "two", n_residual=2, n_q_dropout=0.5)
    soundfile.write(tmp_path / "a.wav", speech(0.4), RATE, subtype="FLOAT")
    write_data_dir(tmp_path / "data", [Utterance("a", "a", str(tmp_path / "a.wav"), 0.4)])
    args = ["--exp", str(exp), "--data-dir", str(tmp_path / "data"), "--out"]
    dump_codes.main([*args, str(tmp_path / "all")])
    dump_codes.main([*args, str(tmp_path / "one"), "--n-q", "1"])
    notes = [json.loads((tmp_path / f"{name}/codec.json").read_text()) for name in ("all", "one")]
    assert [note["n_q"] for note in notes] == [2, 1] and notes[0]["n_q_trained"] == [1, 2] and notes[0]["groups"] == 1
    codes = [np.load(tmp_path / f"{name}/npz/a.npz")["codes"] for name in ("all", "one")]
    assert codes[0].shape[0] == 2 and np.array_equal(codes[0][:1], codes[1])
    with pytest.raises(SystemExit, match="codes of another codec"):
        dump_codes.main([*args, str(tmp_path / "all"), "--n-q", "1"])
