"""The GAN step of every codec: discriminators, then codec. Knows names, not classes."""

import math
import os
import shutil
import time
import warnings
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.averaging import WeightMean
from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.brains.plan import Planner
from pscodec.types import Evidence
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError


class CodecBrain(Loop):
    """Trains `modules.codec` against `modules.discriminators`; a batch is (`wav` `[B, C, L]`, `Prompt`).

    hparams: `losses` (losses.base.WeightedSum), `discriminator_loss` (real, fake -> scalar), the constructors
    `codec_optimizer`, `discriminator_optimizer`, `scheduler`, `discriminator_scheduler`, `one_cycle` (for `schedule:
    one_cycle`), and the scalars that conf/base.yaml explains.

    Several processes average their gradients once a step (`_step`). What a step leaves to chance is drawn before it
    (brains/plan.py) and told to the modules before each pass.
    """

    def meta(self):
        return {**super().meta(), "plan": True}  # older programs drew otherwise

    def _wrap_distributed(self):
        # not DistributedDataParallel: it averages at the end of every backward pass, for all that have gradients,
        # where a step here has several passes, each for some of the parameters
        if torch.distributed.is_initialized():
            for value in self.modules.state_dict().values():
                torch.distributed.broadcast(value, 0)

    def init_optimizers(self):
        hp = self.hparams
        if hp.update not in ("alternating", "simultaneous"):
            raise UserError(f"update is alternating or simultaneous, not {hp.update!r}")
        params = {name: [p for p in m.parameters() if p.requires_grad] for name, m in self.modules.items()}
        self.params = {name: p for name, p in params.items() if p}
        optimizers = {"codec": hp.codec_optimizer, "discriminators": hp.discriminator_optimizer}
        schedulers = {"codec": hp.scheduler, "discriminators": hp.discriminator_scheduler}
        if hp.schedule not in ("own", "one_cycle"):
            raise UserError(f"schedule is own or one_cycle, not {hp.schedule!r}")
        if hp.schedule == "one_cycle":
            schedulers = dict.fromkeys(schedulers, hp.one_cycle)
        self.optimizers_dict = {name: optimizers[name](p) for name, p in self.params.items()}
        try:
            self.schedulers = {name: schedulers[name](optimizer) for name, optimizer in self.optimizers_dict.items()}
        except (ValueError, ZeroDivisionError) as error:  # OneCycleLR's way to say that a way up of one step is none
            raise UserError(f"no schedule of the learning rate fits {hp.total_steps} steps ({error})") from None
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"optimizer_{name}", optimizer)
            self.checkpointer.add_recoverable(f"scheduler_{name}", self.schedulers[name], **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        if hp.losses.state_dict():  # a balancer's, say
            self.checkpointer.add_recoverable("losses", hp.losses, **PLAIN_STATE)
        self.mean = None
        if hp.ema_decay:
            self.mean = WeightMean(self.modules.codec, hp.ema_decay)
            self.checkpointer.add_recoverable("codec_mean", self.mean.average)
        if hp.torch_compile:
            self._compile_parts()
        self.planner = Planner(self.modules, hp)
        self._start_counting()

    def _compile_parts(self):
        """What a step spends its time in, without the quantizer, whose codebooks start and restart by themselves."""
        if str(self.device) == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
            raise UserError("torch_compile: true needs a C++ compiler (g++, clang++, or one that CXX names)")
        warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor)\..*")  # on what it leaves as it was
        codec = self.modules.codec
        for part in (codec.encoder, codec.decoder, self.modules.discriminators):
            part.compile(dynamic=False)  # in place: names in checkpoints stay

    def fit_batch(self, batch):
        self.waited += time.perf_counter() - self.idle_since
        wav, prompt = batch[0].to(self.device), batch[1].to(self.device)
        n_parts = self.hparams.accumulation
        plan = self.planner.draw(self.optimizer_step, self.world * len(wav), wav.shape[-1])
        parts = list(zip(wav.chunk(n_parts), prompt.chunk(n_parts), plan.parts(n_parts), strict=True))
        judged = "discriminators" in self.params and self.optimizer_step >= self.hparams.adversarial_start
        learn = judged and plan.discriminators_learn
        # the graph of a whole batch is kept from turn to turn; of several parts only one's fits into memory
        whole = self._code(*parts[0]) if n_parts == 1 else None
        if learn and self.hparams.update == "alternating":
            self._discriminator_step(parts, [whole.wav_hat.detach()] if whole else self._preview(parts))
            learn = False  # they have had their turn
        values, codes = defaultdict(float), []
        for part in parts:
            evidence = Evidence(part[0], whole or self._code(*part))
            if learn:
                self._judge_and_learn(evidence, part[2])
            elif judged:
                self._judge(evidence, part[2])
            for name, value in self._codec_backward(evidence).items():
                values[name] += value / n_parts
            if evidence.output.quantized is not None:
                codes.append(evidence.output.quantized.codes)
        if learn:
            self._step("discriminators")
        self._step("codec")
        for scheduler in self.schedulers.values():  # the discriminators' goes on while they wait for their start
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r".*lr_scheduler.step\(\)` before.*")
                scheduler.step()
        self.optimizer_step += 1
        if self.mean is not None:
            self.mean.update(self.optimizer_step)
        self._count(wav, codes, values)
        self.idle_since = time.perf_counter()
        return values["total"]

    def _code(self, wav, prompt, plan):
        """The codec's pass over a part of the batch."""
        self.planner.tell(plan)
        with self.training_ctx:
            return self.modules.codec(wav, prompt)

    def _preview(self, parts):
        """`wav_hat` of each part, by the random numbers of the codec's turn to come, which begins where this did."""
        devices = [torch.cuda.current_device()] if str(self.device).startswith("cuda") else []
        with torch.random.fork_rng(devices), torch.no_grad():
            return [self._code(*part).wav_hat for part in parts]

    def _discriminator_step(self, parts, wav_hats):
        """The discriminators' turn, of the alternating update."""
        for (wav, _, plan), wav_hat in zip(parts, wav_hats, strict=True):
            self.planner.tell(plan)
            self._discriminator_backward(wav, wav_hat, plan)
        self._step("discriminators")

    def _discriminator_backward(self, wav, wav_hat, plan, **backward):
        """Adds a part's gradients to the discriminators'. Returns their answers on both signals."""
        discriminators = self.modules.discriminators
        with self.training_ctx:
            real, fake = discriminators(wav[..., plan.stretch]), discriminators(wav_hat[..., plan.stretch])
            loss = self.hparams.discriminator_loss(real, fake)
        self._backward("discriminators", loss, **backward)
        self.sums["disc"] += loss.item() / self.hparams.accumulation
        return real, fake

    def _judge_and_learn(self, evidence, plan):
        """Simultaneous update: the answers that the discriminators learn from stay in `evidence` for the codec."""
        # one graph for two losses: `_backward` keeps each to its own parameters
        signals = evidence.wav, evidence.output.wav_hat
        real, evidence.fake = self._discriminator_backward(*signals, plan, retain_graph=True)
        evidence.real = real.detach()

    def _judge(self, evidence, plan):
        """Leaves the answers of discriminators that do not learn (now) on both signals in `evidence`."""
        discriminators = self.modules.discriminators
        # frozen, the codec's turn neither computes nor leaves gradients in them
        discriminators.requires_grad_(False)
        with self.training_ctx:
            with torch.no_grad():
                evidence.real = discriminators(evidence.wav[..., plan.stretch])
            evidence.fake = discriminators(evidence.output.wav_hat[..., plan.stretch])
        discriminators.requires_grad_(True)

    def _codec_backward(self, evidence):
        """Adds a part's gradients to the codec's. Returns the losses by name, `total` among them."""
        with self.training_ctx:
            total, terms = self.hparams.losses(evidence)
        if not torch.isfinite(total):
            values = " ".join(f"{name}={value.item():.3g}" for name, value in terms.items())
            raise UserError(
                f"step {self.optimizer_step + 1}: the loss is not finite ({values}); the last checkpoint is kept"
            )
        self._backward("codec", total)
        return {"total": total.detach(), **terms}

    def _backward(self, name, loss, **options):
        """Adds the gradients of a part of the batch, whose `loss` is a mean over its items."""
        (loss / self.hparams.accumulation).backward(inputs=self.params[name], **options)

    def _step(self, name):
        average_gradients(self.params[name])
        limit = self.hparams.clip_norm if name == "codec" else self.hparams.discriminator_clip_norm
        if limit:
            norm = torch.nn.utils.clip_grad_norm_(self.params[name], limit)
            self.sums[f"grad_{name}"] += norm.item()
        self.optimizers_dict[name].step()
        self.optimizers_dict[name].zero_grad(set_to_none=True)

    # ---- what is logged

    def _start_counting(self):
        self.sums, self.code_counts, self.counted, self.seconds = defaultdict(float), 0, 0, 0.0
        self.waited, self.counting_since = 0.0, time.perf_counter()
        self.idle_since = self.counting_since

    def _count(self, wav, codes, terms):
        hp = self.hparams
        for name, value in terms.items():
            self.sums[name] += value.item()
        if codes:
            quantizer = self.modules.codec.quantizer
            counts = count_codes(torch.cat(codes), quantizer.codebook_size, quantizer.n_q_choices[-1])
            self.code_counts = self.code_counts + counts
        self.counted += 1
        self.seconds += self.world * wav.shape[0] * wav.shape[-1] / hp.sample_rate
        if self.optimizer_step % hp.log_steps == 0:
            self._log()

    def _log(self):
        hp, step = self.hparams, self.optimizer_step
        took = time.perf_counter() - self.counting_since
        values = {name: value / self.counted for name, value in self.sums.items()}
        values |= {"lr": self.optimizers_dict["codec"].param_groups[0]["lr"], "speech_per_second": self.seconds / took}
        values["wait"] = self.waited / took
        perplexity, size = math.inf, self.modules.codec.codebook_size
        told = f"mel {values['mel']:.3f}  " if "mel" in values else ""
        if torch.is_tensor(self.code_counts):
            perplexities, usage = perplexity_and_usage(self.code_counts)
            perplexity = perplexities.min().item()
            values |= {"perplexity": perplexity, "usage": usage.min().item()}
            told += f"perplexity {perplexity:.0f}/{size}  "
        if if_main_process():
            self.journal.scalars(step, "train", values)
            left = (hp.total_steps - step) * took / self.counted
            self.journal.say(
                f"step {step}/{hp.total_steps}  total {values['total']:.3f}  "
                f"{told}{values['speech_per_second']:.1f} s of speech/s  "
                f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
            )
        if step > hp.collapse_after and perplexity < hp.min_perplexity:
            raise UserError(
                f"step {step}: the codebook has collapsed (perplexity {perplexity:.2f} of {size}); "
                "try a lower lr, codebook_update: ema, or a smaller restart_after"
            )
        self._start_counting()

    # ---- validation

    def on_stage_start(self, stage, epoch):
        self.hparams.losses.train(stage == sb.Stage.TRAIN)
        self.planner.tell(None)  # nothing of a training step is left to validation
        self.valid_sums, self.valid_count, self.example = defaultdict(float), 0, None

    def evaluate_batch(self, batch, stage):
        wav, prompt = batch[0].to(self.device), batch[1].to(self.device)
        codec = self.modules.codec if self.mean is None else self.mean.average
        with self.evaluation_ctx:
            output = codec(wav, prompt)
            total, terms = self.hparams.losses(Evidence(wav, output))
        for name, value in {"total": total, **terms}.items():
            self.valid_sums[name] += float(value.detach())
        self.valid_count += 1
        if self.example is None and output.wav_hat is not None:
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
            if self.example is not None:
                signals = dict(zip(("reference", "decoded"), self.example, strict=True))
                self.journal.speech(step, signals, hp.sample_rate)
        self.checkpointer.save_and_keep_only(
            meta={**self.meta(), "score": score, "epoch": epoch},
            num_to_keep=hp.keep_checkpoints,
            importance_keys=[ckpt_recency],
            min_keys=["score"],
        )
        self._start_counting()  # validation and saving are not training time


def average_gradients(params):
    """Replaces the gradients of `params` by their means over all processes, which have the same ones without any."""
    if not torch.distributed.is_initialized():
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    means = (flat / torch.distributed.get_world_size()).split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [mean.view(g.shape) for mean, g in zip(means, grads, strict=True)])


def count_codes(codes, codebook_size, n_q):
    """How often each entry was sent: codes `[B, K, T]`, K <= n_q -> `[n_q, codebook_size]` float, 0 for the others."""
    counts = torch.stack([torch.bincount(k.flatten(), minlength=codebook_size) for k in codes.unbind(1)]).float().cpu()
    return torch.nn.functional.pad(counts, (0, 0, 0, n_q - len(counts)))


def perplexity_and_usage(counts):
    """exp(entropy) of the codes and the share of entries used, `[K]` each, of those codebooks that were in use; counts
    `[n_q, codebook_size]`."""
    counts = counts[counts.sum(1) > 0]
    p = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(p).sum(1).exp(), (counts > 0).float().mean(1)
