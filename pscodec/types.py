"""What crosses a file boundary has a name.

Shapes: B batch, L samples, T latent frames, F feature frames, D latent_dim, K = n_q codes a frame.
"""

from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass
class Prompt:
    """What a codec sees of an utterance beside the one it codes: of the speaker, or another stretch of the same.

    `mel` `[B, 80, F']`: log-Mel at the codec's rate. `voiceprint` `[B, 192]`: CAM++'s output where it was computed
    beforehand; otherwise `fbank` `[B, 80, F]` (Kaldi, 16 kHz), from which the codec's own CAM++ computes it.
    `wav` `[B, C, L]` at the codec's rate, whole frames. A codec says which it wants (models.base.Codec.sees).
    """

    fbank: Tensor | None = None
    mel: Tensor | None = None
    voiceprint: Tensor | None = None
    wav: Tensor | None = None

    def to(self, device):
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)

    def chunk(self, n):
        """The items in `n` equal parts, a list."""
        parts = {k: v.chunk(n) for k, v in vars(self).items() if v is not None}
        return [replace(self, **{k: v[i] for k, v in parts.items()}) for i in range(n)]


@dataclass(frozen=True)
class Plan:
    """What a training step leaves to chance, drawn before its first forward pass (brains/plan.py).

    Modules with an attribute `plan` find it there in training, None before. `drawn`: what modules with a method
    `draw` have drawn, by name: a number for all, or one for each item of the batch `[B]`. `stretch`: the samples of
    each segment that discriminators judge. `discriminators_learn`: whether they do, in this step.
    `ends_step`: whether this pass is the step's last, where it takes several (gradient accumulation).
    """

    drawn: dict[str, int | Tensor] = field(default_factory=dict)
    stretch: slice = field(default_factory=lambda: slice(None))
    discriminators_learn: bool = True
    ends_step: bool = True

    def parts(self, n: int) -> list["Plan"]:
        """The plans of `n` passes over equal parts of the batch."""
        deals = {k: v.chunk(n) if isinstance(v, Tensor) else [v] * n for k, v in self.drawn.items()}
        return [replace(self, drawn={k: deal[i] for k, deal in deals.items()}, ends_step=i == n - 1) for i in range(n)]


@dataclass
class Quantized:
    """A quantizer's answer: `z_q` `[B, D, T]` (straight-through), `codes` `[B, K, T]` int64, `loss` scalar."""

    z_q: Tensor
    codes: Tensor
    loss: Tensor


@dataclass
class CodecOutput:
    """A codec's forward pass: `wav_hat` `[B, 1, L]` and the quantizer's answer, where it has them (a diffusion model
    has no waveform in training), latents for losses and figures, and the losses that it computed itself, by name."""

    wav_hat: Tensor | None = None
    quantized: Quantized | None = None
    latents: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Judged:
    """What discriminators say of one signal: `logits`, one tensor a sub-discriminator; `fmaps`, its layers; `weights`,
    how much the codec listens to each (None: 1)."""

    logits: list[Tensor]
    fmaps: list[list[Tensor]]
    weights: list[float] | None = None

    def __post_init__(self):
        self.weights = self.weights or [1.0] * max(len(self.logits), len(self.fmaps))

    def detach(self):
        fmaps = [[x.detach() for x in layers] for layers in self.fmaps]
        return Judged([x.detach() for x in self.logits], fmaps, self.weights)


@dataclass
class Evidence:
    """All that a loss may look at: the reference, the codec's output, and the discriminators on both."""

    wav: Tensor
    output: CodecOutput
    real: Judged | None = None
    fake: Judged | None = None


@dataclass
class Separation:
    """What a separator made of a batch of mixtures, and what it should have been.

    `estimates` and `targets`: embeddings `[B, S, D, T]` or waveforms `[B, S, L]`, S sources in an order of their own;
    `lengths` `[B]` int64: the frames or samples that are not padding; `mixture`: `[B, D, T]` or `[B, L]`.
    """

    estimates: Tensor
    targets: Tensor
    lengths: Tensor
    mixture: Tensor | None = None
