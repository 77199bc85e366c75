"""Checkpoints that are whole or not there at all, and the random state they need."""

import os
import re
import shutil
import sys
import uuid

import torch
from speechbrain.utils import checkpoints as sb
from speechbrain.utils.distributed import ddp_barrier, if_main_process, main_process_only

from pscodec.utils.errors import UserError
from pscodec.utils.weights import is_whole


class AtomicCheckpointer(sb.Checkpointer):
    """SpeechBrain's checkpointer, which writes its metadata first and so lists half-written folders, made atomic.

    A checkpoint is written to a hidden folder, flushed to the disk and renamed. A full disk or a kill leaves the
    earlier checkpoints as they were; hidden leftovers are removed at the next save.
    """

    def find_checkpoint(self, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None):
        """As SpeechBrain's, but one whose files are damaged is passed over, with a word."""
        damaged = set()
        while True:
            found = super().find_checkpoint(
                importance_key,
                max_key,
                min_key,
                lambda c: c.path not in damaged and (ckpt_predicate is None or ckpt_predicate(c)),
            )
            bad = found and next((p for p in found.paramfiles.values() if not is_whole(p)), None)
            if bad is None:
                return found
            damaged.add(found.path)
            print(f"warning: {bad}: damaged; the checkpoint before it is taken", file=sys.stderr)

    def save_checkpoint(self, meta=None, end_of_epoch=True, name=None, **kwargs):
        if if_main_process():
            for leftover in self.checkpoints_dir.glob(".partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        partial = None
        try:
            saved = super().save_checkpoint(meta or {}, end_of_epoch, name, **kwargs)
            partial = saved and saved.path
        except BaseException as error:
            for leftover in self.checkpoints_dir.glob(".partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            # what torch's writer says of a full disk depends on where it strikes
            if isinstance(error, OSError) or re.search("PytorchStreamWriter|inline_container", str(error)):
                reason = f"{self.checkpoints_dir}: a checkpoint could not be written ({str(error).splitlines()[0]})"
                raise UserError(f"{reason}; the earlier ones are as they were") from error
            raise
        if partial is not None:  # the main process
            saved = self._publish(saved)
        ddp_barrier()  # every process is to see the same checkpoints when the old ones are deleted
        return saved

    def _publish(self, saved):
        """Flush the hidden folder of checkpoint `saved` to the disk and give it its name."""
        for file in saved.path.iterdir():
            with open(file, "rb") as f:
                os.fsync(f.fileno())
        final = self.checkpoints_dir / saved.path.name.removeprefix(".partial-")
        os.rename(saved.path, final)
        return sb.Checkpoint(final, saved.meta, {k: final / p.name for k, p in saved.paramfiles.items()})

    def _new_checkpoint_dirpath(self):
        # SpeechBrain names by the second; two saves within one second need the suffix
        return self.checkpoints_dir / f".partial-{super()._new_checkpoint_dirpath().name}+{uuid.uuid4().hex[:4]}"

    def _custom_checkpoint_dirpath(self, name):
        return self.checkpoints_dir / f".partial-{super()._custom_checkpoint_dirpath(name).name}"


@sb.register_checkpoint_hooks
class RandomState:
    """The generators that training draws from (dropout, restarts of dead codes), as a part of the checkpoint."""

    @sb.mark_as_saver
    @main_process_only
    def save(self, path):
        torch.save({"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}, path)

    @sb.mark_as_loader
    def load(self, path, end_of_epoch):
        state = torch.load(path, weights_only=True)
        torch.set_rng_state(state["cpu"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
