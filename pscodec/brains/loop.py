"""What every training loop of the project shares."""

import speechbrain as sb
import torch
from speechbrain.utils.distributed import main_process_only


class Loop(sb.Brain):
    """A Brain that counts its steps in the metadata of checkpoints. `journal` (brains.journal) is set before `fit`."""

    journal = None

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
