"""Checkpoints are whole or not there at all."""

import subprocess
import sys

import pytest
import torch

from pscodec.utils.checkpoint import AtomicCheckpointer, RandomState
from pscodec.utils.errors import UserError
from pscodec.utils.weights import codec_weights, load_weights


class FullDisk:
    """A recoverable whose saving stops half-way, as on a full disk."""


def half(obj, path):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def checkpoints(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_save_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"codec": model})
    good = checkpointer.save_checkpoint(meta={"step": 1})
    before = checkpoints(tmp_path)
    checkpointer.add_recoverable("disk", FullDisk(), custom_save_hook=half)
    with pytest.raises(UserError, match="No space left"):
        checkpointer.save_checkpoint(meta={"step": 2})
    assert checkpoints(tmp_path) == before
    assert checkpointer.find_checkpoint().path == good.path


def test_a_kill_in_the_middle_is_not_taken_for_a_checkpoint(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"codec": torch.nn.Linear(2, 2)})
    checkpointer.save_checkpoint(meta={"step": 1})
    # what a SIGKILL leaves: the hidden folder, metadata first, parameters not yet
    partial = tmp_path / ".partial-CKPT+later"
    partial.mkdir()
    (partial / "CKPT.yaml").write_text("step: 2\nunixtime: 9e9\nend-of-epoch: true\n")
    assert checkpointer.find_checkpoint().meta["step"] == 1
    checkpointer.save_checkpoint(meta={"step": 3})
    assert not partial.exists() and len(checkpoints(tmp_path)) == 2


def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, capsys):
    model = torch.nn.Linear(20, 20)
    checkpointer = AtomicCheckpointer(tmp_path, {"codec": model})
    for step in (1, 2):
        saved = checkpointer.save_checkpoint(meta={"step": step, "unixtime": float(step)})
    file = saved.paramfiles["codec"]
    assert checkpointer.find_checkpoint().meta["step"] == 2
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for damage in (bytes(data), bytes(data[:-700]), b""):
        file.write_bytes(damage)
        assert checkpointer.recover_if_possible().meta["step"] == 1
        assert "codec.ckpt: damaged" in capsys.readouterr().err


def test_best_and_last(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"codec": model})
    for step, score in ((1, 0.5), (2, 0.3), (3, 0.4)):
        model.weight.data.fill_(step)
        checkpointer.save_checkpoint(meta={"step": step, "score": score, "unixtime": float(step)})
    assert codec_weights(tmp_path, "best")[1]["step"] == 2 and codec_weights(tmp_path, "last")[1]["step"] == 3
    fresh = torch.nn.Linear(1, 1, bias=False)
    assert load_weights(tmp_path, {"codec": fresh})["step"] == 2 and fresh.weight.item() == 2
    with pytest.raises(UserError, match="does not fit"):
        load_weights(tmp_path, {"codec": torch.nn.Linear(3, 1, bias=False)})
    with pytest.raises(UserError, match="run stage 3"):
        load_weights(tmp_path / "other", {"codec": fresh})


def test_random_state_goes_on_where_it_was(tmp_path):
    state = RandomState()
    state.save(tmp_path / "rng")
    drawn = torch.rand(3)
    torch.rand(50)
    state.load(tmp_path / "rng", end_of_epoch=False)
    assert torch.equal(torch.rand(3), drawn)


def test_a_disk_that_is_really_full(tmp_path):
    """A file size limit stands for the full disk: torch's writer fails half-way through the codec's parameters."""
    code = """
import resource, signal, sys, torch
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import one_line_errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = torch.nn.Linear(1000, 1000)
checkpointer = AtomicCheckpointer(sys.argv[1], {"codec": model})
checkpointer.save_checkpoint(meta={"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
one_line_errors(checkpointer.save_checkpoint)(meta={"step": 2})
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    told = done.stderr.strip().splitlines()
    assert done.returncode == 1 and told[-1].startswith("error: ") and "could not be written" in told[-1]
    assert len(checkpoints(tmp_path)) == 1
    assert AtomicCheckpointer(tmp_path, {}).find_checkpoint().meta["step"] == 1
