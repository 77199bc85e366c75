"""Work shared by processes of this machine, one thread each."""

import concurrent.futures
import contextlib
import multiprocessing
import os
from concurrent.futures.process import BrokenProcessPool

from pscodec.utils.errors import UserError


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


def _begin(start, args):
    import torch

    torch.set_num_threads(1)
    start(*args)
