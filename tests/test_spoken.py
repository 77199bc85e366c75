"""Texts, their units, data sets of texts and codes, and batches by duration."""

import json

import numpy as np
import pytest
import torch

from pscodec.data.kaldi import Utterance, write_data_dir, write_table
from pscodec.data.spoken import DurationBatches, SpokenDataset, collate, read_durations
from pscodec.data.text import Units, learn_units, normalise
from pscodec.utils.errors import UserError

TEXTS = ["The cat sat on the mat.", "A cat, a mat!", "The hat is on the cat.", "Fat cats sit on hats."]


def test_texts_are_normalised():
    assert normalise("  Straße\tNo.\u00a05\nﬁne ") == "strasse no. 5 fine"


@pytest.mark.parametrize("kind", ["pieces", "characters"])
def test_units_cut_texts_and_come_back_from_a_folder(kind, tmp_path):
    units = learn_units(TEXTS, kind, 40)
    cut = units("the cat")
    assert max(cut) < len(units) and min(cut) > 1 and cut == units(" THE  cat")
    assert len(cut) == (8 if kind == "characters" else len(cut))  # with a space before
    units.save(tmp_path)
    again = Units.load(tmp_path)
    assert again("the cat") == cut and again.fingerprint == units.fingerprint and len(again) == len(units)


def test_unknown_symbols_empty_texts_and_missing_folders(tmp_path):
    units = learn_units(TEXTS, "characters")
    with pytest.raises(UserError, match="'ж' in 'cжt': not among the characters"):
        units("cжt")
    with pytest.raises(UserError, match="an empty text"):
        units(" \n")
    with pytest.raises(UserError, match="no text units; stage 2"):
        Units.load(tmp_path)
    with pytest.raises(UserError, match="text units are pieces, characters, phonemes"):
        learn_units(TEXTS, "words")


def test_phonemes_by_espeak():
    backend = pytest.importorskip("phonemizer.backend", reason="phonemes need phonemizer")
    if not backend.EspeakBackend.is_available():
        pytest.skip("phonemes need espeak-ng")
    units = learn_units(TEXTS, "phonemes")
    assert {"_", ".", ",", "!", "k", "æ"} <= set(units.symbols)
    k, ae, t, word = (units.numbers[symbol] for symbol in ("k", "æ", "t", "_"))
    assert units("cat, cat") == [k, ae, t, units.numbers[","], word, k, ae, t]
    with pytest.raises(UserError, match="'b' in 'a big cat'"):
        units("a big cat")
    with pytest.raises(UserError, match="phonemes of klingonish"):
        learn_units(TEXTS, "phonemes", language="klingonish")


def spoken(folder, texts, durations=None, **facts):
    """A data dir of two speakers in turn, and codes of two codebooks as bin/dump_codes writes them: utterance i lasts
    i + 1 s, ten frames each, and has codes i."""
    utterances = []
    (folder / "codes/npz").mkdir(parents=True)
    for i, text in enumerate(texts):
        utterances.append(Utterance(f"{'ab'[i % 2]}-{i}", "ab"[i % 2], "nothing.wav", i + 1.0, text))
        np.savez(folder / f"codes/npz/{utterances[-1].utt}.npz", codes=np.full((2, 10 * (i + 1)), i, np.uint8))
    write_data_dir(folder / "data", utterances)
    note = {"model": "m", "fingerprint": "00" * 8, "sample_rate": 100, "hop_length": 10, "codebook_size": 16}
    note |= {"n_q": 2, "groups": 1, "n_q_trained": [2], **facts}
    (folder / "codes/codec.json").write_text(json.dumps(note))
    write_table(folder / "codes/codes.scp", {u.utt: folder / f"codes/npz/{u.utt}.npz" for u in utterances})
    return folder / "data", folder / "codes"


def test_items_and_batches(tmp_path):
    units = learn_units(TEXTS, "characters")
    data = SpokenDataset(*spoken(tmp_path, [*TEXTS, ""]), units, longest=3)
    assert (len(data), data.left_out, data.frame_rate, data.seconds) == (3, 2, 10, [1, 3, 2])
    item = data[0, 1]  # a-2
    assert item["text"].tolist() == units(TEXTS[2]) and item["codes"].shape == (2, 30)
    batch = collate([data[0, i] for i in range(3)])
    assert batch["text"].shape == (3, max(len(units(t)) for t in TEXTS[:3])) and batch["codes"].shape == (3, 2, 30)
    assert (batch["codes"][0, :, 10:] == -1).all() and (batch["codes"][2, :, :20] == 1).all()
    with pytest.raises(UserError, match="no utterance has a text, codes in"):
        SpokenDataset(tmp_path / "data", tmp_path / "codes", units, longest=0.5)
    with pytest.raises(UserError, match="not among the characters"):
        SpokenDataset(tmp_path / "data", tmp_path / "codes", learn_units(["xyz"], "characters"))


def test_some_come_after_another_of_their_speaker(tmp_path):
    units = learn_units(TEXTS, "characters")
    data = SpokenDataset(*spoken(tmp_path, TEXTS), units, prompted=0.5)
    lengths = [data[number, 1]["codes"].shape[1] for number in range(40)]  # of a-2, after a-0
    assert set(lengths) == {30, 40} and 8 < lengths.count(40) < 32
    number = lengths.index(40)
    assert torch.equal(data[number, 1]["codes"][0], torch.tensor([0] * 10 + [2] * 30))
    assert data[number, 1]["text"].tolist() == units(TEXTS[0]) + units(TEXTS[2])
    assert data.seconds == [1 + 1.25, 3 + 1.25, 2 + 1.25, 4 + 1.25]


def test_durations_come_along(tmp_path):
    units = learn_units(TEXTS, "characters")
    folders = spoken(tmp_path, TEXTS)
    n = len(units(TEXTS[2]))
    write_table(tmp_path / "durations", {"a-2": " ".join(["1"] * (n - 1) + ["7"])})
    data = SpokenDataset(*folders, units, durations=tmp_path / "durations")
    assert len(data) == 1 and data[0, 0]["durations"].tolist() == [1] * (n - 1) + [7]
    assert collate([data[0, 0]])["durations"].shape == (1, n)
    write_table(tmp_path / "durations", {"a-2": "1 two"})
    with pytest.raises(UserError, match="not a table of durations"):
        read_durations(tmp_path / "durations")


def test_batches_hold_so_many_seconds_and_each_item_once_a_pass():
    seconds = list(np.random.default_rng(0).uniform(1, 10, 57))
    batches = DurationBatches(seconds, 30, seed=1)
    first = list(batches)
    assert len(first) == len(batches)
    for batch in first:
        assert len(batch) * max(seconds[i] for _, i in batch) <= 30
    assert sorted(i for batch in first for _, i in batch) == list(range(57))
    assert sum(len(batch) * max(seconds[i] for _, i in batch) for batch in first) < 1.25 * sum(seconds)
    batches.set_epoch(2)
    assert list(batches)[: len(first) // 2] != first[: len(first) // 2]
    with pytest.raises(UserError, match="batches of 5 s cannot hold an utterance"):
        DurationBatches(seconds, 5)


def test_a_resumed_epoch_and_several_processes_take_what_one_would():
    seconds, steps = [1.0 + i % 7 for i in range(40)], 9
    whole = DurationBatches(seconds, 20, steps, seed=3, total=24)
    orders = []
    for epoch in (1, 2, 3):
        whole.set_epoch(epoch)
        orders += list(whole)
    assert len(orders) == 24
    again = DurationBatches(seconds, 20, steps, seed=3, total=24)
    again.set_epoch(2)
    again.skip = 4
    assert list(again) == orders[steps + 4 : 2 * steps]
    two = [DurationBatches(seconds, 20, 4, seed=3, rank=rank, world=2) for rank in (0, 1)]
    assert [batch for pair in zip(*two, strict=True) for batch in pair] == orders[:8]
