"""Training of one network with one loss and one optimizer, by steps or by the clock."""

import time
from collections import defaultdict

import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError
from pscodec.utils.schedules import Schedule


class SingleLoop(Loop):
    """A subclass gives `learn(batch)`, which returns the loss of a step and how many `items` the batch has, and what
    validation is.

    hparams: `optimizer`, `scheduler` (constructors; a utils.schedules.Schedule, or torch's ReduceLROnPlateau),
    `total_steps` and the scalars `max_minutes`, `clip_norm`, `log_steps`, `plateau_start`, `keep_checkpoints` and, for
    a mean of the weights, `ema_decay`, that the recipes explain. `minutes`: how long it has trained, validation and
    saving left out.
    """

    minutes = 0.0
    items = "items"

    def learn(self, batch):
        raise NotImplementedError

    def averaged(self):
        """The averaging.WeightMean of what it trains, a part of its checkpoints; None for none."""
        return None

    def init_optimizers(self):
        self.params = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = self.hparams.optimizer(self.params)
        self.scheduler = self.hparams.scheduler(self.optimizer)
        self.optimizers_dict = {"all": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        if not self._by_step:
            self.checkpointer.add_recoverable("scheduler", self.scheduler, **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        self.mean = self.averaged()
        self._start_counting()

    @property
    def _by_step(self):
        return isinstance(self.scheduler, Schedule)

    def _done(self):
        """The share of the training that is over, by steps or by time, whichever is further."""
        hp = self.hparams
        return max(self.optimizer_step / hp.total_steps, self.minutes / hp.max_minutes if hp.max_minutes else 0.0)

    def meta(self):
        return {**super().meta(), "minutes": self.minutes}

    def fit_batch(self, batch):
        begin = self.idle_since  # of the waiting for this batch
        self.waited += time.perf_counter() - begin
        loss, n_items = self.learn(batch)
        if not torch.isfinite(loss):
            raise UserError(f"step {self.optimizer_step + 1}: the loss is not finite; the last checkpoint is kept")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.hparams.clip_norm or float("inf"))
        if self._by_step:
            self.scheduler.set(self.optimizer_step, self._done())
        self.optimizer.step()
        self.optimizer_step += 1
        if self.mean is not None:
            self.mean.update(self.optimizer_step)
        self._count(n_items, loss.item(), norm.item())
        self.idle_since = time.perf_counter()
        self.minutes += (self.idle_since - begin) / 60
        return loss.detach()

    @property
    def _optimizer_step_limit_exceeded(self):
        # asked before every step and after every epoch
        if not self.hparams.max_minutes:
            return False
        if torch.distributed.is_initialized():  # all stop with the first, and give a step the same rate
            minutes = torch.tensor(self.minutes, device=self.device)
            torch.distributed.broadcast(minutes, 0)
            self.minutes = minutes.item()
        return self.minutes >= self.hparams.max_minutes

    # ---- what is logged

    def _start_counting(self):
        self.sums, self.counted, self.seen, self.waited = defaultdict(float), 0, 0, 0.0
        self.counting_since = self.idle_since = time.perf_counter()

    def _count(self, n_items, loss, norm):
        self.sums["loss"] += loss
        self.sums["grad"] += norm
        self.counted += 1
        self.seen += self.world * n_items
        if self.optimizer_step % self.hparams.log_steps == 0:
            self._log()

    def _log(self):
        took = time.perf_counter() - self.counting_since
        values = {name: value / self.counted for name, value in self.sums.items()}
        values |= {"lr": self.optimizer.param_groups[0]["lr"], "wait": self.waited / took}
        values[f"{self.items}_per_second"] = self.seen / took
        if if_main_process():
            step, total = self.optimizer_step, self.hparams.total_steps
            left = (total - step) * took / self.counted
            if self.hparams.max_minutes:
                left = min(left, 60 * (self.hparams.max_minutes - self.minutes))
            self.journal.scalars(step, "train", values)
            self.journal.say(
                f"step {step}/{total}  loss {values['loss']:.4g}  {self.seen / took:.2f} {self.items}/s  "
                f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
            )
        self._start_counting()

    def _keep(self, epoch, values):
        """At the end of a validation: `values` (name -> number) are told, and saved, `loss` as the score."""
        hp, step = self.hparams, self.optimizer_step
        if not self._by_step and epoch > hp.plateau_start:
            self.scheduler.step(values["loss"])
        if if_main_process():
            self.journal.scalars(step, "valid", values)
            self.journal.say(
                f"epoch {epoch}, step {step}, {self.minutes:.1f} min: validation "
                + " ".join(f"{name} {value:.4g}" for name, value in values.items())
            )
        self.checkpointer.save_and_keep_only(
            meta={**self.meta(), "score": values["loss"], "epoch": epoch},
            num_to_keep=hp.keep_checkpoints,
            importance_keys=[ckpt_recency],
            min_keys=["score"],
        )
        self._start_counting()  # validation and saving are not training time
