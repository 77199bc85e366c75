"""What every training loop of the project shares."""

import atexit
import functools
import multiprocessing
import os
import signal

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process, main_process_only
from torch.utils.data import DataLoader

from pscodec.brains.journal import Journal


class Loop(sb.Brain):
    """A Brain that counts its steps in the metadata of checkpoints. `begin` comes before `fit`.

    SIGTERM, with which schedulers take a machine back, ends the step, saves a checkpoint and exits with status 143.
    """

    journal = None
    asked_to_stop = False
    question = None  # of the step before, to the other processes

    @property
    def world(self):
        """How many processes train together."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def fit(self, *args, **kwargs):
        if torch.distributed.is_initialized():
            self.council, self.question = torch.distributed.new_group(backend="gloo"), None  # talks while GPUs work
        before = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            super().fit(*args, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, before)

    def begin(self, exp, batches):
        """Open the journal in folder `exp`, and let a resumed run's first epoch go on in `batches` where it was.

        Returns the checkpoint that `fit` goes on from, None for a new run."""
        last = self.checkpointer.find_checkpoint()
        self.journal = Journal(exp, last.meta["step"] if last else 0) if if_main_process() else None
        self.train_sampler = Recovery(self, batches)
        return last

    def _ask_to_stop(self, *_):
        self.asked_to_stop = True

    def _anyone_asked_to_stop(self):
        """Whether a process was: no one may go on while another stops. Several take the answer of the step before."""
        if not torch.distributed.is_initialized():
            return self.asked_to_stop
        answered, answer = self.question or (None, torch.zeros(()))
        if answered:
            answered.wait()
        asked = torch.tensor(float(self.asked_to_stop))
        self.question = torch.distributed.all_reduce(asked, group=self.council, async_op=True), asked
        return bool(answer)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # asked after every step
        if not self._anyone_asked_to_stop():
            # all processes count alike: SpeechBrain's own has the first one tell the others, at every step
            return 0 < self.ckpt_interval_steps <= steps_since_ckpt
        self._save_intra_epoch_ckpt()
        if if_main_process():
            self.journal.say(f"SIGTERM: saved at step {self.optimizer_step}; started again, it goes on from there")
            self.journal.close()
        raise SystemExit(128 + signal.SIGTERM)

    def _save_intra_epoch_ckpt(self):
        # SpeechBrain's own, with the step in the metadata
        flag = sb.core.INTRA_EPOCH_CKPT_FLAG
        self.checkpointer.save_and_keep_only(
            meta={flag: True, **self.meta()},
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda checkpoint: flag in checkpoint.meta,
        )

    def meta(self):
        """What a checkpoint says of itself."""
        return {"step": self.optimizer_step}


def join(device):
    """Join the processes that torchrun has started, if it has; returns SpeechBrain's run options for `device`."""
    backend = "nccl" if str(device).startswith("cuda") else "gloo"
    ddp_init_group({"distributed_backend": backend})
    return {
        "device": device,
        "noprogressbar": True,
        "distributed_backend": backend,
        "distributed_launch": torch.distributed.is_initialized(),
    }


def loaders(train, batches, dev, dev_batches, collate, num_workers):
    """For training on `train` in `batches` (with workers) and validation on `dev` in `dev_batches`."""
    # its own generator: the loader must not draw from the one that a checkpoint restores
    common = {"collate_fn": collate, "generator": torch.Generator(), "pin_memory": torch.cuda.is_available()}
    workers = {"num_workers": num_workers, "persistent_workers": num_workers > 0, "worker_init_fn": sheltered()}
    train_loader = DataLoader(train, batch_sampler=batches, **workers, **common)
    return train_loader, DataLoader(dev, batch_sampler=dev_batches, **common)


def sheltered():
    """A loader's `worker_init_fn`: schedulers send SIGTERM to all processes, and a training that is to end its step
    still needs the loader's. They let it pass until the training ends, and Python itself sends it to them."""
    over = multiprocessing.Event()
    atexit.register(over.set)
    return functools.partial(_shelter, over)


def _shelter(over, _):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if over.is_set() else None)


class Recovery:
    """A resumed run's first epoch begins at the batch after the last one that the checkpoint has seen."""

    def __init__(self, brain, batches):
        self.brain, self.batches = brain, batches

    def set_epoch(self, epoch):
        self.batches.set_epoch(epoch)
        self.batches.skip = self.brain.step


@main_process_only
def _save_state(obj, path):
    torch.save(obj.state_dict(), path)


def _load_state(obj, path, end_of_epoch):
    obj.load_state_dict(torch.load(path, weights_only=True))


PLAIN_STATE = {"custom_save_hook": _save_state, "custom_load_hook": _load_state}
