"""Mixtures made on the fly: what the list says, and nothing that depends on when it is asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import RATE, tone
from torch.utils.data import DataLoader

from pscodec.data.codec import Batches
from pscodec.data.kaldi import read_data_dir, write_data_dir, write_table
from pscodec.data.mixture import Mixture, MixtureDataset, Source, collate, read_mixtures, write_mixtures
from pscodec.utils.errors import UserError


def same(one, two):
    return one.keys() == two.keys() and all(
        torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one
    )


def test_a_fixed_mixture_is_gain_times_stretch_of_each_source(folder):
    item = MixtureDataset(folder)[0]
    assert item["utt"] == "m1" and item["length"] == RATE
    assert item["sources"].shape == (2, RATE) and item["mix"].shape == (1, RATE)
    step = 2 * 2.0**-16  # of 16-bit audio, by the gain
    assert torch.allclose(item["sources"][0], 2.0 * tone(2, 200)[:RATE], atol=step)
    assert torch.allclose(item["sources"][1], 0.5 * tone(1, 440), atol=step)
    assert torch.equal(item["mix"][0], item["sources"].sum(0))


def test_starts_are_kept_and_what_has_ended_is_silent(folder):
    item = MixtureDataset(folder)[1]
    assert torch.allclose(item["sources"][0], tone(1.5, 300)[100:9100], atol=1e-4)
    assert torch.allclose(item["sources"][1][:4000], tone(1, 440)[4000:], atol=1e-4)
    assert torch.all(item["sources"][1][4000:] == 0)


def test_the_list_survives_writing_and_reading(folder):
    mixtures, meta = read_mixtures(folder)
    assert mixtures[1] == Mixture("m2", (Source("a-2", 100, 1.0), Source("b-1", 4000, 1.0)), 9000)
    assert meta["n_src"] == 2 and (folder / "mixtures.tsv").read_text().splitlines()[0].split("\t") == (
        ["mix", "source1", "start1", "gain1", "source2", "start2", "gain2", "length"]
    )


def test_a_segment_comes_from_a_random_place_of_the_mixture(folder):
    data = MixtureDataset(folder, segment=0.25)
    whole = MixtureDataset(folder)[0]
    places = set()
    for number in range(8):
        item = data[(number, 0)]
        assert item["length"] == 2000 and torch.equal(item["mix"][0], item["sources"].sum(0))
        windows = whole["sources"].unfold(-1, 2000, 1)
        hits = torch.where((windows == item["sources"][:, None]).all(-1).all(0))[0]
        assert len(hits) >= 1
        places.add(hits[0].item())
    assert len(places) > 4


@pytest.mark.parametrize(
    "how",
    [
        {"segment": 0.3},
        {"speed": (0.95, 1.0, 1.05), "gain_db": 2.5},
        {"dynamic": True, "segment": 0.5, "speed": (0.95, 1.0, 1.05), "gain_db": 2.5},
    ],
)
def test_an_item_depends_on_seed_pass_and_item_only(folder, how):
    one, two = MixtureDataset(folder, **how), MixtureDataset(folder, **how)
    two[(5, 1)], two[(0, 0)]  # draws in between change nothing
    for key in ((0, 0), (3, 1), (7, 1)):
        assert same(one[key], two[key])
    assert not torch.equal(one[(0, 1)]["mix"], one[(1, 1)]["mix"])
    assert not torch.equal(one[(0, 1)]["mix"], MixtureDataset(folder, seed=1, **how)[(0, 1)]["mix"])


def test_a_resumed_run_draws_what_an_unbroken_one_drew_whatever_the_workers(folder):
    def batches(skip, workers):
        data = MixtureDataset(folder, dynamic=True, speed=(0.95, 1.05), gain_db=2.5)
        sampler = Batches(len(data), 2, steps=5)
        sampler.set_epoch(2)
        sampler.skip = skip
        return list(DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers))

    whole, resumed = batches(0, 0), batches(3, 2)
    assert len(resumed) == 2 and all(same(a, b) for a, b in zip(whole[3:], resumed, strict=True))


def test_dynamic_mixing_by_talker_hears_all_equally_often(folder):
    utterances = read_data_dir(folder.parent / "clean")
    del utterances["a-2"], utterances["c-1"]
    utterances["d-1"] = replace(utterances["b-1"], utt="d-1", spk="d")
    write_data_dir(folder.parent / "other", utterances)  # a and d have one utterance, b has two
    write_table(folder / "utt2level", dict.fromkeys(utterances, 0.03125))
    mixtures, meta = read_mixtures(folder)
    meta |= {"clean": str(folder.parent / "other"), "by_talker": True}
    write_mixtures(folder, [Mixture("m", (Source("a-1", 0, 1.0), Source("b-1", 0, 1.0)), RATE)], meta)
    data = MixtureDataset(folder, dynamic=True)
    drawn = [utt for number in range(300) for utt in data._choose("b-2", np.random.default_rng(number))]
    counts = [sum(utt[0] == name for utt in drawn) for name in "abd"]
    assert max(counts) < 1.25 * min(counts) and data[0]["sources"].shape[0] == 2


def test_dynamic_mixing_takes_every_utterance_with_one_of_another_talker_at_its_level(folder):
    data = MixtureDataset(folder, dynamic=True)
    assert len(data) == 5 and data.utts == ["a-1", "a-2", "b-1", "b-2", "c-1"]
    frequencies = {200: "a", 300: "a", 440: "b", 550: "b"}
    for number in range(6):
        for index, utt in enumerate(data.utts):
            item = data[(number, index)]
            assert torch.equal(item["mix"][0], item["sources"].sum(0)) and torch.isfinite(item["mix"]).all()
            spectra = torch.fft.rfft(item["sources"]).abs()
            heard = [
                frequencies[min(frequencies, key=lambda f: abs(f - s.argmax() * RATE / item["length"]))]
                if s.max() > 0
                else "c"
                for s in spectra
            ]
            assert heard[0] == utt[0] and heard[1] != heard[0]
            peak = max(item["sources"].abs().max(), item["mix"].abs().max())
            assert peak == pytest.approx(0.9, abs=1e-5)
            if "c" not in heard:  # equal levels without gain_db
                power = item["sources"].square().mean(1)
                assert 10 * torch.log10(power[0] / power[1]) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("mode", "segment", "speed"), [("min", 0.3, 1.05), ("min", None, 0.95), ("max", None, 1.0)])
def test_dynamic_mixtures_are_as_long_as_mode_segment_and_speed_say(folder, mode, segment, speed):
    meta = json.loads((folder / "mixtures.json").read_text())
    (folder / "mixtures.json").write_text(json.dumps(meta | {"mode": mode}))
    data = MixtureDataset(folder, dynamic=True, segment=segment, speed=(speed,))
    for index in range(len(data)):
        item = data[(0, index)]
        lengths = [u.duration / speed for u in data.utterances.values()]
        seconds = item["length"] / RATE
        assert seconds == pytest.approx(segment) if segment else min(abs(seconds - x) for x in lengths) < 1 / RATE
        own = data.utterances[item["utt"]].duration / speed
        assert segment or (seconds <= own + 1 / RATE if mode == "min" else seconds >= own - 1 / RATE)


def test_two_names_of_one_person_are_never_mixed(folder):
    meta = json.loads((folder / "mixtures.json").read_text())
    (folder / "mixtures.json").write_text(json.dumps(meta | {"one_speaker": [["a", "b"]]}))
    data = MixtureDataset(folder, dynamic=True)
    for number in range(10):
        assert data[(number, 0)]["sources"][1].abs().max() == 0, "only the silent c is left for a"
    (folder / "mixtures.json").write_text(json.dumps(meta | {"one_speaker": [["a", "b", "c"]]}))
    with pytest.raises(UserError, match="fewer talkers than sources"):
        MixtureDataset(folder, dynamic=True)


def test_speed_is_the_factor_by_which_tempo_and_pitch_rise(folder):
    item = MixtureDataset(folder, speed=(1.05,))[0]
    assert item["length"] == -(-RATE // 1.05)
    spectrum = torch.fft.rfft(item["sources"][0]).abs()
    assert spectrum.argmax() * RATE / item["length"] == pytest.approx(210, abs=1.1)


def test_what_would_clip_is_scaled_by_one_factor(folder):
    plain = MixtureDataset(folder)[0]["sources"]
    item = MixtureDataset(folder, gain_db=1e-9)[0]  # no other gain to speak of, but what goes with it
    assert plain.sum(0).abs().max() < 0.9 and torch.allclose(item["sources"], plain, atol=1e-6)
    mixtures, meta = read_mixtures(folder)
    loud = Mixture("m1", (Source("a-1", 0, 6.0), Source("b-1", 0, 6.0)), RATE)
    write_mixtures(folder, [loud], meta)
    item = MixtureDataset(folder, gain_db=1e-9)[0]
    assert item["mix"].abs().max() == pytest.approx(0.9, abs=1e-5)
    assert item["sources"][0].std() / item["sources"][1].std() == pytest.approx(1, abs=1e-3)


def test_collate_pads_at_the_right(folder):
    batch = collate([MixtureDataset(folder)[i] for i in (0, 1)])
    assert batch["mix"].shape == (2, 1, 9000) and batch["sources"].shape == (2, 2, 9000)
    assert batch["lengths"].tolist() == [8000, 9000] and batch["utt"] == ["m1", "m2"]
    assert torch.all(batch["mix"][0, :, 8000:] == 0)


def test_mistakes_are_told(folder, tmp_path):
    with pytest.raises(UserError, match="8000 Hz, not 16000"):
        MixtureDataset(folder, sample_rate=16000)
    with pytest.raises(UserError, match="no such file; stage 1 writes it"):
        MixtureDataset(tmp_path / "none")
    with pytest.raises(UserError, match="holds no embeddings"):
        MixtureDataset(folder, embeddings=tmp_path / "none")
    text = (folder / "mixtures.tsv").read_text()
    for broken, told in (
        (text.replace("a-1", "x-1"), "takes x-1, which"),
        (text.replace("\t9000", ""), ":3: 7 columns where 8 belong"),
        (text.replace("\t9000", "\tmany"), ":3: invalid literal"),
        (text.replace("\t9000", "\t0"), ":3: an impossible length"),
        (text.replace("\t100\t1\t", "\t100\tnan\t"), ":3: an impossible length, start or gain"),
        (text.splitlines()[0] + "\n", "holds no mixtures"),
    ):
        (folder / "mixtures.tsv").write_text(broken)
        with pytest.raises(UserError, match=told):
            MixtureDataset(folder)
