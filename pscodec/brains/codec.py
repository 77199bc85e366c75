"""The GAN step of every codec: discriminators, then codec. Knows names, not classes."""

import copy
import time
import warnings
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process
from torch.nn.parallel import DistributedDataParallel

from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.types import Evidence
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError


class CodecBrain(Loop):
    """Trains `modules.codec` against `modules.discriminators`; a batch is (`wav` `[B, 1, L]`, `Prompt`).

    hparams: `losses` (losses.base.WeightedSum), `discriminator_loss` (real, fake -> scalar), `codec_optimizer`,
    `discriminator_optimizer`, `scheduler` (constructors), and the scalars that conf/base.yaml explains.
    """

    def _wrap_distributed(self):
        # SpeechBrain's own would synchronise the batch norms, and the only ones here are CAM++'s, which are frozen
        if self.distributed_launch:
            devices = [torch.cuda.current_device()] if str(self.device).startswith("cuda") else None
            for name, module in self.modules.items():
                # unused: the codebooks until quantize_start
                self.modules[name] = DistributedDataParallel(module, devices, find_unused_parameters=True)

    def init_optimizers(self):
        hp = self.hparams
        params = {name: [p for p in m.parameters() if p.requires_grad] for name, m in self.modules.items()}
        self.params = {name: p for name, p in params.items() if p}
        constructors = {"codec": hp.codec_optimizer, "discriminators": hp.discriminator_optimizer}
        self.optimizers_dict = {name: constructors[name](p) for name, p in self.params.items()}
        self.schedulers = {name: hp.scheduler(optimizer) for name, optimizer in self.optimizers_dict.items()}
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"optimizer_{name}", optimizer)
            self.checkpointer.add_recoverable(f"scheduler_{name}", self.schedulers[name], **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        self.mean = None
        if hp.ema_decay:
            self.mean = copy.deepcopy(self._plain("codec")).requires_grad_(False).eval()
            self.checkpointer.add_recoverable("codec_mean", self.mean)
        self._start_counting()

    def _plain(self, name):
        """`modules[name]` without what training on several devices wraps round it."""
        return getattr(self.modules[name], "module", self.modules[name])

    def fit_batch(self, batch):
        self.waited += time.perf_counter() - self.idle_since
        wav, prompt = batch[0].to(self.device), batch[1].to(self.device)
        with self.training_ctx:
            output = self.modules.codec(wav, prompt)
        evidence = Evidence(wav, output)
        if "discriminators" in self.params and self.optimizer_step >= self.hparams.adversarial_start:
            self._fit_discriminators(evidence)
        with self.training_ctx:
            total, terms = self.hparams.losses(evidence)
        if not torch.isfinite(total):
            values = " ".join(f"{name}={value.item():.3g}" for name, value in terms.items())
            raise UserError(
                f"step {self.optimizer_step + 1}: the loss is not finite ({values}); the last checkpoint is kept"
            )
        self._descend("codec", total)
        for scheduler in self.schedulers.values():  # the discriminators' goes on while they wait for their start
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r".*lr_scheduler.step\(\)` before.*")
                scheduler.step()
        self.optimizer_step += 1
        if self.mean is not None:
            self._average()
        self._count(wav, output.quantized.codes, {"total": total.detach(), **terms})
        self.idle_since = time.perf_counter()
        return total.detach()

    def _fit_discriminators(self, evidence):
        """One step of the discriminators; leaves their answers on both signals in `evidence`."""
        discriminators = self.modules.discriminators
        wav, wav_hat = self._judged_part(evidence.wav, evidence.output.wav_hat)
        with self.training_ctx:
            loss = self.hparams.discriminator_loss(discriminators(wav), discriminators(wav_hat.detach()))
        self._descend("discriminators", loss)
        self.sums["disc"] += loss.item()
        # frozen, the codec's turn neither computes nor leaves gradients in them
        plain = self._plain("discriminators")
        plain.requires_grad_(False)
        with self.training_ctx:
            with torch.no_grad():
                evidence.real = plain(wav)
            evidence.fake = plain(wav_hat)
        plain.requires_grad_(True)

    def _judged_part(self, *signals):
        """The same random stretch of `adversarial_segment` seconds of each signal (0: all of it)."""
        length = round(self.hparams.adversarial_segment * self.hparams.sample_rate)
        spare = signals[0].shape[-1] - length
        if not length or spare <= 0:
            return signals
        start = int(torch.randint(spare + 1, ()))
        return [signal[..., start : start + length] for signal in signals]

    def _descend(self, name, loss):
        optimizer = self.optimizers_dict[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.hparams.clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.params[name], self.hparams.clip_norm)
            self.sums[f"grad_{name}"] += norm.item()
        optimizer.step()

    @torch.no_grad()
    def _average(self):
        """One step of the running mean of the codec's weights; it forgets faster at first."""
        codec, step = self._plain("codec"), self.optimizer_step
        new = 1 - min(self.hparams.ema_decay, step / (10 + step))
        pairs = zip(self.mean.parameters(), codec.parameters(), strict=True)
        mean, now = zip(*[(m, p) for m, p in pairs if p.requires_grad], strict=True)
        torch._foreach_lerp_(mean, now, new)
        for mine, theirs in zip(self.mean.buffers(), codec.buffers(), strict=True):
            mine.copy_(theirs)

    # ---- what is logged

    def _start_counting(self):
        self.sums, self.code_counts, self.counted, self.seconds = defaultdict(float), 0, 0, 0.0
        self.waited, self.counting_since = 0.0, time.perf_counter()
        self.idle_since = self.counting_since

    def _count(self, wav, codes, terms):
        hp = self.hparams
        for name, value in terms.items():
            self.sums[name] += value.item()
        self.code_counts = self.code_counts + count_codes(codes, hp.codebook_size)
        self.counted += 1
        self.seconds += wav.shape[0] * wav.shape[-1] / hp.sample_rate
        if self.optimizer_step % hp.log_steps == 0:
            self._log()

    def _log(self):
        hp, step = self.hparams, self.optimizer_step
        took = time.perf_counter() - self.counting_since
        perplexity, usage = perplexity_and_usage(self.code_counts)
        values = {name: value / self.counted for name, value in self.sums.items()}
        values |= {"lr": self.optimizers_dict["codec"].param_groups[0]["lr"], "speech_per_second": self.seconds / took}
        values |= {"perplexity": perplexity.min().item(), "usage": usage.min().item(), "wait": self.waited / took}
        if if_main_process():
            self.journal.scalars(step, "train", values)
            left = (hp.total_steps - step) * took / self.counted
            self.journal.say(
                f"step {step}/{hp.total_steps}  total {values['total']:.3f}  mel {values.get('mel', 0):.3f}  "
                f"perplexity {values['perplexity']:.0f}/{hp.codebook_size}  {values['speech_per_second']:.1f} s of "
                f"speech/s  ETA {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
            )
        if step > hp.collapse_after and values["perplexity"] < hp.min_perplexity:
            raise UserError(
                f"step {step}: the codebook has collapsed (perplexity {perplexity.min():.2f} of {hp.codebook_size}); "
                "try a lower lr, codebook_update: ema, or a smaller restart_after"
            )
        self._start_counting()

    # ---- validation

    def on_stage_start(self, stage, epoch):
        self.valid_sums, self.valid_count, self.example = defaultdict(float), 0, None

    def evaluate_batch(self, batch, stage):
        wav, prompt = batch[0].to(self.device), batch[1].to(self.device)
        codec = self.modules.codec if self.mean is None else self.mean
        with self.evaluation_ctx:
            output = codec(wav, prompt)
            total, terms = self.hparams.losses(Evidence(wav, output))
        for name, value in {"total": total, **terms}.items():
            self.valid_sums[name] += float(value)
        self.valid_count += 1
        if self.example is None:
            self.example = wav[0].cpu(), output.wav_hat[0].float().cpu()
        return total

    def on_stage_end(self, stage, stage_loss, epoch):
        if stage != sb.Stage.VALID:
            return
        values = {name: value / self.valid_count for name, value in self.valid_sums.items()}
        step, hp = self.optimizer_step, self.hparams
        score = values[hp.score]
        if if_main_process():
            self.journal.scalars(step, "valid", values)
            self.journal.say(
                f"epoch {epoch}, step {step}: validation " + " ".join(f"{k} {v:.4f}" for k, v in values.items())
            )
            self.journal.speech(step, dict(zip(("reference", "decoded"), self.example, strict=True)), hp.sample_rate)
        self.checkpointer.save_and_keep_only(
            meta={**self.meta(), "score": score, "epoch": epoch},
            num_to_keep=hp.keep_checkpoints,
            importance_keys=[ckpt_recency],
            min_keys=["score"],
        )
        self._start_counting()  # validation and saving are not training time


def count_codes(codes, codebook_size):
    """How often each entry was sent: codes `[B, K, T]` -> `[K, codebook_size]` float."""
    return torch.stack([torch.bincount(k.flatten(), minlength=codebook_size) for k in codes.unbind(1)]).float().cpu()


def perplexity_and_usage(counts):
    """exp(entropy) of the codes and the share of entries used, both `[K]`, from counts `[K, codebook_size]`."""
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.special.entr(p).sum(1).exp(), (counts > 0).float().mean(1)
