"""The GAN step of every codec: discriminators, then codec. Knows names, not classes."""

import copy
import os
import shutil
import time
import warnings
from collections import defaultdict

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import ckpt_recency
from speechbrain.utils.distributed import if_main_process

from pscodec.brains.loop import PLAIN_STATE, Loop
from pscodec.types import Evidence
from pscodec.utils.checkpoint import RandomState
from pscodec.utils.errors import UserError


class CodecBrain(Loop):
    """Trains `modules.codec` against `modules.discriminators`; a batch is (`wav` `[B, 1, L]`, `Prompt`).

    hparams: `losses` (losses.base.WeightedSum), `discriminator_loss` (real, fake -> scalar), `codec_optimizer`,
    `discriminator_optimizer`, `scheduler` (constructors), and the scalars that conf/base.yaml explains.

    Several processes average their gradients once a step (`_step`). Modules of the codec with an attribute `ends_step`
    (quantizers) are told before each pass whether it is the last of its optimizer step.
    """

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
        constructors = {"codec": hp.codec_optimizer, "discriminators": hp.discriminator_optimizer}
        self.optimizers_dict = {name: constructors[name](p) for name, p in self.params.items()}
        self.schedulers = {name: hp.scheduler(optimizer) for name, optimizer in self.optimizers_dict.items()}
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"optimizer_{name}", optimizer)
            self.checkpointer.add_recoverable(f"scheduler_{name}", self.schedulers[name], **PLAIN_STATE)
        self.checkpointer.add_recoverable("random_state", RandomState())
        self.mean = None
        if hp.ema_decay:
            self.mean = copy.deepcopy(self.modules.codec).requires_grad_(False).eval()
            self.checkpointer.add_recoverable("codec_mean", self.mean)
        if hp.torch_compile:
            self._compile_parts()
        self.counting_steps = [m for m in self.modules.codec.modules() if hasattr(m, "ends_step")]
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
        parts = list(zip(wav.chunk(self.hparams.accumulation), prompt.chunk(self.hparams.accumulation), strict=True))
        judged = "discriminators" in self.params and self.optimizer_step >= self.hparams.adversarial_start
        stretch = self._stretch(wav.shape[-1])
        # the graph of a whole batch is kept from turn to turn; of several parts only one's fits into memory
        whole = self._code(*parts[0]) if len(parts) == 1 else None
        alternating = judged and self.hparams.update == "alternating"
        if alternating:
            self._fit_discriminators(parts, [whole.wav_hat.detach()] if whole else self._preview(parts), stretch)
        values, codes = defaultdict(float), []
        for i, part in enumerate(parts):
            evidence = Evidence(part[0], whole or self._code(*part, ends_step=i == len(parts) - 1))
            if judged:
                self._hear(evidence, stretch) if alternating else self._share(evidence, stretch)
            for name, value in self._learn_from(evidence).items():
                values[name] += value / len(parts)
            codes.append(evidence.output.quantized.codes)
        if judged and not alternating:
            self._step("discriminators")
        self._step("codec")
        for scheduler in self.schedulers.values():  # the discriminators' goes on while they wait for their start
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r".*lr_scheduler.step\(\)` before.*")
                scheduler.step()
        self.optimizer_step += 1
        if self.mean is not None:
            self._average()
        self._count(wav, torch.cat(codes), values)
        self.idle_since = time.perf_counter()
        return values["total"]

    def _code(self, wav, prompt, ends_step=True):
        for module in self.counting_steps:
            module.ends_step = ends_step
        with self.training_ctx:
            return self.modules.codec(wav, prompt)

    def _preview(self, parts):
        """`wav_hat` of each part, by the random numbers of the codec's turn to come, which begins where this did."""
        devices = [torch.cuda.current_device()] if str(self.device).startswith("cuda") else []
        with torch.random.fork_rng(devices), torch.no_grad():
            return [self._code(*part).wav_hat for part in parts]

    def _fit_discriminators(self, parts, wav_hats, stretch):
        """The discriminators' turn, of the alternating update."""
        for (wav, _), wav_hat in zip(parts, wav_hats, strict=True):
            self._teach(wav, wav_hat, stretch)
        self._step("discriminators")

    def _teach(self, wav, wav_hat, stretch, **backward):
        """Adds a part's gradients to the discriminators'. Returns their answers on both signals."""
        discriminators = self.modules.discriminators
        with self.training_ctx:
            real, fake = discriminators(wav[..., stretch]), discriminators(wav_hat[..., stretch])
            loss = self.hparams.discriminator_loss(real, fake)
        self._backward("discriminators", loss, **backward)
        self.sums["disc"] += loss.item() / self.hparams.accumulation
        return real, fake

    def _share(self, evidence, stretch):
        """Simultaneous update: the answers that the discriminators learn from stay in `evidence` for the codec."""
        # one graph for two losses: `_backward` keeps each to its own parameters
        real, evidence.fake = self._teach(evidence.wav, evidence.output.wav_hat, stretch, retain_graph=True)
        evidence.real = real.detach()

    def _hear(self, evidence, stretch):
        """Leaves the answers of the discriminators, which have had their turn, on both signals in `evidence`."""
        discriminators = self.modules.discriminators
        # frozen, the codec's turn neither computes nor leaves gradients in them
        discriminators.requires_grad_(False)
        with self.training_ctx:
            with torch.no_grad():
                evidence.real = discriminators(evidence.wav[..., stretch])
            evidence.fake = discriminators(evidence.output.wav_hat[..., stretch])
        discriminators.requires_grad_(True)

    def _learn_from(self, evidence):
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

    def _stretch(self, length):
        """What discriminators judge of `length` samples: `adversarial_segment` seconds at random (0: all), a slice.

        It is one stretch for the whole batch, whatever parts and processes it is dealt to.
        """
        judged = round(self.hparams.adversarial_segment * self.hparams.sample_rate)
        if not 0 < judged < length:
            return slice(None)
        start = int(torch.randint(length - judged + 1, ()))
        return slice(start, start + judged)

    def _backward(self, name, loss, **options):
        """Adds the gradients of a part of the batch, whose `loss` is a mean over its items."""
        (loss / self.hparams.accumulation).backward(inputs=self.params[name], **options)

    def _step(self, name):
        average_gradients(self.params[name])
        if self.hparams.clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.params[name], self.hparams.clip_norm)
            self.sums[f"grad_{name}"] += norm.item()
        self.optimizers_dict[name].step()
        self.optimizers_dict[name].zero_grad(set_to_none=True)

    @torch.no_grad()
    def _average(self):
        """One step of the running mean of the codec's weights; it forgets faster at first."""
        codec, step = self.modules.codec, self.optimizer_step
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
        self.seconds += self.world * wav.shape[0] * wav.shape[-1] / hp.sample_rate
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


def average_gradients(params):
    """Replaces the gradients of `params` by their means over all processes, which have the same ones without any."""
    if not torch.distributed.is_initialized():
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    means = (flat / torch.distributed.get_world_size()).split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [mean.view(g.shape) for mean, g in zip(means, grads, strict=True)])


def count_codes(codes, codebook_size):
    """How often each entry was sent: codes `[B, K, T]` -> `[K, codebook_size]` float."""
    return torch.stack([torch.bincount(k.flatten(), minlength=codebook_size) for k in codes.unbind(1)]).float().cpu()


def perplexity_and_usage(counts):
    """exp(entropy) of the codes and the share of entries used, both `[K]`, from counts `[K, codebook_size]`."""
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.special.entr(p).sum(1).exp(), (counts > 0).float().mean(1)
