"""The language model's way from dumped codes to a file: data set, training, resumed training, what it saves."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pscodec.data.codes import CodesDataset, collate
from pscodec.data.kaldi import write_table
from pscodec.entropy.coder import EntropyCoder
from pscodec.entropy.network import FILE, Network
from pscodec.utils.errors import UserError

RECIPE = Path(__file__).parents[1] / "recipes/LibriTTS/codec"
FACTS = {"model": "m", "fingerprint": "00" * 8, "sample_rate": 24000, "hop_length": 320, "codebook_size": 16}
SMALL = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden": 32, "batch_size": 8, "num_workers": 0, "warmup": 5}


def dumped(folder, codes, **facts):
    """A folder as dump_codes writes it, of `codes` (utt -> `[K, T]`)."""
    (folder / "npz").mkdir(parents=True)
    for utt, found in codes.items():
        np.savez(folder / "npz" / f"{utt}.npz", codes=found.astype(np.uint8), n_samples=320 * found.shape[1])
    n_q = len(next(iter(codes.values())))
    note = {**FACTS, "n_q": n_q, "groups": 1, "n_q_trained": [1, 2], **facts}
    (folder / "codec.json").write_text(json.dumps(note))
    write_table(folder / "codes.scp", {utt: folder / "npz" / f"{utt}.npz" for utt in codes})
    return str(folder)


def counting(seed, n=12, frames=150):
    """Codes that count: the next frame's first code is one more, the second thrice the frame's number."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 16, n)
    return {f"u{i}": np.stack([s + np.arange(frames), 3 * (s + np.arange(frames))]) % 16 for i, s in enumerate(starts)}


def test_sequences_draw_their_codebooks_and_come_from_the_right_folder(tmp_path):
    two = dumped(tmp_path / "two", {"a": np.array([[1] * 100, [2] * 100]), "b": np.array([[3] * 20, [4] * 20])})
    one = dumped(tmp_path / "one", {"a": np.array([[5] * 100])})
    data = CodesDataset(f"{two} {one}", seconds=0.4)
    assert (data.n_q, data.longest, data.frame_rate, len(data), data.frames) == (2, 30, 75, 2, 120)
    seen = set()
    for number in range(40):
        item = data[number, 0]
        assert torch.equal(item, data[number, 0]) and item.shape[1] <= 30
        seen.add(tuple(item[:, 0].tolist()))
        assert tuple(data[number, 1][:, 0].tolist()) in {(3, 4), (3, -1)}  # of the one there is no other
    assert seen == {(1, 2), (5, -1)}
    joined = CodesDataset(two, seconds=0.4, n_q=[2], joined=True)
    assert {joined[number, 1].shape for number in range(5)} == {(2, 30)}
    assert set(joined[0, 1][0].tolist()) <= {1, 3} and joined[0, 1][0, 0] == 3
    batch = collate([data[0, 0], torch.ones(2, 4, dtype=torch.long)])
    assert batch.shape == (2, 2, data[0, 0].shape[1]) and (batch[1, :, 4:] == -1).all()


def test_groups_give_their_first_codebooks(tmp_path):
    four = dumped(tmp_path / "four", {"a": np.arange(4)[:, None].repeat(50, 1)}, groups=2, n_q_trained=[2])
    item = CodesDataset(four)[0, 0]
    assert item[:, 0].tolist() == [0, -1, 2, -1]


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"fingerprint": "11" * 8}, "codes of another codec"), ({}, "as many codebooks")],
)
def test_folders_that_do_not_go_together(tmp_path, facts, message):
    first, second = (dumped(tmp_path / name, counting(0), **more) for name, more in (("a", {}), ("b", facts)))
    with pytest.raises(UserError, match=message):
        CodesDataset(f"{first} {second}")
    with pytest.raises(UserError, match="codes layer by layer"):
        CodesDataset(dumped(tmp_path / "layer", counting(0), order="layer"))
    with pytest.raises(UserError, match="not codes that dump_codes wrote"):
        CodesDataset(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_language", RECIPE / "train_language.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(folder, place, **keys):
        data = ["--train_codes", str(place / "train"), "--dev_codes", str(place / "dev")]
        options = [word for key, value in {**SMALL, **keys}.items() for word in (f"--{key}", str(value))]
        config = [str(RECIPE / "conf/language/base.yaml"), "--preset", str(RECIPE / "conf/language/mini.yaml")]
        module.main([*config, "--exp", str(place / folder), "--device", "cpu", *data, *options])
        return place / folder

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    dumped(root / "train", counting(0))
    dumped(root / "dev", counting(1))
    return root


def test_it_learns_to_count_and_saves_nearly_all_bits(train, place):
    exp = train("exp", place, total_steps=120, steps_per_epoch=60, precision="fp32", lr=0.01)
    network = Network.load(exp / FILE)
    assert network.shape.codec == FACTS["fingerprint"] and network.shape.longest == 375
    coder = EntropyCoder(network, 2, 375)
    codes = np.stack([np.arange(150), 3 * np.arange(150)]) % 16
    data = coder.encode(codes)
    plain = 2 * 150 * 4 // 8
    assert len(data) < plain / 4, (len(data), plain)
    assert np.array_equal(coder.decode(data, 150), codes)
    log = (exp / "train_log.txt").read_text()
    ours, trained = map(float, re.search(r"([\d.]+) bits a code in integers, ([\d.]+) as trained", log).groups())
    assert abs(ours - trained) < 0.01 and ours < 1
    assert "frames/s" in log and "validation loss" in log and network.fingerprint.hex() in log


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(train, place):
    keys = {"precision": "fp32", "steps_per_epoch": 4, "decay": 0}
    whole = train("whole", place, total_steps=8, **keys)
    train("halves", place, total_steps=4, **keys)
    halves = train("halves", place, total_steps=8, **keys)
    assert "going on from step 4" in (halves / "train_log.txt").read_text()
    first, second = (Network.load(exp / FILE) for exp in (whole, halves))
    assert first.fingerprint == second.fingerprint


def test_codes_of_two_codecs_are_refused(train, place, tmp_path):
    dumped(tmp_path / "train", counting(0))
    dumped(tmp_path / "dev", counting(1), fingerprint="11" * 8)
    with pytest.raises(SystemExit, match="codes of two codecs"):
        train("exp", tmp_path)
