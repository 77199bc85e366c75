"""Stages 0 and 1 of the separation recipe: WSJ0 as LDC ships it, mixing lists, levels and lengths."""

import importlib
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from test_shorten import speech, sphere

from pscodec.data.audio import save_audio
from pscodec.data.kaldi import Utterance, read_data_dir, read_table, write_data_dir
from pscodec.data.levels import active_level
from pscodec.data.mixture import MixtureDataset, read_mixtures
from pscodec.utils.errors import UserError


@pytest.fixture(autouse=True)
def local(monkeypatch):
    """The recipe's modules, importable by name as its programs import each other."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes/WSJ0Mix/local"))
    return importlib.import_module


# ---- lists


def test_published_lists_are_read_as_they_stand(local, tmp_path):
    lists = local("lists")
    (tmp_path / "mix_2_spk_tt.txt").write_text(
        "wsj0/si_et_05/440/440c0201.wv1 1.9857 wsj0/si_dt_05/050/050a0501.wv1 -1.9857\n"
        "wsj0/si_et_05/441/441c0202.wav 0.061105 wsj0/si_et_05/443/443o030a.wav -0.061105\n"
    )
    one, two = lists.read_list(lists.find_lists(tmp_path, "test", 2)[0], 2)
    assert one.mix == "440c0201_1.9857_050a0501_-1.9857" and one.utts == ["440c0201", "050a0501"]
    assert [db for _, db in two.sources] == [0.061105, -0.061105]
    assert two.mix == "441c0202_0.061105_443o030a_-0.061105"
    (tmp_path / "libri3mix_dev-clean.csv").write_text(
        "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,source_3_path,source_3_gain,noise_path\n"
        "x_y_z,dev-clean/1/2/1-2-3.flac,0.5,dev-clean/4/5/4-5-6.flac,0.25,dev-clean/7/8/7-8-9.flac,1.5,n.wav\n"
    )
    (entry,) = lists.read_list(lists.find_lists(tmp_path, "dev", 3)[0], 3)
    assert entry.kind == "gain" and entry.utts == ["1-2-3", "4-5-6", "7-8-9"]
    assert [gain for _, gain in entry.sources] == [0.5, 0.25, 1.5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.wav 1 b.wav\n", ":1: 3 fields where 2 pairs"),
        ("a.wav 1 b.wav x\n", ":1: 'x' where a number belongs"),
        ("x/a.wav 1 x/b.wav -1\nx/a.wav 1 x/b.wav -1\n", ":2: a_1_b_-1 comes twice"),
        ("\n", "an empty list"),
    ],
)
def test_broken_lists_are_named_with_their_line(local, tmp_path, text, told):
    (tmp_path / "mix_2_spk_tr.txt").write_text(text)
    with pytest.raises(UserError, match=told):
        local("lists").read_list(tmp_path / "mix_2_spk_tr.txt", 2)


def test_missing_lists_are_named(local, tmp_path):
    with pytest.raises(UserError, match="neither mix_3_spk_cv.txt nor"):
        local("lists").find_lists(tmp_path, "dev", 3)
    with pytest.raises(UserError, match="no such folder"):
        local("lists").find_lists(tmp_path / "none", "dev", 3)


def crowd():
    talkers = {"a": 6, "b": 4, "c": 4, "d": 1}
    return {f"{t}-{i}": Utterance(f"{t}-{i}", t, "x", 0.5 + i) for t, n in talkers.items() for i in range(n)}


def test_drawn_lists_mix_talkers_evenly_and_only_depend_on_the_seed(local):
    draw = local("lists").draw_list
    entries = draw(crowd(), 60, 2, seed=0)
    assert entries == draw(dict(reversed(crowd().items())), 60, 2, seed=0) != draw(crowd(), 60, 2, seed=1)
    assert len({e.mix for e in entries}) == 60
    for entry in entries:
        (one, x), (two, minus_x) = entry.sources
        assert one[0] != two[0] and 0 <= x <= 2.5 and minus_x == -x
    firsts = [e.utts[0] for e in entries]
    assert {firsts.count(u) for u in crowd()} == {4}, "60 of 15 utterances"
    for entry in draw(crowd(), 20, 3, seed=0, one_speaker=[["a", "b"]]):
        assert sorted(min(u[0], "b") if u[0] == "a" else u[0] for u in entry.utts)[1:] == ["c", "d"]
        assert sum(db for _, db in entry.sources) == 0
    assert all(int(u[2:]) >= 2 for e in draw(crowd(), 20, 2, 0, min_seconds=2.5) for u in e.utts)
    # by talker: who has one utterance is heard as often as who has six
    entries = draw(crowd(), 200, 2, seed=0, by_talker=True)
    spoken = [u[0] for e in entries for u in e.utts]
    shares = [spoken.count(name) for name in "abcd"]
    assert max(shares) < 1.3 * min(shares) and all(e.utts[0][0] != e.utts[1][0] for e in entries)
    with pytest.raises(UserError, match="3 talkers .* too few to mix 3|2 talkers"):
        draw(crowd(), 5, 3, 0, one_speaker=[["a", "b"], ["c", "d"]])


# ---- mixtures of real speech


@pytest.fixture
def clean(mini_corpus, tmp_path):
    """A data dir of two utterances each of two voices."""
    utterances = []
    for voice in ("fr_CA_f_June", "it_IT_m_Carlo"):
        for i, path in enumerate(speech(mini_corpus / voice, 2)):
            utterances.append(Utterance(f"{voice[:2]}{i}", voice, str(path), soundfile.info(path).duration))
    write_data_dir(tmp_path / "clean", utterances)
    return tmp_path / "clean"


def make(local, clean, *options, out="mix"):
    command = ["--clean", str(clean), "--out", str(clean.parent / out), "--split", "test", *map(str, options)]
    local("make_mixtures").main(command)
    return clean.parent / out


def test_levels_lengths_and_peak_are_those_of_the_list(local, clean, tmp_path):
    (tmp_path / "lists").mkdir()
    line = "wsj0/si/fr0.wv1 2.25 wsj0/si/it1.wv1 -2.25\n"
    (tmp_path / "lists/mix_2_spk_tt.txt").write_text(line)
    folder = make(local, clean, "--lists", tmp_path / "lists", "--mode", "max")
    data = MixtureDataset(folder)
    (item,), utterances = [data[0]], read_data_dir(clean)
    assert item["utt"] == "fr0_2.25_it1_-2.25"
    lengths = [-(-soundfile.info(utterances[u].path).frames // 2) for u in ("fr0", "it1")]
    assert item["length"] == max(lengths)
    levels = [10 * np.log10(active_level(wav, 8000)[0]) for wav in item["sources"]]
    assert levels[0] - levels[1] == pytest.approx(4.5, abs=0.02)
    assert max(item["mix"].abs().max(), item["sources"].abs().max()) == pytest.approx(0.9, abs=1e-4)

    short = MixtureDataset(make(local, clean, "--lists", tmp_path / "lists", out="min"))[0]
    assert short["length"] == min(lengths)
    ratio = short["sources"] / item["sources"][:, : min(lengths)]
    assert torch.allclose(ratio[short["sources"].abs() > 0.01], ratio.nanmedian(), rtol=1e-3), "cut, then one factor"

    wide, _ = read_mixtures(make(local, clean, "--lists", tmp_path / "lists", "--sample-rate", 16000, out="wide"))
    assert wide[0].length == min(soundfile.info(utterances[u].path).frames for u in ("fr0", "it1"))
    gains = [s.gain for s in wide[0].sources]
    assert gains[0] / gains[1] == pytest.approx(data.mixtures[0].sources[0].gain / data.mixtures[0].sources[1].gain)


def test_librimix_gains_are_taken_as_they_are(local, clean, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/libri2mix_test-clean.csv").write_text(
        "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain\nm,x/fr0.flac,0.5,x/it0.flac,0.25\n"
    )
    mixtures, _ = read_mixtures(make(local, clean, "--lists", tmp_path / "lists"))
    assert mixtures[0].mix == "m" and [s.gain for s in mixtures[0].sources] == [0.5, 0.25]


def test_a_drawn_list_is_saved_and_can_be_followed(local, clean, capsys):
    folder = make(local, clean, "--number", 6, "--seed", 3)
    again = make(local, clean, "--lists", folder, out="again")
    assert (again / "mixtures.tsv").read_text() == (folder / "mixtures.tsv").read_text()
    before = (folder / "mixtures.tsv").stat().st_mtime_ns
    capsys.readouterr()
    make(local, clean, "--number", 6, "--seed", 3)
    assert "already there" in capsys.readouterr().out
    assert (folder / "mixtures.tsv").stat().st_mtime_ns == before
    make(local, clean, "--number", 5, "--seed", 3)
    assert len(read_mixtures(folder)[0]) == 5


def test_a_silent_source_gives_no_nan(local, clean, tmp_path):
    save_audio(tmp_path / "silent.wav", torch.zeros(16000), 16000)
    utterances = read_data_dir(clean)
    utterances["zz0"] = Utterance("zz0", "zz", str(tmp_path / "silent.wav"), 1.0)
    write_data_dir(clean, utterances)
    folder = make(local, clean, "--number", 12)
    data = MixtureDataset(folder)
    silent = [m for m in data.mixtures if "zz0" in [s.utt for s in m.sources]]
    assert silent and all(np.isfinite(s.gain) and s.gain > 0 for m in data.mixtures for s in m.sources)
    assert all(torch.isfinite(data[i]["mix"]).all() for i in range(len(data)))


def test_dumped_wavs_are_the_mixtures(local, clean):
    folder = make(local, clean, "--number", 3, "--dump")
    data = MixtureDataset(folder)
    scps = {name: read_table(folder / f"{name}.scp") for name in ("wav", "spk1", "spk2")}
    for i in range(3):
        item = data[i]
        for name, wav in (("wav", item["mix"][0]), ("spk1", item["sources"][0]), ("spk2", item["sources"][1])):
            samples, rate = soundfile.read(scps[name][item["utt"]], dtype="float32")
            assert rate == 8000 and np.abs(samples - wav.numpy()).max() <= 0.51 / 32768


# ---- WSJ0


@pytest.fixture
def wsj0(mini_corpus, tmp_path):
    """A tree like LDC's discs: compressed, uncompressed and second-microphone files of two talkers a subset."""
    root = tmp_path / "ldc"
    recordings = speech(mini_corpus, 12)
    for i, (subset, talker) in enumerate(
        (subset, talker)
        for subset, talkers in (("si_tr_s", "01t 02a"), ("si_dt_05", "050 051"), ("si_et_05", "440 441"))
        for talker in talkers.split()
    ):
        folder = root / f"11-{i}.1/wsj0" / subset / talker
        folder.mkdir(parents=True)
        for j in range(2):
            samples, _ = soundfile.read(recordings[2 * i + j], dtype="int16")
            coding = "pcm" if j else "pcm,embedded-shorten-v2.00"
            (folder / f"{talker}c020{j}.wv1").write_bytes(sphere(samples, coding))
            (folder / f"{talker}c020{j}.wv2").write_bytes(b"another microphone")
    return root


def test_wsj0_of_ldc_becomes_data_dirs(local, wsj0, tmp_path, capsys):
    prepare = local("prepare_sources")
    place = ["--wsj0", str(wsj0), "--downloads", str(tmp_path / "down")]
    prepare.main(["decode", *place, "--nj", "1"])
    assert "12 recordings, 6 of them decoded now" in capsys.readouterr().out
    prepare.main(["decode", *place, "--nj", "1"])
    assert "12 recordings, 0 of them decoded now" in capsys.readouterr().out
    prepare.main(["dirs", *place, "--data", str(tmp_path / "clean")])
    spoken = {
        split: {u.spk for u in read_data_dir(tmp_path / "clean" / split).values()} for split in ("train", "dev", "test")
    }
    assert spoken == {"train": {"01t", "02a"}, "dev": {"050", "051"}, "test": {"440", "441"}}
    assert read_table(tmp_path / "clean/test/utt2prompt")["440c0200"] == "440c0201"
    folder = make(local, tmp_path / "clean/test", "--number", 3)
    assert len(MixtureDataset(folder)) == 3

    (tmp_path / "lists").mkdir()
    for tag in ("tr", "cv", "tt"):
        line = "wsj0/si_tr_s/01t/01tc0200.wv1 0.5 wsj0/si_dt_05/050/050c0201.wv1 -0.5\n"
        (tmp_path / f"lists/mix_2_spk_{tag}.txt").write_text(line)
    listed = ["--lists", str(tmp_path / "lists")]
    prepare.main(["dirs", *place, "--data", str(tmp_path / "clean"), *listed])
    assert set(read_data_dir(tmp_path / "clean/test")) == {"01tc0200", "050c0201"}
    (tmp_path / "lists/mix_2_spk_tt.txt").write_text("wsj0/si_et_05/999/999c0201.wv1 0 wsj0/x/01tc0200.wv1 0\n")
    with pytest.raises(SystemExit, match="1 utterances of test are missing, as 999c0201"):
        prepare.main(["dirs", *place, "--data", str(tmp_path / "clean"), *listed])
    shutil.rmtree(wsj0)
    wsj0.mkdir()
    with pytest.raises(SystemExit, match="no .wv1 or .wav below"):
        prepare.main(["decode", *place])
