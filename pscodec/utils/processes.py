"""Work shared by processes of this machine, one thread each."""

import concurrent.futures
import contextlib
import multiprocessing
import os
from concurrent.futures.process import BrokenProcessPool

from pscodec.utils.errors import UserError

FEW = 16  # small tasks that are done before a process has started


def in_processes(work, items, nj, start, args):
    """Yield `(item, work(item))` of each of `items`, a list, as they are done, in `nj` processes.

    `start(*args)` is called in each before its first item. Few items, or `nj` 1, are worked on in this process. Raises
    UserError where a process dies.
    """
    if nj == 1 or len(items) < 2:
        if items:
            start(*args)
        yield from ((item, work(item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread(),
        concurrent.futures.ProcessPoolExecutor(min(nj, len(items)), context, _begin, (start, args)) as pool,
    ):
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError("a process died (out of memory?); what is done is kept, rerun") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread():
    """OMP_NUM_THREADS is read by processes when they start."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin(start=None, args=()):
    import torch

    torch.set_num_threads(1)
    if start:
        start(*args)


class Workers:
    """Runs tasks in `nj` processes, which start with the first large lot and serve all that follow: a start takes
    seconds. A context manager; `map` gives the answers in the tasks' order."""

    def __init__(self, nj=1):
        self.nj, spawn = nj, multiprocessing.get_context("spawn")
        self.pool = nj > 1 and concurrent.futures.ProcessPoolExecutor(nj, spawn, _begin)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def map(self, work, tasks):
        """`work(task)` of each of the list `tasks`; of a few, in this process. Raises UserError where one dies."""
        if not self.pool or len(tasks) < FEW:
            yield from map(work, tasks)
            return
        at_once = max(1, min(8, len(tasks) // (16 * self.nj)))  # few: one process may have a busy core
        try:
            yield from self.pool.map(work, tasks, chunksize=at_once)
        except BrokenProcessPool:
            raise UserError("a worker process died (out of memory?); start again with a smaller --nj") from None
