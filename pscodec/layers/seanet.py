"""SEANet, the encoder and decoder of EnCodec, SoundStream and the codecs built on them.

Sources: Tagliasacchi et al., SEANet (2020); Zeghidour et al., SoundStream (2021), section III-A; Defossez et al.,
EnCodec (2022), section 3.1 and its public configuration (two LSTM layers, ELU, signals mirrored at their ends).
"""

import math

from torch import Tensor, nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.lstm import ResidualLSTM


class Convolutions:
    """How every convolution of one network is made: `causal` or not; `norm`: `weight`, or `time`, of all channels over
    the whole signal after each of them; `mode`: what lies beyond the ends, as in layers/conv."""

    def __init__(self, causal, norm, mode):
        if norm not in ("weight", "time"):
            raise ValueError(f"norm is weight or time, not {norm!r}")
        if causal and norm == "time":
            raise ValueError("a norm over time looks ahead, so the network cannot be causal")
        self.pad, self.norm, self.mode = ("causal" if causal else "same"), norm, mode

    def conv(self, i, o, kernel_size, stride=1, dilation=1, gain=1.0):
        options = {"pad": self.pad, "mode": self.mode, "weight_norm": self.norm == "weight", "gain": gain}
        return self._normed(conv(i, o, kernel_size, stride, dilation, **options), o)

    def upsample(self, i, o, stride):
        if self.norm == "weight":
            return upsample(i, o, stride, pad=self.pad)
        # as in the public code, the norm counts what is then cropped
        whole = upsample(i, o, stride, weight_norm=False, pad="causal")
        whole.crop = 0
        return self._normed(whole, o).append(Crop(stride - stride // 2, stride // 2))

    def _normed(self, layer, channels):
        return layer if self.norm == "weight" else nn.Sequential(layer, nn.GroupNorm(1, channels))


class Crop(nn.Module):
    """`[B, C, T]` without its first `left` and last `right` frames."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.left : x.shape[-1] - self.right]


class ResidualUnit(nn.Module):
    """Two convolutions, the first dilated, beside a shortcut. `[B, C, T]` -> `[B, C, T]`.

    `compress`: how much narrower it is between the two. `shortcut`: a 1x1 convolution (EnCodec), or nothing
    (SoundStream).
    """

    def __init__(self, make, channels, kernel_size=3, dilation=1, compress=2, shortcut=True):
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            make.conv(channels, channels // compress, kernel_size, dilation=dilation),
            nn.ELU(),
            make.conv(channels // compress, channels, 1, gain=0.7),  # what two branches add up to begins as large as x
        )
        # no ELU, which halves the signal, before it
        self.shortcut = make.conv(channels, channels, 1, gain=0.5) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class Encoder(nn.Module):
    """`wav` `[B, channels, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of the product of `strides`.

    `width` channels after the first convolution, doubled at every stride, kernels twice the strides; before each,
    `n_residual` units of dilation 1, `dilation_base`, its square ..., `unit` saying what else `ResidualUnit` is told;
    `n_lstm` LSTM layers (0: none) at the end.
    """

    def __init__(
        self,
        latent_dim=128,
        width=32,
        strides=(2, 4, 5, 8),
        n_residual=1,
        n_lstm=2,
        causal=True,
        norm="weight",
        mode="reflect",
        channels=1,
        dilation_base=2,
        unit=None,
    ):
        super().__init__()
        self.hop_length, self.channels = math.prod(strides), channels
        make = Convolutions(causal, norm, mode)
        layers = [make.conv(channels, width, 7)]
        for stride in strides:
            layers += [ResidualUnit(make, width, dilation=dilation_base**i, **(unit or {})) for i in range(n_residual)]
            layers += [nn.ELU(), make.conv(width, 2 * width, 2 * stride, stride)]
            width *= 2
        layers += [ResidualLSTM(width, n_lstm)] if n_lstm else []
        self.layers = nn.Sequential(*layers, nn.ELU(), make.conv(width, latent_dim, 7))

    def forward(self, wav: Tensor) -> Tensor:
        return self.layers(wav).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, channels, T * product of strides]`: the `Encoder`'s mirror image.

    `width` channels before the last convolution, twice as many before every stride.
    """

    def __init__(
        self,
        latent_dim=128,
        width=32,
        strides=(8, 5, 4, 2),
        n_residual=1,
        n_lstm=2,
        causal=True,
        norm="weight",
        mode="reflect",
        channels=1,
        dilation_base=2,
        unit=None,
    ):
        super().__init__()
        self.hop_length, self.channels = math.prod(strides), channels
        make, width = Convolutions(causal, norm, mode), width * 2 ** len(strides)
        layers = [make.conv(latent_dim, width, 7)]
        layers += [ResidualLSTM(width, n_lstm)] if n_lstm else []
        for stride in strides:
            layers += [nn.ELU(), make.upsample(width, width // 2, stride)]
            width //= 2
            layers += [ResidualUnit(make, width, dilation=dilation_base**i, **(unit or {})) for i in range(n_residual)]
        last = make.conv(width, channels, 7, gain=0.1)  # no louder than speech at first
        self.layers = nn.Sequential(*layers, nn.ELU(), last)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).float()
