"""Training of downstream/valle.py's models: cross-entropy of codes, and of the end."""

import speechbrain as sb
import torch
import torch.nn.functional as F

from pscodec.brains.single import SingleLoop


class ValleBrain(SingleLoop):
    """Trains `modules.valle` on batches of `text` `[B, N]` and `codes` `[B, K, T]`. hparams: those of `SingleLoop`, and
    `seed`. Losses are nats a code."""

    items = "frames"

    @property
    def valle(self):
        return getattr(self.modules.valle, "module", self.modules.valle)  # one of several processes wraps it

    def learn(self, batch):
        there = batch["codes"][:, 0] >= 0
        # a function of (seed, step), as all that is left to chance but dropout
        rng = torch.Generator().manual_seed(self.hparams.seed * 1_000_003 + self.optimizer_step)
        nats, _, count = self._judge(batch, self.valle.draw(rng, int(there.sum(1).min())), self.training_ctx)
        return nats / count, int(there.sum())

    def _judge(self, batch, turn, context):
        """Nats, how many codes were thought the likeliest, and how many there were."""
        text, codes = (batch[name].to(self.device, non_blocking=True) for name in ("text", "codes"))
        with context:
            logits, targets = self.modules.valle(text, codes[:, : self.valle.books], **turn)
        logits, targets = logits.float().flatten(0, 1), targets.flatten()
        nats = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        return nats, (logits.argmax(1) == targets).sum(), (targets >= 0).sum()

    def on_stage_start(self, stage, epoch):
        self.valid = torch.zeros(len(self.valle.turns()), 3, dtype=torch.float64)

    def evaluate_batch(self, batch, stage):
        for i, turn in enumerate(self.valle.turns()):
            self.valid[i] += torch.stack([x.double().cpu() for x in self._judge(batch, turn, self.evaluation_ctx)])
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
