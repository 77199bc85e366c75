"""Training of models of text and codes: downstream/valle.py's, and downstream/aligner.py's."""

import speechbrain as sb
import torch

from pscodec.brains.single import SingleLoop


class ValleBrain(SingleLoop):
    """Trains `modules.valle` on batches (data.spoken), of which it says nats, what was right, and how much there was.

    hparams: those of `SingleLoop`, and `seed`. Losses are nats a code.
    """

    items = "frames"

    @property
    def valle(self):
        return getattr(self.modules.valle, "module", self.modules.valle)  # one of several processes wraps it

    def learn(self, batch):
        there = batch["codes"][:, 0] >= 0
        # a function of (seed, step), as all that is left to chance but dropout
        place = self.hparams.seed * 1_000_003 + self.optimizer_step
        rng = torch.Generator().manual_seed(place)
        if torch.distributed.is_initialized():  # and that too, for a checkpoint has the first one's generator alone
            torch.manual_seed(place * self.world + torch.distributed.get_rank())
        nats, _, count = self._judge(batch, self.valle.draw(rng, int(there.sum(1).min())), self.training_ctx)
        total = count.detach().clone()
        if torch.distributed.is_initialized():  # a code weighs the same in all processes, whose gradients are averaged
            torch.distributed.all_reduce(total)
        return nats * self.world / total, int(there.sum())

    def _judge(self, batch, turn, context):
        batch = {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
        with context:
            return self.modules.valle(batch, **turn)

    def on_stage_start(self, stage, epoch):
        self.valid = torch.zeros(len(self.valle.turns()), 3, dtype=torch.float64)

    def evaluate_batch(self, batch, stage):
        for i, turn in enumerate(self.valle.turns()):
            self.valid[i] += self._judge(batch, turn, self.evaluation_ctx).double().cpu()
        return self.valid[:, 0].sum() / self.valid[:, 2].sum()

    def on_stage_end(self, stage, stage_loss, epoch):
        """`loss`: nats a code, `accuracy`: the share that was thought the likeliest; of each stage, where there are
        several."""
        if stage != sb.Stage.VALID:
            return
        nats, right, count = self.valid.sum(0).tolist()
        values = {"loss": nats / count, "accuracy": right / count}
        if len(self.valid) > 1:
            values |= {f"loss_{k}": (row[0] / row[2]).item() for k, row in enumerate(self.valid, 1)}
        self._keep(epoch, values)
