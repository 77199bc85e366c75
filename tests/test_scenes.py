"""Sources, gains and rooms of training items, by hand."""

import collections
import runpy

import numpy as np
import pytest
import soundfile
import torch

from pscodec.data.audio import save_audio
from pscodec.data.codec import SegmentPromptDataset
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.data.scenes import Scenes, rt60
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build, compose, resolve

RATE = 8000


class Dice:
    """A generator that says what it is told: uniform numbers in turn."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def uniform(self, low=0.0, high=1.0):
        return low + (high - low) * self.numbers.pop(0)


@pytest.fixture
def folders(tmp_path):
    """Two folders: constant signals of 0.125, 0.25 (speech) and 0.5 (music), 1 s each."""
    made = []
    for folder, levels in (("speech", (0.125, 0.25)), ("music", (0.5,))):
        utterances = []
        for level in levels:
            path = tmp_path / f"{level}.wav"
            save_audio(path, torch.full((RATE,), level), RATE)
            utterances.append(Utterance(f"{folder}-{level}", folder, str(path), 1.0))
        write_data_dir(tmp_path / folder, utterances)
        made.append(str(tmp_path / folder))
    return made


def levels(folders, scenes, passes=400, **options):
    """How often the items of so many passes are of which constant level."""
    data = SegmentPromptDataset(folders, sample_rate=RATE, segment=0.1, scenes=scenes, **options)
    items = [data[(number, i)]["wav"] for number in range(passes) for i in range(len(data))]
    assert all(item.shape == (1, 800) and np.ptp(item.numpy()) < 1e-6 for item in items)
    return collections.Counter(round(item[0, 0].item(), 4) for item in items)


def test_without_scenes_each_utterance_has_its_turn(folders):
    assert levels(folders, None, 3) == levels(folders, Scenes(), 3) == {0.125: 3, 0.25: 3, 0.5: 3}


def test_weights_are_shares_of_folders(folders):
    found = levels(folders, Scenes(weights=[1, 3]))
    assert set(found) == {0.125, 0.25, 0.5} and found[0.5] / 1200 == pytest.approx(0.75, abs=0.05)
    assert found[0.125] / found[0.25] == pytest.approx(1, abs=0.3)
    assert levels(folders, Scenes(weights=[0, 1]), 5) == {0.5: 15}


def test_sums_of_two_and_three(folders):
    # of two: one of speech and one of speech, or music
    one = levels(folders[0], Scenes(two=1.0))
    assert set(one) == {0.25, 0.375, 0.5} and one[0.375] / 800 == pytest.approx(0.5, abs=0.06)
    three = levels(folders, Scenes(three=1.0, music=[False, True]))
    assert set(three) == {0.375, 0.5, 0.625, 0.75}, "of speech alone, although music had its turn in a third"
    with pytest.raises(UserError, match="mixtures of three need a folder that holds no music"):
        levels(folders[1], Scenes(three=1.0, music=[True]), 1)


def test_how_many_sources(folders):
    scenes, counts = Scenes(two=0.24, three=0.12), collections.Counter()
    for number in range(5000):
        counts[len(scenes.places(np.random.default_rng(number), (0, 1), [2, 1]))] += 1
    assert counts[2] / 5000 == pytest.approx(0.24, abs=0.02) and counts[3] / 5000 == pytest.approx(0.12, abs=0.015)
    assert scenes.places(np.random.default_rng(0), (0, 1), [2, 1])[0] == (0, 1), "its turn"


def test_gains_by_hand():
    scenes = Scenes(gain=(-10, 6))
    assert scenes.level(Dice(0.625)) == pytest.approx(1.0)  # -10 + 0.625 * 16 is 0 dB
    assert scenes.level(Dice(0.0)) == pytest.approx(10**-0.5) and scenes.level(Dice(1.0)) == pytest.approx(10**0.3)


def test_what_clips_is_drawn_again_and_at_last_brought_down(folders):
    found = levels(folders[1], Scenes(gain=(0, 12)), 200)  # 0.5 clips beyond 6.02 dB
    assert max(found) <= 1.0 and len(found) > 100 and np.mean([x >= 0.999 for x in found]) < 0.05
    assert np.median(list(found.elements())) == pytest.approx(0.5 * 10 ** (3 / 20), rel=0.1)
    assert levels(folders[1], Scenes(gain=(12, 12)), 2) == {1.0: 2}


def response(seconds, decay):
    """An impulse response that falls by 60 dB in `decay` seconds, after 10 ms of silence."""
    t = np.arange(round(seconds * RATE)) / RATE
    return np.concatenate([np.zeros(RATE // 100), 10 ** (-3 * t / decay)]) * 0.5


@pytest.mark.parametrize("decay", [0.2, 0.5, 1.2])
def test_rt60_of_what_falls_evenly(decay):
    assert rt60(torch.from_numpy(response(3.0, decay)), RATE) == pytest.approx(decay, rel=0.01)
    assert rt60(torch.zeros(100), RATE) == 0 and rt60(torch.tensor([1.0]), RATE) == 0


def test_a_room_begins_at_its_direct_sound_and_keeps_the_level(tmp_path):
    path = tmp_path / "rooms/small/a.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, np.array([0, 0.6, 0, 0.45]), RATE, subtype="FLOAT")
    wav = torch.tensor([[1.0, 0, 0, 0, 2.0]]).repeat(2, 1)
    scenes = Scenes(rooms=tmp_path / "rooms", room_share=1.0, rt60=(0, 9), sample_rate=RATE)
    heard = scenes.room(np.random.default_rng(0), wav, [(0, 0)])
    # of 0.6 and 0.45 two samples later, energy 0.75 squared: 0.8 and 0.6
    assert heard.shape == wav.shape and torch.allclose(heard, torch.tensor([0.8, 0, 0.6, 0, 1.6]), atol=1e-6)


def test_rooms_of_another_length_are_not_used_and_music_alone_is_in_none(tmp_path):
    for name, decay in (("dead", 0.1), ("live", 0.5), ("hall", 3.0)):
        soundfile.write(tmp_path / f"{name}.wav", response(4.0, decay), RATE, subtype="FLOAT")
    wav = torch.zeros(1, RATE)
    wav[0, 0] = 1
    scenes = Scenes(music=[False, True], rooms=tmp_path, room_share=1.0, sample_rate=RATE)
    for seed in range(10):
        heard = scenes.room(np.random.default_rng(seed), wav, [(0, 0)])
        assert 20 * (heard[0, 400] / heard[0, 0]).log10() == pytest.approx(-6.0, abs=0.1)  # 50 ms of 0.5 s for 60 dB
        assert scenes.room(np.random.default_rng(seed), wav, [(1, 0)]) is wav
        assert scenes.room(np.random.default_rng(seed), wav, [(1, 0), (0, 0)]) is not wav
    scenes.room_share = 0.2
    used = [scenes.room(np.random.default_rng(seed), wav, [(0, 0)]) is not wav for seed in range(500)]
    assert np.mean(used) == pytest.approx(0.2, abs=0.05)


def test_an_item_is_a_function_of_seed_pass_and_utterance(folders):
    scenes = Scenes(weights=[1, 1], two=0.3, three=0.2, gain=(-10, 6))
    one, two = (SegmentPromptDataset(folders, sample_rate=RATE, segment=0.1, scenes=scenes, seed=3) for _ in range(2))
    one[(8, 2)]  # a draw in between changes nothing
    for key in ((0, 0), (5, 1), (5, 2)):
        assert torch.equal(one[key]["wav"], two[key]["wav"])
    assert len({one[(number, 0)]["wav"][0, 0].item() for number in range(20)}) > 15


def test_the_prompt_is_of_the_first_source(folders):
    scenes = Scenes(two=1.0)
    data = SegmentPromptDataset(folders, ("wav",), sample_rate=RATE, segment=0.1, prompt=0.2, scenes=scenes)
    assert data[(0, 0)]["prompt_wav"][0, 0] == 0.125 and data[(0, 0)]["wav"][0, 0] >= 0.25


def test_the_keys_of_a_configuration(folders, tmp_path, recipe):
    train = runpy.run_path(str(recipe / "train.py"))
    path = tmp_path / "rooms/a.wav"
    path.parent.mkdir()
    soundfile.write(path, response(1.0, 0.5), RATE, subtype="FLOAT")
    options = {"train_dir": folders[0], "dev_dir": folders[0], "source_dirs": folders[1:], "music_dirs": folders[1:]}
    options |= {"source_weights": [1, 3], "room_dir": str(path.parent), "sample_rate": RATE, "width": 4, "segment": 0.2}
    text = resolve(compose(recipe / "conf/encodec.yaml"), options)
    data, dev = train["datasets"](build(text))
    assert len(data) == 3 and len(dev) == 2 and dev.scenes is None
    scenes = data.scenes
    assert (scenes.two, scenes.three, list(scenes.gain), scenes.room_share) == (0.24, 0.12, [-10, 6], 0.2)
    assert scenes.weights.tolist() == [1, 3] and scenes.music.tolist() == [False, True]
    assert data[(0, 0)]["wav"].shape == (1, 1600) and data[(0, 0)]["wav"].abs().max() <= 1
    for change, words in (
        ({"source_weights": [1]}, "source_weights has 1 shares for 2 folders"),
        ({"music_dirs": ["data/other"]}, "music_dirs: data/other is neither"),
    ):
        with pytest.raises(UserError, match=words):
            train["datasets"](build(resolve(compose(recipe / "conf/encodec.yaml"), options | change)))
    plain = build(resolve(compose(recipe / "conf/pscodec_base.yaml"), {"width": 4}))
    assert train["scenes"](plain, ["data/train"]).plain, "defaults leave items as they are"


def test_mistakes_are_one_line(folders, tmp_path):
    for options, words in (
        ({"two": 0.7, "three": 0.4}, "shares of mixtures and rooms"),
        ({"gain": (6, -10)}, "gain is from the lowest to the highest"),
        ({"gain": (6,)}, "gain is from the lowest to the highest, not 6"),
        ({"weights": [0, 0]}, "source_weights are shares"),
        ({"rooms": tmp_path / "none", "room_share": 0.2}, "no folder"),
        ({"rooms": tmp_path / "speech", "room_share": 0.2}, "holds no recordings"),
    ):
        with pytest.raises(UserError, match=words):
            Scenes(**options)
    with pytest.raises(UserError, match="speech-0.125 is in another of the folders"):
        SegmentPromptDataset([folders[0], folders[0]], sample_rate=RATE)
