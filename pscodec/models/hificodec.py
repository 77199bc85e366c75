"""HifiCodec, and in it the encoder and decoder that PSCodec and TiCodec build on.

Source: Yang et al., HiFi-Codec (2023) and its public 24 kHz configuration; the decoder is HiFi-GAN V1's generator.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.hifigan import MRF, SLOPE
from pscodec.models.base import Codec
from pscodec.models.public import parametrized, take


class HifiCodec(Codec):
    """Encoder, group-residual quantizer, decoder, and no prompt: the baseline of PSCodec's tables."""

    def load_public(self, states):
        """Take the weights that HifiCodec's authors' code writes: `states` has `encoder`, `quantizer`, `generator`.

        Raises ValueError where they do not fit this configuration (norm: group, weight norm in place), or the decoder
        has another slope than theirs before its last layer, which weights do not show.
        """
        if self.decoder.last_slope != SLOPE:
            raise ValueError(f"the public HifiCodec's decoder ends with a slope of {SLOPE} (last_slope)")
        n_kernels = len(self.encoder.mrfs[0].blocks)
        renamed = {}
        for part, ours in (("encoder", "encoder"), ("generator", "decoder"), ("quantizer", "quantizer")):
            for key, value in states[part].items():
                renamed[f"{ours}.{_from_public(key, n_kernels, part)}"] = value
        take(self, renamed, own=("idle", "started", "steps"))


def _from_public(key, n_kernels, part):
    """Name of a public weight in this project: flat lists of residual blocks and norms are grouped by scale here."""
    layer, *rest = key.split(".")
    if layer in ("resblocks", "normalize"):
        scale, place = divmod(int(rest.pop(0)), n_kernels)
        layer = f"mrfs.{scale}.{'blocks' if layer == 'resblocks' else 'norms'}.{place}"
    elif layer.startswith("quantizer_modules"):
        number = layer.removeprefix("quantizer_modules") or "1"
        return f"groups.{rest[0]}.layers.{int(number) - 1}.entries"
    elif layer == "ups" and part == "encoder":
        layer = "downs"
    name = ".".join([{"conv_pre": "first", "conv_post": "last"}.get(layer, layer), *rest])
    return parametrized(name)


class Encoder(nn.Module):
    """`wav` `[B, 1, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of the product of `strides`.

    `width` channels after the first convolution, doubled by every block; the kernels of the strided convolutions are
    twice their strides unless `down_kernels` says otherwise. The residual blocks mirror the decoder's: their `kernels`
    come in reverse order, which matters where a `norm` follows each of them.
    """

    def __init__(
        self,
        latent_dim=512,
        width=32,
        strides=(2, 4, 5, 8),
        down_kernels=None,
        kernels=(3, 7, 11),
        dilations=(1, 3, 5),
        norm="none",
    ):
        super().__init__()
        down_kernels = down_kernels or [2 * s for s in strides]
        self.hop_length = math.prod(strides)
        self.first = conv(1, width, 7)
        self.downs, self.mrfs = nn.ModuleList(), nn.ModuleList()
        for stride, kernel in zip(strides, down_kernels, strict=True):
            self.downs.append(conv(width, 2 * width, kernel, stride))
            width *= 2
            self.mrfs.append(MRF(width, kernels[::-1], dilations, norm))
        self.last = conv(width, latent_dim, 3, weight_norm=False)

    def forward(self, wav):
        return self.finish(self.blocks(self.first(wav)))

    def blocks(self, x, which=slice(None)):
        """The blocks that `which` says, one after another."""
        for down, mrf in list(zip(self.downs, self.mrfs, strict=True))[which]:
            x = mrf(down(F.leaky_relu(x, SLOPE)))
        return x

    def finish(self, x):
        return self.last(F.leaky_relu(x)).float()  # slope 0.01 here, as in the public code


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * product of strides]` in [-1, 1].

    `width` channels after the first convolution, halved by every block. `last_slope`: of the leaky ReLU before the last
    convolution: HiFi-GAN's is 0.01, torch's default; HifiCodec's public code says 0.1.
    """

    def __init__(
        self,
        latent_dim=512,
        width=512,
        strides=(4, 4, 4, 5),
        up_kernels=None,
        kernels=(3, 7, 11),
        dilations=(1, 3, 5),
        last_slope=0.01,
    ):
        super().__init__()
        self.last_slope = last_slope
        up_kernels = up_kernels or [2 * s for s in strides]
        self.hop_length = math.prod(strides)
        self.first = conv(latent_dim, width, 7)
        self.ups, self.mrfs = nn.ModuleList(), nn.ModuleList()
        for stride, kernel in zip(strides, up_kernels, strict=True):
            self.ups.append(upsample(width, width // 2, stride, kernel))
            width //= 2
            self.mrfs.append(MRF(width, kernels, dilations))
        self.last = conv(width, 1, 7, gain=0.1)

    def forward(self, z):
        return self.finish(self.blocks(self.first(z)))

    def blocks(self, x, which=slice(None)):
        """The blocks that `which` says, one after another."""
        for up, mrf in list(zip(self.ups, self.mrfs, strict=True))[which]:
            x = mrf(up(F.leaky_relu(x, SLOPE)))
        return x

    def finish(self, x):
        return torch.tanh(self.last(F.leaky_relu(x, self.last_slope)).float())
