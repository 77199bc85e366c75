"""Training of a language model of codes (EnCodec, section 3.3)."""

import math

import speechbrain as sb
import torch

from pscodec.brains.single import SingleLoop

BITS = 1 / math.log(2)


class LanguageBrain(SingleLoop):
    """Trains `modules.language` (models.language); a batch is codes `[B, n_q, T]`, -1 where there are none.

    The loss is the mean over all codes of the bits that each costs. hparams: those of `SingleLoop`, and `seed`.
    """

    items = "frames"

    def learn(self, batch):
        # the place at which the sequences begin: a function of (seed, step), as all that is left to chance
        rng = torch.Generator().manual_seed(self.hparams.seed * 1_000_003 + self.optimizer_step)
        offset = int(torch.randint(self.modules.language.offset + 1, (), generator=rng))
        batch = batch.to(self.device, non_blocking=True)
        with self.training_ctx:
            nats, counts = self.modules.language(batch, offset)
        return BITS * nats.sum() / counts.sum(), int((batch[:, 0] >= 0).sum())

    def on_stage_start(self, stage, epoch):
        self.nats, self.counts = 0.0, 0

    def evaluate_batch(self, batch, stage):
        with self.evaluation_ctx:
            nats, counts = self.modules.language(batch.to(self.device))
        self.nats, self.counts = self.nats + nats.double().cpu(), self.counts + counts.cpu()
        return BITS * nats.sum() / counts.sum()

    def on_stage_end(self, stage, stage_loss, epoch):
        """`loss`: bits a code, `book_K`: of the first eight codebooks, `share`: of the bits that they have without."""
        if stage != sb.Stage.VALID:
            return
        loss = BITS * (self.nats.sum() / self.counts.sum()).item()
        each = BITS * self.nats / self.counts.clamp(min=1)
        values = {"loss": loss, "share": loss / math.log2(self.modules.language.codebook_size)}
        self._keep(epoch, values | {f"book_{k}": bits for k, bits in enumerate(each.tolist()[:8])})
