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


@dataclass
class Quantized:
    """A quantizer's answer: `z_q` `[B, D, T]` (straight-through), `codes` `[B, K, T]` int64, `loss` scalar."""

    z_q: Tensor
    codes: Tensor
    loss: Tensor


@dataclass
class CodecOutput:
    """A codec's forward pass: `wav_hat` `[B, 1, L]`, the quantizer's answer, named latents for losses and figures."""

    wav_hat: Tensor
    quantized: Quantized
    latents: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Judged:
    """What discriminators say of one signal: `logits`, one tensor a sub-discriminator; `fmaps`, its layers."""

    logits: list[Tensor]
    fmaps: list[list[Tensor]]

    def detach(self):
        return Judged([x.detach() for x in self.logits], [[x.detach() for x in layers] for layers in self.fmaps])


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
    `lengths` `[B]` int64: the frames or samples that are not padding.
    """

    estimates: Tensor
    targets: Tensor
    lengths: Tensor
