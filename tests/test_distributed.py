"""Two processes train what one trains: steps of a tiny codec, and of VALL-E's models, in float64, over gloo."""

import datetime
import functools
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from test_training import TOLERANCE, InDouble, batches, distance, new_brain, trained
from torch.utils.data import DataLoader

from pscodec.brains.journal import Journal
from pscodec.brains.valle import ValleBrain
from pscodec.data.spoken import collate
from pscodec.downstream.valle import AutoRegressive, NonAutoRegressive
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.schedules import Trapezoid

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


SIZES = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden": 16, "dropout": 0.0}
MODELS = {
    "first": functools.partial(AutoRegressive, 10, 12, **SIZES),
    "second": functools.partial(NonAutoRegressive, 10, 12, 4, prefix_mode=0, **SIZES),  # no stage needs all tables
}
KEYS = {"seed": 0, "total_steps": 100, "max_minutes": 0, "clip_norm": 0.5, "log_steps": 10**9}


def read(rank, folder, name, world=2):
    """Where a few steps of a model of text and codes lead to; each of two processes has one of two utterances, of which
    one is three times as long."""
    torch.manual_seed(0)
    hparams = {**KEYS, "optimizer": functools.partial(torch.optim.SGD, lr=0.3), "scheduler": Trapezoid}
    hparams["find_unused_parameters"] = name == "second"
    run_opts = {"device": "cpu", "precision": "fp32", "noprogressbar": True}
    run_opts |= {"distributed_launch": world > 1, "distributed_backend": "gloo"}
    modules = {"valle": MODELS[name]().double()}
    brain = ValleBrain(modules, None, hparams, run_opts, AtomicCheckpointer(folder / f"save.{world}", {}))
    brain.on_fit_start()
    brain.modules.train()
    rng = torch.Generator().manual_seed(1)
    with InDouble():
        for _ in range(4):
            items = [
                {
                    "text": torch.randint(1, 10, (3 * n,), generator=rng),
                    "codes": torch.randint(0, 12, (4, 7 * n), generator=rng),
                }
                for n in (1, 3)
            ]
            brain.fit_batch(collate(items[rank::world]))
    return brain.valle.state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_read_what_one_reads(in_two_processes, tmp_path, name):
    one, begin = read(0, tmp_path, name, world=1), MODELS[name]
    torch.manual_seed(0)
    assert distance(begin().double().state_dict(), one) > 1e-2
    first, second = in_two_processes(tmp_path, read, name)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert distance(one, first) < TOLERANCE
