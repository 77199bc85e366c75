"""Several processes of one program, started by torchrun on one node or many, share its work.

The first process (rank 0) plans, writes what is joint, and talks. A process that torchrun did not start is the first
and only one: nothing here then does anything, and torch.distributed is not touched.
"""

import contextlib
import datetime
import functools
import os
import sys
import time

import torch
from torch import distributed

from pscodec.utils.errors import UserError, one_line_errors

# the first may wait for the slowest as long as the work takes; one that ends is noticed at once, by its connection
PATIENCE = datetime.timedelta(days=1)
TELLING = datetime.timedelta(seconds=10)
LETTING_GO = 0.2  # seconds


def rank():
    """Number of this process, from 0, over all nodes."""
    return int(os.environ.get("RANK", 0))


def world():
    """How many processes there are, on all nodes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first():
    """Whether this process is the one that plans, writes what is joint, and talks."""
    return rank() == 0


def together(main):
    """Decorate a program's `main` (outside `one_line_errors`): what torchrun starts meets, works and ends together.

    Each process computes on its own GPU, which torch then calls `cuda`. Only the first one's output is shown. Whichever
    fails first tells its error; the others, which find it gone when they next meet it, end with status 1 and say
    nothing.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        if world() == 1:
            return main(*args, **kwargs)
        store = _join()
        try:
            with contextlib.nullcontext() if first() else _silence():
                result = main(*args, **kwargs)
                _wait_for_all()
        except SystemExit as end:
            if isinstance(end.code, str):
                _tell_once(store, end.code)
                sys.exit(1)
            raise
        # a thread of gloo's lets go of the last collective's tensors, for which it needs the interpreter's lock; if it
        # gets that while the interpreter ends, the process aborts
        time.sleep(LETTING_GO)
        distributed.destroy_process_group()
        return result

    return run


def share(items):
    """This process's part of the list `items`, every `world()`-th in their order; the first process's list counts."""
    if world() == 1:
        return items
    mine, parts = [None], [items[i :: world()] for i in range(world())] if first() else None
    _meet(distributed.scatter_object_list, mine, parts)
    return mine[0]


def gather(item):
    """What every process gives, by rank, in every process; returns when all have given theirs."""
    if world() == 1:
        return [item]
    items = [None] * world()
    _meet(distributed.all_gather_object, items, item)
    return items


def _join():
    """Meet the others; returns the store that all of them see."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    store, _, _ = next(distributed.rendezvous("env://", timeout=PATIENCE))
    distributed.init_process_group("gloo", store=store, rank=rank(), world_size=world(), timeout=PATIENCE)
    return store


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


@one_line_errors
def _wait_for_all():
    gather(None)


def _meet(collective, *args):
    try:
        collective(*args)
    except RuntimeError as error:
        raise UserError("another process of this run ended before its time (out of memory?)") from error


def _tell_once(store, message):
    """Print `message` if no process has told of a failure yet, else wait until that one has."""
    with contextlib.suppress(RuntimeError):  # the store has gone with the process or node that kept it
        if store.add("failures", 1) > 1:
            store.wait(["told"], TELLING)  # for torchrun ends all as soon as one has ended
            return
    print(message, file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):
        store.set("told", "yes")
