"""LaDiffCodec: another codec's codes, decoded by a diffusion in the latent space of a continuous autoencoder.

Source: Yang et al., Generative de-quantization for neural speech codec via latent diffusion (2024), figure 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.conv import conv, upsample
from pscodec.models.base import Codec
from pscodec.models.sampling import Noise, Sampling, Schedule, sample
from pscodec.types import CodecOutput, Plan, Prompt
from pscodec.utils.errors import UserError


class LaDiffCodec(Codec):
    """`discrete`, a codec whose codes and side information are sent, `n_q` codebooks (None: all); `autoencoder`
    (models.autoencoder); between them `upsampler` and `unet` (layers.unet.UNet), which learn.

    Files are those of the discrete codec, by its fingerprint, and what it codes with other numbers of codebooks is
    refused. `loss`: l1 or l2 of the noise (eq. 3). `T`, `beta`: of the schedule. The autoencoder's latents are
    standardised by their means and deviations a channel, from the first `statistics` training steps.

    `sampling` says how it decodes. What is longer than `window` seconds is generated in windows that share `overlap`
    seconds with their neighbours, all at every step: in what two share, their predictions fade into one another
    (Bar-Tal et al., MultiDiffusion, 2023).
    Raises ValueError where the two codecs' rates do not fit, and for chunks.
    """

    plan: Plan | None = None

    def __init__(
        self,
        discrete,
        autoencoder,
        upsampler,
        unet,
        n_q=None,
        loss="l1",
        T=1000,
        beta=(1e-4, 0.02),
        statistics=100,
        window=10.0,
        overlap=2.0,
        sampling=None,
    ):
        nn.Module.__init__(self)  # its encoder is the one's, its decoder the other's
        self.discrete, self.autoencoder, self.upsampler, self.unet = discrete, autoencoder, upsampler, unet
        if discrete.chunk:
            raise ValueError("a codec of chunks, each at a level of its own, cannot be LaDiffCodec's discrete codec")
        if (discrete.sample_rate, discrete.channels) != (autoencoder.sample_rate, autoencoder.channels):
            raise ValueError("the discrete codec's sample rate or channels are not the autoencoder's")
        if discrete.hop_length != autoencoder.hop_length * upsampler.stride:
            frames = f"{discrete.hop_length} samples, the autoencoder's {autoencoder.hop_length}"
            raise ValueError(
                f"a frame of the discrete codec is {frames}, and the upsampler makes {upsampler.stride} of one"
            )
        if loss not in ("l1", "l2"):
            raise ValueError(f"loss is l1 or l2, not {loss!r}")
        self.discrete.quantizer.n_q = n_q
        self.trained_n_q, self.loss, self.statistics = self.n_q, loss, statistics
        self.sample_rate, self.channels, self.hop_length = discrete.sample_rate, discrete.channels, discrete.hop_length
        self.sees, self.side_of, self.side_sizes = discrete.sees, discrete.side_of, discrete.side_sizes
        self.schedule, self.sampling = Schedule(T, *beta), sampling or Sampling()
        rate = autoencoder.sample_rate / autoencoder.hop_length
        self.window, self.overlap = round(window * rate), round(overlap * rate)
        if not 0 <= 2 * self.overlap <= self.window:
            raise ValueError("windows overlap by at most a half")
        self.register_buffer("mean", torch.zeros(1, unet.last.out_channels, 1))
        self.register_buffer("variance", torch.ones(1, unet.last.out_channels, 1))
        self.register_buffer("counted", torch.tensor(0))  # training steps in the two
        self._parts = []  # latents of a step that has not ended

    encoder = property(lambda self: self.discrete.encoder)
    quantizer = property(lambda self: self.discrete.quantizer)
    decoder = property(lambda self: self.autoencoder.decoder)
    coded_by = property(lambda self: self.discrete)

    def side(self, prompt: Prompt | None) -> dict[str, Tensor]:
        return self.discrete.side(prompt)

    def no_side(self, z_q: Tensor) -> dict[str, Tensor]:
        return self.discrete.no_side(z_q)

    # ---- training

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        """The loss `diffusion` of the noise at one step of the schedule an item; no waveform."""
        with torch.no_grad():
            z = self.autoencoder.encoder(wav)
            standard = (z - self.mean) / self._deviation
            if self.training and self.counted < self.statistics:
                self._count(z)
            z_q = self.discrete.quantizer(self.discrete.encoder(wav)).z_q
            heard = self.discrete.fuse(z_q, self.discrete.side(prompt))
        t, noise = self._drawn(standard)
        found = self.unet(self.schedule.diffuse(standard, t, noise), t, self.upsampler(heard))
        loss = (F.l1_loss if self.loss == "l1" else F.mse_loss)(found, noise)
        return CodecOutput(latents={"z": standard}, losses={"diffusion": loss})

    def draw(self, rng, n_items: int) -> dict[str, Tensor]:
        """For a step's plan: the step of the schedule of each item, and the seed of its noise, `[n_items]` each."""
        t = torch.from_numpy(rng.integers(1, self.schedule.T + 1, n_items))
        return {"t": t, "noise": torch.from_numpy(rng.integers(1 << 62, size=n_items))}

    def _drawn(self, z):
        """Steps `[B]` and noise like `z`: the plan's; in validation steps at equal distances and always one noise."""
        n = len(z)
        if self.training and self.plan:
            t, seeds = self.plan.drawn["t"], self.plan.drawn["noise"].tolist()
        else:
            t, seeds = (torch.arange(n) * 2 + 1) * self.schedule.T // (2 * n) + 1, range(n)
        noise = torch.cat([Noise(seed, z[:1])() for seed in seeds])
        return t.to(z.device), noise

    def _count(self, z):
        """Take `z` into the means and variances of the channels, when the step ends, which may have several parts."""
        self._parts.append(z)
        if self.plan and not self.plan.ends_step:
            return
        z = torch.cat(self._parts)
        self._parts.clear()
        mean = _over_processes(z.mean((0, 2), keepdim=True))
        variance = _over_processes((z - mean).square().mean((0, 2), keepdim=True))
        share, off = 1 / (self.counted.item() + 1), mean - self.mean  # 1 at first: nothing is left of what stood there
        self.variance.lerp_(variance, share).add_(share * (1 - share) * off.square())
        self.mean.add_(share * off)
        self.counted += 1

    @property
    def _deviation(self):
        return self.variance.clamp(min=1e-8).sqrt()

    # ---- use

    @torch.inference_mode()
    def encode(self, wav: Tensor) -> Tensor:
        return self.discrete.encode(wav)

    @torch.inference_mode()
    def decode(self, codes: Tensor, side: dict[str, Tensor], n_samples: int | None = None) -> Tensor:
        if codes.shape[1] != self.trained_n_q:
            raise UserError(
                f"{codes.shape[1]} codes a frame; this LaDiffCodec has learned to decode {self.trained_n_q}"
            )
        return super().decode(codes, side, n_samples)

    def synthesise(self, z_q: Tensor, side: dict[str, Tensor]) -> Tensor:
        z = self.generate(self.upsampler(self.discrete.fuse(z_q, side)))
        return self.autoencoder.decoder(z * self._deviation + self.mean)

    def generate(self, condition: Tensor, sampling: Sampling | None = None) -> Tensor:
        """Standardised latents for a `condition` `[B, D, T]`, which is also what midway-infilling begins with."""

        def denoise(x, t):
            steps = torch.full((len(x),), t, device=x.device)
            return self._windows(x, lambda part: self.unet(x[..., part], steps, condition[..., part]))

        return sample(denoise, condition, self.schedule, sampling or self.sampling)

    def _windows(self, x, function):
        """`function(slice)` of windows of the frames of `x`, one of all where they are few; neighbours fade."""
        length, step = x.shape[-1], self.window - self.overlap
        if length <= self.window:
            return function(slice(None))
        total, weights = torch.zeros_like(x), x.new_zeros(length)
        for start in range(0, length - self.overlap, step):
            part = slice(max(0, min(start, length - self.window)), min(start + self.window, length))
            n = part.stop - part.start
            fade = (torch.arange(n, device=x.device) + 1) / (self.overlap + 1)
            weight = torch.minimum(fade, fade.flip(0)).clamp(max=1)
            total[..., part] += weight * function(part)
            weights[part] += weight
        return total / weights


class Upsampler(nn.Module):
    """The discrete codec's frames at the latents' rate: `[B, i, T]` -> `[B, o, T * product of strides]`, each frame
    divided by its largest magnitude, so that it lies in [-1, 1] (section 3.1).

    A convolution, and a transposed one for each of `strides`.
    """

    def __init__(self, i, o, strides=()):
        super().__init__()
        self.stride = math.prod(strides)
        layers = [conv(i, o, 7, weight_norm=False, gain=0.7)]
        for stride in strides:
            layers += [nn.SiLU(), upsample(o, o, stride, weight_norm=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x).float()
        return x / x.abs().amax(1, keepdim=True).clamp(min=1e-5)


def _over_processes(x):
    """The mean of `x` over all training processes."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x
