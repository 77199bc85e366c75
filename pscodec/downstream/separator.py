"""Codecformer: speech separation in a codec's embedding of the mixture.

Sources: Yip et al., "Towards audio codec-based speech separation" (Interspeech 2024); Yip et al., "Speech Separation
using Neural Audio Codecs with Embedding Loss", fig. 2. Shapes: B batch, D latent_dim, T frames, C channels, S sources.
"""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pscodec.downstream.trunks import TCN, Transformer


class Codecformer(nn.Module):
    """Fig. 2: channel adapter, trunk, channel adapter, mask generator, mask gating.

    As in the paper (`output` mask, `trunk` transformer, unstandardised) it has 17.4 M parameters for a codec of 1024
    dimensions, 13.95 M for one of 512. Ours are the others:

    `output`: `mask` multiplies the mixture's embedding; `residual` adds to it. Most of an embedding's power is a
    constant of each channel, which a mask multiplies with all its errors.
    `trunk`: `transformer`, or `tcn`: dilated convolutions, with attention among them if `attend_every` says so.
    `activation` of the masks is the codec's own in the paper, so that the masked embeddings are distributed as its
    decoder expects: `snake` (DAC) or `elu` (EnCodec, SoundStream); `linear` has none.
    What the network sees, and what a residual is added to, is standardised by `statistics`, once they are set.
    """

    domain = "embedding"

    def __init__(
        self,
        latent_dim,
        n_src=2,
        channels=256,
        n_blocks=16,
        n_heads=8,
        hidden=1024,
        dropout=0.1,
        activation="elu",
        output="mask",
        trunk="transformer",
        position_offset=0,
        attend_every=0,
    ):
        super().__init__()
        self.statistics = Statistics(latent_dim)
        # the paper's 1 x 1 convolutions, with the channels innermost
        self.adapter = nn.Linear(latent_dim, channels, bias=False)
        if trunk == "transformer":
            self.trunk = Transformer(channels, n_blocks, n_heads, hidden, dropout, position_offset)
        elif trunk == "tcn":
            self.trunk = TCN(channels, n_blocks, n_heads, hidden, dropout, attend_every)
        else:
            raise ValueError(f"trunk is transformer or tcn, not {trunk!r}")
        self.norm = nn.LayerNorm(channels)
        if output == "mask":
            self.output = Mask(channels, latent_dim, n_src, activation)
        elif output == "residual":
            self.output = Residual(channels, latent_dim, n_src)
        else:
            raise ValueError(f"output is mask or residual, not {output!r}")

    def forward(self, z, frames=None):
        """`z` `[B, D, T]`, embeddings of mixtures -> `z_hat` `[B, S, D, T]`, of their sources.

        `frames` `[B]`: how many of each are not padding (None: all). What stands in the padding of the answer is of
        no meaning, and what stands in the padding of `z` changes nothing before it.
        """
        mask = None
        if frames is not None and bool((frames < z.shape[2]).any()):
            mask = torch.arange(z.shape[2], device=z.device) < frames[:, None]
        z = z.transpose(1, 2)
        features = self.norm(self.trunk(self.adapter(self.statistics.standardise(z)), mask))
        return self.output(features, z, self.statistics).permute(0, 2, 3, 1)


class Statistics(nn.Module):
    """Each channel's mean and deviation, in embeddings of mixtures and of their sources; 0 and 1 until they are set."""

    def __init__(self, latent_dim):
        super().__init__()
        for name in ("mix", "source"):
            self.register_buffer(f"{name}_mean", torch.zeros(latent_dim))
            self.register_buffer(f"{name}_std", torch.ones(latent_dim))

    def set(self, mixtures, sources):
        """Measure them: `mixtures` and `sources` are embeddings `[N, D]`, a row a frame."""
        for name, z in (("mix", mixtures), ("source", sources)):
            std, mean = torch.std_mean(z.double(), 0)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(std.clamp(min=1e-3 * std.mean()))  # a channel that says nothing

    def standardise(self, z):
        """Of mixtures, `[..., D]`."""
        return (z - self.mix_mean) / self.mix_std

    def to_source(self, z):
        """Standardised, `[..., D]` -> as sources are."""
        return z * self.source_std + self.source_mean


class Mask(nn.Module):
    """Channel adapter, mask generator and gating, act(act(value(x)) * sigmoid(gate(x))), of the paper's fig. 2.

    `features` `[B, T, C]` and `z` `[B, T, D]` -> `[B, T, S, D]`.
    """

    def __init__(self, channels, latent_dim, n_src, activation):
        super().__init__()
        self.n_src = n_src
        self.adapter = nn.Linear(channels, latent_dim, bias=False)
        self.masker = weight_norm(nn.Linear(latent_dim, latent_dim * n_src, bias=False))
        self.value, self.gate = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)
        self.inner, self.outer = _activation(activation, latent_dim), _activation(activation, latent_dim)

    def forward(self, features, z, statistics):
        x = self.masker(self.adapter(features)).unflatten(2, (self.n_src, -1))
        return self.outer(self.inner(self.value(x)) * torch.sigmoid(self.gate(x))) * z.unsqueeze(2)


class Residual(nn.Module):
    """The standardised mixture plus a linear map of the features, small at the start, for each source.

    `features` `[B, T, C]` and `z` `[B, T, D]` -> `[B, T, S, D]`.
    """

    def __init__(self, channels, latent_dim, n_src):
        super().__init__()
        self.n_src = n_src
        self.linear = nn.Linear(channels, latent_dim * n_src)
        nn.init.normal_(self.linear.weight, std=0.1 * channels**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features, z, statistics):
        change = self.linear(features).unflatten(2, (self.n_src, -1))
        return statistics.to_source(statistics.standardise(z).unsqueeze(2) + change)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with an alpha for each channel (Ziyin et al., 2020). `[..., C]` -> `[..., C]`."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


def _activation(name, channels):
    if name == "snake":
        return Snake(channels)
    if name == "elu":
        return nn.ELU()
    if name == "linear":
        return nn.Identity()
    raise ValueError(f"activation is snake, elu or linear, not {name!r}")
