"""Training of a separator, in embeddings or on waveforms: the system says how, the loss says where."""

import time
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.metrics.sdr import si_sdr_improvement
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError


class SeparationBrain(Loop):
    """Trains `modules.system` (downstream.systems) with `hparams.loss` (losses.separation), in the loss's domain.

    A batch is a dict of `mix` `[B, 1, L]`, `sources` `[B, S, L]`, `lengths` `[B]` and, where they come from a
    cache, `z_mix`, `z_sources`, `frames`. hparams: `loss`, `optimizer`, `scheduler` (constructors) and the scalars that
    conf/base.yaml explains. `minutes`: how long it has trained, validation and saving left out.
    """

    minutes = 0.0

    def init_optimizers(self):
        self.params = [p for p in self.modules.system.parameters() if p.requires_grad]
        self.optimizer = self.hparams.optimizer(self.params)
        self.scheduler = self.hparams.scheduler(self.optimizer)
        self.optimizers_dict = {"separator": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        self.checkpointer.add_recoverable("scheduler", self.scheduler, **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        self._start_counting()

    def meta(self):
        return {**super().meta(), "minutes": self.minutes}

    def fit_batch(self, batch):
        begin = self.idle_since  # of the waiting for this batch
        self.waited += time.perf_counter() - begin
        batch = self._to_device(batch)
        with self.training_ctx:
            separation = self.modules.system(batch, self.hparams.loss.domain)
        loss, _ = self.hparams.loss(separation)
        if not torch.isfinite(loss):
            raise UserError(f"step {self.optimizer_step + 1}: the loss is not finite; the last checkpoint is kept")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.hparams.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer_step += 1
        self._count(separation, loss.item(), norm.item())
        self.idle_since = time.perf_counter()
        self.minutes += (self.idle_since - begin) / 60
        return loss.detach()

    def _to_device(self, batch):
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    @property
    def _optimizer_step_limit_exceeded(self):
        # asked before every step and after every epoch; all processes stop with the first
        if not self.hparams.max_minutes:
            return False
        over = torch.tensor(float(self.minutes >= self.hparams.max_minutes), device=self.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(over, 0)
        return bool(over)

    # ---- what is logged

    def _start_counting(self):
        self.sums, self.counted, self.mixtures, self.waited = defaultdict(float), 0, 0, 0.0
        self.counting_since = self.idle_since = time.perf_counter()

    def _count(self, separation, loss, norm):
        self.sums["loss"] += loss
        self.sums["grad"] += norm
        self.counted += 1
        self.mixtures += self.world * len(separation.lengths)
        if self.optimizer_step % self.hparams.log_steps == 0:
            self._log()

    def _log(self):
        took = time.perf_counter() - self.counting_since
        values = {name: value / self.counted for name, value in self.sums.items()}
        values |= {"lr": self.optimizer.param_groups[0]["lr"], "wait": self.waited / took}
        values["mixtures_per_second"] = self.mixtures / took
        if if_main_process():
            step, total = self.optimizer_step, self.hparams.total_steps
            left = (total - step) * took / self.counted
            if self.hparams.max_minutes:
                left = min(left, 60 * (self.hparams.max_minutes - self.minutes))
            self.journal.scalars(step, "train", values)
            self.journal.say(
                f"step {step}/{total}  loss {values['loss']:.4g}  {values['mixtures_per_second']:.2f} mixtures/s  "
                f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
            )
        self._start_counting()

    # ---- validation

    def on_stage_start(self, stage, epoch):
        self.valid_losses, self.improvements, self.example = [], [], None

    def evaluate_batch(self, batch, stage):
        """Besides the loss, the SI-SDR improvement of `valid_decode` mixtures, in dB: one scale for all losses."""
        batch, domain = self._to_device(batch), self.hparams.loss.domain
        with self.evaluation_ctx:
            separation = self.modules.system(batch, domain)
        loss, _ = self.hparams.loss(separation)
        self.valid_losses.append(loss.item())
        if len(self.improvements) < self.hparams.valid_decode:
            if domain != "waveform":
                with self.evaluation_ctx:
                    separation = self.modules.system(batch, "waveform")
            for i, length in enumerate(batch["lengths"].tolist()):
                mix, targets = batch["mix"][i, :, :length], separation.targets[i, :, :length]
                self.improvements.append(si_sdr_improvement(mix, targets, separation.estimates[i, :, :length]))
            if self.example is None:
                self.example = {"mixture": batch["mix"][0].cpu(), "one source": separation.targets[0, :1].cpu()}
                self.example["an estimate"] = separation.estimates[0, :1].float().cpu()
        return loss

    def on_stage_end(self, stage, stage_loss, epoch):
        if stage != sb.Stage.VALID:
            return
        hp, step = self.hparams, self.optimizer_step
        values = {"loss": sum(self.valid_losses) / len(self.valid_losses)}
        defined = [x for x in self.improvements[: hp.valid_decode] if x is not None]
        if defined:
            values["si_sdri"] = sum(defined) / len(defined)
        if epoch > hp.plateau_start:
            self.scheduler.step(values["loss"])
        if if_main_process():
            self.journal.scalars(step, "valid", values)
            self.journal.say(
                f"epoch {epoch}, step {step}, {self.minutes:.1f} min: validation "
                + " ".join(f"{name} {value:.4g}" for name, value in values.items())
            )
            if self.example:
                self.journal.speech(step, self.example, hp.sample_rate)
        self.checkpointer.save_and_keep_only(
            meta={**self.meta(), "score": values["loss"], "epoch": epoch},
            num_to_keep=hp.keep_checkpoints,
            importance_keys=[ckpt_recency],
            min_keys=["score"],
        )
        self._start_counting()
