"""Two processes train what one trains: steps of a tiny codec in fp32, over gloo."""

import datetime
import os
import signal

import pytest
import torch
from test_training import TOLERANCE, batches, distance, new_brain, trained
from torch.utils.data import DataLoader

from pscodec.brains.journal import Journal
from pscodec.utils.checkpoint import AtomicCheckpointer

pytestmark = pytest.mark.usefixtures("one_thread")
KMEANS = {"kmeans_steps": 3, "quantize_start": 1}


def share(rank, address, folder, check, *args):
    """One of two processes: joins the other one and leaves `check`'s result in `folder`."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}  # as torchrun
    patience = datetime.timedelta(seconds=60)  # processes that differ wait for each other
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=patience)
    torch.save(check(rank, folder, *args), folder / f"{rank}.pt")


def in_two_processes(folder, check, *args):
    torch.multiprocessing.spawn(share, (f"file://{folder}/meeting", folder, check, *args), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def train_share(rank, folder, keys):
    return dict(trained(folder, rank=rank, world=2, **keys))


@pytest.mark.parametrize(
    "keys",
    [{}, KMEANS, {"codebook_update": "ema"}, {"update": "simultaneous", "accumulation": 2}],
    ids=["restarts", "kmeans", "ema", "simultaneous in parts"],
)
def test_two_processes_train_what_one_trains(tmp_path, keys):
    one = dict(trained(tmp_path, **keys))
    first, second = in_two_processes(tmp_path, train_share, keys)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert distance(one, first) < TOLERANCE


class Stopping(list):
    """Batches, the third of which comes with a SIGTERM."""

    def __getitem__(self, i):
        if i == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(i)


def stop_second(rank, folder):
    brain = new_brain(folder, ckpt_interval_steps=0)
    brain.journal = Journal(folder) if rank == 0 else None
    data = (Stopping if rank == 1 else list)(batches(9, size=1))
    with pytest.raises(SystemExit) as stop:
        brain.fit([1], DataLoader(data, batch_size=None, collate_fn=tuple))
    return {"status": stop.value.code, "step": brain.optimizer_step, "seconds": brain.seconds}


def test_all_processes_stop_at_the_same_step_when_one_is_asked_to(tmp_path):
    # the others hear of step 3's SIGTERM after step 4
    heard = 4 * 2 * 4800 / 24000  # of steps, processes, samples
    assert in_two_processes(tmp_path, stop_second) == [{"status": 143, "step": 4, "seconds": heard}] * 2
    assert AtomicCheckpointer(tmp_path / "save", {}).find_checkpoint().meta["step"] == 4
