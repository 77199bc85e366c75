"""What a training step is fed: a function of (seed, pass, utterance) and of nothing else."""

import kaldiio
import numpy as np
import pytest
import torch

from pscodec.data.audio import save_audio
from pscodec.data.codec import Batches, SegmentPromptDataset, collate
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.utils.errors import UserError

SEES = ("voiceprint", "mel")  # as PSCodec


@pytest.fixture
def data_dir(tmp_path):
    """Two speakers, utterances of 6, 5, 2 and 0.5 s: sample n of the wav is n / 1e6, frame f of the features is f."""
    utterances = []
    for utt, spk, seconds in (("a-1", "a", 6.0), ("a-2", "a", 5.0), ("b-1", "b", 2.0), ("b-2", "b", 0.5)):
        path = tmp_path / f"{utt}.wav"
        save_audio(path, torch.arange(int(seconds * 24000)) / 1e6, 24000)
        utterances.append(Utterance(utt, spk, str(path), seconds))
    folder = tmp_path / "data"
    write_data_dir(folder, utterances)
    for kind in ("fbank", "mel", "xvector"):
        with kaldiio.WriteHelper(f"ark,scp:{folder}/{kind}.ark,{folder}/{kind}.scp") as writer:
            for u in utterances:
                frames = np.arange(round(u.duration * 100), dtype=np.float32)
                value = (
                    np.repeat(frames[:, None], 80, 1) if kind != "xvector" else np.full(192, len(frames), np.float32)
                )
                writer(u.utt, value)
    return folder


def test_an_item_depends_on_seed_pass_and_utterance_only(data_dir):
    one, two = SegmentPromptDataset(data_dir, SEES), SegmentPromptDataset(data_dir, SEES)
    two[(5, 1)], two[(0, 0)]  # draws in between change nothing
    for key in ((0, 0), (3, 1), (7, 2)):
        assert all(torch.equal(one[key][k], two[key][k]) for k in ("wav", "mel", "fbank"))
    assert not torch.equal(one[(0, 0)]["wav"], one[(1, 0)]["wav"])
    assert not torch.equal(one[(0, 0)]["wav"], SegmentPromptDataset(data_dir, SEES, seed=1)[(0, 0)]["wav"])


def test_segment_and_prompt_do_not_overlap_where_there_is_room(data_dir):
    data = SegmentPromptDataset(data_dir, SEES)
    for number in range(40):
        item = data[(number, 0)]
        assert item["wav"].shape == (1, 24000) and item["mel"].shape == item["fbank"].shape == (80, 300)
        start = item["wav"][0, 0].item() * 1e6 / 24000  # seconds, told by the sample's value
        prompt = item["mel"][0] / 100
        assert torch.equal(item["mel"], item["fbank"])
        assert torch.all(prompt.diff() > 0), "one stretch, not wrapped"
        # 16-bit samples tell the start to 30 us * 1e6 / 24000 ~ 1.3 ms
        room_before, room_after = start >= 3.0, start + 1.0 + 3.0 <= 6.0
        if room_before or room_after:
            assert prompt[-1] <= start + 0.011 or prompt[0] >= start + 1.0 - 0.011


def test_short_utterances_are_repeated_not_padded(data_dir):
    item = SegmentPromptDataset(data_dir, SEES)[(0, 3)]
    assert torch.equal(item["wav"][0, :12000], item["wav"][0, 12000:])
    assert item["mel"][0].tolist() == list(range(50)) * 6


def test_prompt_of_another_utterance_and_voiceprint_from_stage_two(data_dir):
    data = SegmentPromptDataset(data_dir, SEES, prompt_from="speaker", voiceprint="utterance")
    item = data[(0, 0)]
    assert "fbank" not in item and item["voiceprint"].tolist() == [500.0] * 192  # of a-2, which is 5 s long
    wav, prompt = collate([data[(0, 0)], data[(0, 1)]])
    assert wav.shape == (2, 1, 24000) and prompt.mel.shape == (2, 80, 300) and prompt.voiceprint.shape == (2, 192)


def test_a_codec_without_prompts_needs_no_features(data_dir):
    for kind in ("fbank", "mel", "xvector"):
        (data_dir / f"{kind}.scp").unlink()
    wav, prompt = collate([SegmentPromptDataset(data_dir)[(0, i)] for i in range(4)])
    assert wav.shape == (4, 1, 24000) and all(value is None for value in vars(prompt).values())


def test_a_codec_that_sees_the_waveform_is_shown_another_stretch_of_it(data_dir):
    data = SegmentPromptDataset(data_dir, ("wav",), segment=1.0, prompt=2.0)
    for number in range(10):
        wav, prompt = collate([data[(number, 0)], data[(number, 3)]])
        assert prompt.wav.shape == (2, 1, 48000) and prompt.mel is None
        start, shown = (
            x[0, 0, 0].item() * 1e6 / 24000 for x in (wav, prompt.wav)
        )  # seconds, told by the sample's value
        assert shown >= start + 1 - 0.011 or shown + 2 <= start + 0.011 or not (start >= 2 or start + 3 <= 6)


def test_utterances_without_features_are_left_out(data_dir):
    scp = (data_dir / "mel.scp").read_text().splitlines()
    (data_dir / "mel.scp").write_text("\n".join(scp[:2]) + "\n")
    assert SegmentPromptDataset(data_dir, SEES).utts == ["a-1", "a-2"]
    (data_dir / "mel.scp").write_text("")
    with pytest.raises(UserError, match="run stages 1 and 2|empty|no "):
        SegmentPromptDataset(data_dir, SEES)


def test_misspelt_choices(data_dir):
    for wrong in ({"prompt_from": "other"}, {"voiceprint": "crops"}):
        with pytest.raises(UserError):
            SegmentPromptDataset(data_dir, SEES, **wrong)


def test_segments_are_whole_frames(data_dir):
    wav = SegmentPromptDataset(data_dir, segment=0.38, hop_length=320)[(0, 0)]["wav"]
    assert wav.shape == (1, 28 * 320)  # 9120 samples are 28.5 frames; half is rounded to even
    assert SegmentPromptDataset(data_dir, segment=0.001, hop_length=320)[(0, 0)]["wav"].shape == (1, 320)


def epochs(batches, *numbers):
    out = []
    for number in numbers:
        batches.set_epoch(number)
        out += list(batches)
    return out


def test_passes_are_strung_together_and_each_takes_everything_once():
    drawn = [key for batch in epochs(Batches(7, 3, steps=5, seed=4), 1, 2, 3) for key in batch]
    assert len(drawn) == 45
    for number in range(6):
        assert sorted(i for n, i in drawn if n == number) == list(range(7))
    assert [i for n, i in drawn if n == 0] != [i for n, i in drawn if n == 1]


def test_a_resumed_epoch_goes_on_where_it_stopped():
    whole = epochs(Batches(7, 3, steps=5), 2)
    batches = Batches(7, 3, steps=5)
    batches.skip = 2
    assert epochs(batches, 2) == whole[2:]
    assert epochs(batches, 2) == whole, "only once"


def test_ranks_share_the_global_batch():
    whole = epochs(Batches(50, 4, steps=3), 1)
    parts = [epochs(Batches(50, 2, steps=3, rank=r, world=2), 1) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_the_last_epoch_ends_with_the_training():
    batches = Batches(10, 2, steps=3, total=4)
    assert len(list(batches)) == 3
    batches.set_epoch(2)
    assert len(batches) == len(list(batches)) == 1
