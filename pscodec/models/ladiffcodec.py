"""LaDiffCodec: another codec's codes, decoded by a diffusion in the latent space of a continuous autoencoder.

Source: Yang et al., Generative de-quantization for neural speech codec via latent diffusion (2024), figure 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.push_graph import Pushed
from pscodec.models.base import Codec
from pscodec.models.sampling import Noise, Sampling, Schedule, sample
from pscodec.types import CodecOutput, Plan, Prompt
from pscodec.utils.errors import UserError


class LaDiffCodec(Codec):
    """`discrete`, a codec whose codes and side information are sent, `n_q` codebooks (None: all); `autoencoder`
    (models.autoencoder); between them `upsampler` and `unet` (layers.unet.UNet), which learn.

    Files are those of the discrete codec, by its fingerprint, and what it codes with other numbers of codebooks is
    refused. `loss`: l1 or l2 of what the U-Net `predicts`: `noise` (eq. 3); or `velocity`, the noise less the signal,
    each in the other's share (Salimans and Ho, Progressive distillation, 2022, appendix D), which in much noise
    teaches it the signal, of which the noise tells hardly anything there. `T`, `beta`: of the schedule. The
    autoencoder's latents are standardised by what `statistics` training items show: each channel by its mean and
    deviation; or, where they have `latent_dim` channels and the U-Net fewer, so many of their principal components by
    theirs, the others left out: a U-Net cannot predict noise in more channels than it is wide. No farther than `limit`
    deviations is what sampling takes them to be, at any of its steps (0: anything), for from pure noise a small error
    of the noise is a large one of the signal.

    `sampling` says how it decodes. What is longer than `window` seconds is generated in windows that share `overlap`
    seconds with their neighbours, all at every step: in what two share, their predictions fade into one another
    (Bar-Tal et al., MultiDiffusion, 2023).
    Raises ValueError where the two codecs' rates do not fit, and for chunks.
    """

    plan: Plan | None = None
    piece = 10

    def __init__(
        self,
        discrete,
        autoencoder,
        upsampler,
        unet,
        n_q=None,
        loss="l1",
        predicts="noise",
        T=1000,
        beta=(1e-4, 0.02),
        statistics=64,
        latent_dim=None,
        limit=5.0,
        window=6.4,
        overlap=1.6,
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
        if predicts not in ("noise", "velocity"):
            raise ValueError(f"a U-Net predicts noise or velocity, not {predicts!r}")
        self.predicts = predicts
        self.discrete.quantizer.n_q = n_q
        self.trained_n_q, self.loss, self.statistics, self.limit = self.n_q, loss, statistics, limit
        self.sample_rate, self.channels, self.hop_length = discrete.sample_rate, discrete.channels, discrete.hop_length
        self.sees, self.side_of, self.side_sizes = discrete.sees, discrete.side_of, discrete.side_sizes
        self.schedule, self.sampling = Schedule(T, *beta), sampling or Sampling()
        self.window, self.shared = (round(seconds * autoencoder.frame_rate) for seconds in (window, overlap))
        if not 0 <= 2 * self.shared <= self.window:
            raise ValueError("windows overlap by at most a half")
        channels = latent_dim or unet.dim
        if unet.dim > channels:
            raise ValueError(
                f"a U-Net of {unet.dim} principal components (unet_dim) of {channels} latents (latent_dim)"
            )
        self.register_buffer("mean", torch.zeros(channels, 1))
        self.register_buffer("analysis", torch.eye(unet.dim, channels))
        self.register_buffer("synthesis", torch.eye(channels, unet.dim))

    encoder = property(lambda self: self.discrete.encoder)
    quantizer = property(lambda self: self.discrete.quantizer)
    decoder = property(lambda self: self.autoencoder.decoder)
    coded_by = property(lambda self: self.discrete)

    def side(self, prompt: Prompt | None) -> dict[str, Tensor]:
        return self.discrete.side(prompt)

    def no_side(self, z_q: Tensor) -> dict[str, Tensor]:
        return self.discrete.no_side(z_q)

    # ---- training

    def _standardised(self, z):
        with torch.autocast(z.device.type, enabled=False):  # little noise is less than bf16 can tell
            return self.analysis @ (z.float() - self.mean)

    @torch.no_grad()
    def observe(self, wav: Tensor):
        z = self.autoencoder.encoder(wav).transpose(1, 2).flatten(0, 1).double()
        mean, cov = z.mean(0), torch.atleast_2d(z.T.cov(correction=0))
        variances, axes = cov.diag(), torch.eye(len(mean)).to(cov)
        if self.unet.dim < len(mean):
            variances, axes = (found.flip(-1)[..., : self.unet.dim] for found in torch.linalg.eigh(cov))
        deviations = variances.clamp(min=1e-8).sqrt()
        self.mean.copy_(mean[:, None])
        self.analysis.copy_(axes.T / deviations[:, None])
        self.synthesis.copy_(axes * deviations)

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        """The loss `diffusion`, of what the U-Net predicts, at one step of the schedule an item; no waveform."""
        with torch.no_grad():
            z = self._standardised(self.autoencoder.encoder(wav))
            z_q = self.discrete.quantizer(self.discrete.encoder(wav)).z_q
            heard = self.discrete.fuse(z_q, self.discrete.side(prompt))
        t, noise = self._drawn(z)
        found = self.unet(self.schedule.diffuse(z, t, noise), t, self.upsampler(heard))
        wanted = noise if self.predicts == "noise" else self.schedule.diffuse(noise, t, -z)
        loss = (F.l1_loss if self.loss == "l1" else F.mse_loss)(found, wanted)
        return CodecOutput(latents={"z": z}, losses={"diffusion": loss})

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
        return self._spoken(self.synthesis @ z + self.mean)

    def _spoken(self, z):
        """The autoencoder's decoder on latents, `piece` seconds at once where it allows that."""
        frames = round(self.piece * self.autoencoder.frame_rate)
        if z.shape[-1] <= frames:
            return self.decoder(z)
        try:
            pushed = Pushed(self.autoencoder, self.decoder)
        except UserError:
            return self.decoder(z)
        pieces = z.split(frames, 2)
        return torch.cat([pushed.push(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)], 2)

    def generate(self, condition: Tensor, sampling: Sampling | None = None) -> Tensor:
        """Standardised latents for a `condition` `[B, D, T]`, which is also what midway-infilling begins with."""

        def denoise(x, t):
            steps = torch.full((len(x),), t, device=x.device)
            found = self._windows(x, lambda part: self.unet(x[..., part], steps, condition[..., part]))
            noise = self.schedule.diffuse(found, steps, x) if self.predicts == "velocity" else found
            return self.schedule.limited(x, noise, t, self.limit) if self.limit else noise

        return sample(denoise, condition, self.schedule, sampling or self.sampling)

    def _windows(self, x, function):
        """`function(slice)` of windows of the frames of `x`, one of all where they are few; neighbours fade."""
        length, step = x.shape[-1], self.window - self.shared
        if length <= self.window:
            return function(slice(None))
        total, weights = torch.zeros_like(x), x.new_zeros(length)
        for start in range(0, length - self.shared, step):
            part = slice(max(0, min(start, length - self.window)), min(start + self.window, length))
            n = part.stop - part.start
            fade = (torch.arange(n, device=x.device) + 1) / (self.shared + 1)
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
