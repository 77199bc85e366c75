"""Training of a separator, in embeddings or on waveforms: the system says how, the loss says where."""

import math
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.averaging import WeightMean
from pscodec.brains.single import SingleLoop
from pscodec.metrics.base import MetricError
from pscodec.metrics.sdr import si_sdr_improvement
from pscodec.metrics.stoi import stoi


class SeparationBrain(SingleLoop):
    """Trains `modules.system` (downstream.systems) with `hparams.loss` (losses.separation), in the loss's domain.

    A batch is a dict of `mix` `[B, 1, L]`, `sources` `[B, S, L]`, `lengths` `[B]` and, where they come from a
    cache, `z_mix`, `z_sources`, `frames`. hparams: those of `SingleLoop`, `loss`, `valid_decode`, `sample_rate`.
    """

    items = "mixtures"

    def learn(self, batch):
        with self.training_ctx:
            separation = self.modules.system(self._to_device(batch), self.hparams.loss.domain)
        loss, _ = self.hparams.loss(separation)
        return loss, len(separation.lengths)

    def averaged(self):
        if not self.hparams.ema_decay:
            return None
        system = getattr(self.modules.system, "module", self.modules.system)  # one of several processes wraps it
        mean = WeightMean(system, self.hparams.ema_decay, [system.codec] if system.codec else [])
        for name, part in mean.average.parts.items():
            self.checkpointer.add_recoverable(f"{name}_mean", part)
        return mean

    def _to_device(self, batch):
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

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
        values = {name: sum(found) / len(found) for name, found in self.valid.items()}
        if "mean" in values:
            mean, mixture = values.pop("mean"), values.pop("mixture")
            # 0: the mean of the sources for each of them; 1: the mixture; below 0 voices are told apart
            values["relative"] = (values["loss"] - mean) / (mixture - mean) if mixture != mean else math.nan
        if if_main_process() and self.example:
            self.journal.speech(self.optimizer_step, self.example, self.hparams.sample_rate)
        self._keep(epoch, values)


def _stoi(refs, hyps, sample_rate):
    """The mean over sources `[S, L]`; nan where it is undefined."""
    try:
        pairs = zip(refs.double().cpu().numpy(), hyps.double().cpu().numpy(), strict=True)
        return sum(stoi(ref, hyp, sample_rate) for ref, hyp in pairs) / len(refs)
    except MetricError:
        return math.nan
