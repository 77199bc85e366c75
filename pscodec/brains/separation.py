"""Training of a separator, in embeddings or on waveforms: the system says how, the loss says where."""

import math
import time
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.averaging import WeightMean
from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.metrics.base import MetricError
from pscodec.metrics.sdr import si_sdr_improvement
from pscodec.metrics.stoi import stoi
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError
from pscodec.utils.schedules import Trapezoid


class SeparationBrain(Loop):
    """Trains `modules.system` (downstream.systems) with `hparams.loss` (losses.separation), in the loss's domain.

    A batch is a dict of `mix` `[B, 1, L]`, `sources` `[B, S, L]`, `lengths` `[B]` and, where they come from a
    cache, `z_mix`, `z_sources`, `frames`. hparams: `loss`, `optimizer`, `scheduler` (constructors; a
    utils.schedules.Trapezoid, or torch's ReduceLROnPlateau) and the scalars that conf/base.yaml explains.
    `minutes`: how long it has trained, validation and saving left out.
    """

    minutes = 0.0

    def init_optimizers(self):
        self.params = [p for p in self.modules.system.parameters() if p.requires_grad]
        self.optimizer = self.hparams.optimizer(self.params)
        self.scheduler = self.hparams.scheduler(self.optimizer)
        self.optimizers_dict = {"separator": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        if not self._by_step:
            self.checkpointer.add_recoverable("scheduler", self.scheduler, **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        self.mean = None
        if self.hparams.ema_decay:
            system = getattr(self.modules.system, "module", self.modules.system)  # one of several processes wraps it
            self.mean = WeightMean(system, self.hparams.ema_decay, [system.codec] if system.codec else [])
            self.checkpointer.add_recoverable("separator_mean", self.mean.average.separator)
        self._start_counting()

    @property
    def _by_step(self):
        return isinstance(self.scheduler, Trapezoid)

    def _done(self):
        """The share of the training that is over, by steps or by time, whichever is further."""
        hp = self.hparams
        return max(self.optimizer_step / hp.total_steps, self.minutes / hp.max_minutes if hp.max_minutes else 0.0)

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
        if self._by_step:
            self.scheduler.set(self.optimizer_step, self._done())
        self.optimizer.step()
        self.optimizer_step += 1
        if self.mean is not None:
            self.mean.update(self.optimizer_step)
        self._count(separation, loss.item(), norm.item())
        self.idle_since = time.perf_counter()
        self.minutes += (self.idle_since - begin) / 60
        return loss.detach()

    def _to_device(self, batch):
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

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
        self.valid, self.decoded, self.example = defaultdict(list), 0, None

    def evaluate_batch(self, batch, stage):
        """Besides the loss: of embeddings, that of two guesses that need no separator; of `valid_decode` mixtures,
        what the decoded estimates gain over the mixture in STOI and SI-SDR: one scale for all losses."""
        batch, domain = self._to_device(batch), self.hparams.loss.domain
        system = self.modules.system if self.mean is None else self.mean.average
        with self.evaluation_ctx:
            separation = system(batch, domain)
        loss, order = self.hparams.loss(separation)
        self.valid["loss"].append(loss.item())
        if domain == "embedding":
            for name, value in zip(("mean", "mixture"), self.hparams.loss.trivial(separation), strict=True):
                self.valid[name].append(value.item())
        if self.decoded < self.hparams.valid_decode:
            if domain != "waveform":
                with self.evaluation_ctx:
                    separation = system(batch, "waveform")
            self._listen(batch, separation, order)
        return loss

    def _listen(self, batch, separation, order):
        """Score the decoded mixtures of a batch, estimate `order[b, s]` being that of source s."""
        for i, length in enumerate(batch["lengths"].tolist()):
            mix, targets = batch["mix"][i, :, :length], separation.targets[i, :, :length]
            estimates = separation.estimates[i, order[i], :length].float()
            gains = {"stoi": _stoi(targets, estimates, self.hparams.sample_rate)}
            gains["stoi_gain"] = gains["stoi"] - _stoi(targets, mix.expand_as(targets), self.hparams.sample_rate)
            gains["si_sdri"] = si_sdr_improvement(mix, targets, estimates)
            for name, value in gains.items():
                if value is not None and math.isfinite(value):
                    self.valid[name].append(value)
            self.decoded += 1
        if self.example is None:
            self.example = {"mixture": batch["mix"][0].cpu(), "one source": separation.targets[0, :1].cpu()}
            self.example["its estimate"] = separation.estimates[0, order[0, :1]].float().cpu()

    def on_stage_end(self, stage, stage_loss, epoch):
        if stage != sb.Stage.VALID:
            return
        hp, step = self.hparams, self.optimizer_step
        values = {name: sum(found) / len(found) for name, found in self.valid.items()}
        if "mean" in values:
            mean, mixture = values.pop("mean"), values.pop("mixture")
            # 0: the mean of the sources for each of them; 1: the mixture; below 0 voices are told apart
            values["relative"] = (values["loss"] - mean) / (mixture - mean) if mixture != mean else math.nan
        if not self._by_step and epoch > hp.plateau_start:
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


def _stoi(refs, hyps, sample_rate):
    """The mean over sources `[S, L]`; nan where it is undefined."""
    try:
        pairs = zip(refs.double().cpu().numpy(), hyps.double().cpu().numpy(), strict=True)
        return sum(stoi(ref, hyp, sample_rate) for ref, hyp in pairs) / len(refs)
    except MetricError:
        return math.nan
