"""What every codec of the project is: waveforms to integers and back."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.models.sampling import Sampling
from pscodec.types import CodecOutput, Prompt


class Codec(nn.Module):
    """An encoder, a quantizer (quantizers.base.Quantizer) and a decoder; encoder and decoder know their `hop_length`.

    `parts`: what else a codec is made of, in the order of its paper's figure, between quantizer and decoder.
    A subclass whose decoder needs more than the codes says so in these, which everything that feeds a codec, writes
    files or exports it reads:

    - `sees`: what of an utterance it wants to be shown: `mel`, `voiceprint`, `wav` (types.Prompt has them),
    - `side_of`: of which utterance: another one of the `speaker`, the prompt; or of the one being coded, its `self`,
      of which training shows it another stretch,
    - `side_sizes`: what it sends once an utterance, name -> None, a vector of floats; or an int, tokens of so many
      entries,
    - `side(prompt)`, which computes that, `fuse(z_q, side)` or `synthesise(z_q, side)`, which make use of it, and
      `no_side(z_q)`, what stands for it where nothing is sent.

    `chunk`: samples that are coded at once, apart from all others and at a level of their own (`level`), which is sent;
    two neighbours share `overlap` of them (pscodec/chunks.py). 0: a recording is one whole.

    `sampling`: how it decodes (models.sampling.Sampling), where that is left to chance and seeded; None: it is not.

    Raises ValueError where encoder and decoder disagree about the samples of a frame, or channels.
    """

    sees: tuple[str, ...] = ()
    side_of = "speaker"
    side_sizes: dict[str, int | None] = {}
    frozen: tuple[str, ...] = ()
    chunk, overlap = 0, 0
    sampling: Sampling | None = None
    statistics = 0  # training items that `observe` is shown before the first step
    piece = 2  # seconds computed at once of what is at hand of a recording; longer ones cost memory and gain no speed
    activation = "leaky_relu"  # between its layers: leaky_relu | elu | gelu | snake

    def __init__(self, encoder, quantizer, decoder, sample_rate=24000, **parts):
        super().__init__()
        if encoder.hop_length != decoder.hop_length:
            raise ValueError(
                f"encoder strides give {encoder.hop_length} samples a frame, decoder strides {decoder.hop_length}"
            )
        self.channels, heard = (getattr(part, "channels", 1) for part in (encoder, decoder))
        if self.channels != heard:
            raise ValueError(f"{self.channels} channels in the encoder, {heard} in the decoder")
        self.sample_rate, self.hop_length = sample_rate, encoder.hop_length
        self.piece = min(getattr(part, "piece", self.piece) for part in (encoder, decoder))
        self.encoder, self.quantizer = encoder, quantizer
        for name, part in parts.items():
            setattr(self, name, part)
        self.decoder = decoder

    def freeze(self, parts: list[str]):
        """`parts`, by name, do not learn from now on: they have no gradients and stay in eval mode whatever the others
        are in, so that EMA codebooks and running means stand still. Raises ValueError for a part that is not there."""
        there = [name for name, _ in self.named_children()]
        if unknown := [name for name in parts if name not in there]:
            raise ValueError(f"frozen: the codec has no part {unknown[0]!r}; it has {' '.join(there)}")
        self.frozen = tuple(parts)
        for name in parts:
            self.get_submodule(name).requires_grad_(False)
        if "quantizer" in parts:
            self.quantizer.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        """The training pass. `wav` `[B, C, L]`, L a multiple of hop_length; the latents are kept for the losses."""
        z = self.encoder(wav)
        quantized = self.quantizer(z)
        side = self.side(prompt)
        wav_hat = self.synthesise(quantized.z_q, side)
        return CodecOutput(wav_hat, quantized, {"z": z, "z_q": quantized.z_q, **side}, {"quant": quantized.loss})

    def synthesise(self, z_q: Tensor, side: dict[str, Tensor]) -> Tensor:
        """`z_q` `[B, D, T]` and what `side` gave ({}: nothing was sent) -> `wav_hat` `[B, C, T * hop_length]`."""
        return self.decoder(self.fuse(z_q, side))

    def fuse(self, z_q: Tensor, side: dict[str, Tensor]) -> Tensor:
        """What the decoder is given of the codes and `side`: `[B, D, T]`."""
        return z_q

    @property
    def coded_by(self) -> nn.Module:
        """Whose weights decide what its codes mean: files carry the fingerprint of that."""
        return self

    def observe(self, wav: Tensor):
        """Keep what must be known of training data `wav` `[B, C, L]` before training."""

    @property
    def n_q(self) -> int:
        """Codebooks in use, of which a frame has a code each."""
        return self.quantizer.n_q

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def bitrate(self) -> float:
        """Nominal bit/s of the codes alone; what the side information adds is measured from the bytes."""
        return self.n_q * math.log2(self.codebook_size) * self.frame_rate

    def pad(self, wav: Tensor) -> Tensor:
        """Zeros at the end of `wav` `[B, C, L]` up to whole frames, at least one."""
        length = max(1, -(-wav.shape[-1] // self.hop_length)) * self.hop_length
        return F.pad(wav, (0, length - wav.shape[-1]))

    @torch.inference_mode()
    def encode(self, wav: Tensor) -> Tensor:
        """`wav` `[B, C, L]` at `sample_rate`, of a codec with chunks one of each, divided by its level -> codes
        `[B, K, ceil(L / hop_length)]` int64."""
        return self.quantizer(self.encoder(self.pad(wav))).codes

    @torch.inference_mode()
    def decode(self, codes: Tensor, side: dict[str, Tensor], n_samples: int | None = None) -> Tensor:
        """The inverse: codes and `side(prompt)` -> `[B, C, n_samples]` (None: all T * hop_length samples)."""
        return self.synthesise(self.quantizer.decode(codes), side)[..., :n_samples]

    @property
    def takes_prompt(self) -> bool:
        """Whether it sees another utterance of the speaker."""
        return bool(self.sees) and self.side_of == "speaker"

    def side(self, prompt: Prompt | None) -> dict[str, Tensor]:
        """What is sent once an utterance, name -> vectors `[B, D, 1]` or tokens `[B, N]` int64; {} for None."""
        return {}

    def no_side(self, z_q: Tensor) -> dict[str, Tensor]:
        """What stands for an empty `side`, name -> `[B, D, 1]`, beside `z_q` `[B, D, T]`."""
        return {}
