"""Two processes train what one trains: steps of a tiny codec in float64, over gloo."""

import datetime
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from test_training import TOLERANCE, batches, distance, new_brain, trained
from torch.utils.data import DataLoader

from pscodec.brains.journal import Journal
from pscodec.utils.checkpoint import AtomicCheckpointer

KMEANS = {"kmeans_steps": 3, "quantize_start": 1}


def meet(rank, address):
    """One of two processes joins the other one."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}  # as torchrun
    patience = datetime.timedelta(seconds=60)  # processes that differ wait for each other
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=patience)


def share(check, rank, folder, *args):
    torch.save(check(rank, folder, *args), folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """`(folder, check, *args)` -> what `check(rank, folder, *args)` returns in each of two processes that have met."""
    address = f"file://{tmp_path_factory.mktemp('meeting')}/place"
    pools = [ProcessPoolExecutor(1, get_context("spawn"), meet, (rank, address)) for rank in (0, 1)]

    def call(folder, check, *args):
        for done in [pool.submit(share, check, rank, folder, *args) for rank, pool in enumerate(pools)]:
            done.result()
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    yield call
    for pool in pools:
        pool.shutdown()


def train_share(rank, folder, keys):
    return dict(trained(folder, rank=rank, world=2, **keys))


@pytest.mark.parametrize(
    "keys",
    [{}, KMEANS, {"codebook_update": "ema"}, {"update": "simultaneous", "accumulation": 2}],
    ids=["restarts", "kmeans", "ema", "simultaneous in parts"],
)
def test_two_processes_train_what_one_trains(in_two_processes, tmp_path, keys):
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


def test_all_processes_stop_at_the_same_step_when_one_is_asked_to(in_two_processes, tmp_path):
    # the others hear of step 3's SIGTERM after step 4
    heard = 4 * 2 * 4800 / 24000  # of steps, processes, samples
    assert in_two_processes(tmp_path, stop_second) == [{"status": 143, "step": 4, "seconds": heard}] * 2
    assert AtomicCheckpointer(tmp_path / "save", {}).find_checkpoint().meta["step"] == 4
