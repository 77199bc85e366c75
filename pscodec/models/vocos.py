"""An encoder and a decoder at the rate of the frames: ConvNeXt blocks between a Mel spectrum and an inverse STFT.

Source of the decoder: Siuzdak, Vocos (2023), section 3; the encoder mirrors it. For training and use on CPUs: where
HifiCodec convolves at up to the sample rate, only the two Fourier transforms run faster than the codes here.
"""

from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.convnext import ConvNeXt
from pscodec.layers.hifigan import LayerNorm
from pscodec.layers.source import NoisePhases
from pscodec.layers.spectrum import InverseParts, InverseSTFT, MelFrames

PIECE = 10  # seconds at once (models/base): half as fast again as 2, for weights are most of what a layer reads


class Encoder(nn.Module):
    """`wav` `[B, 1, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of hop_length. Phases are not seen."""

    piece = PIECE

    def __init__(
        self,
        latent_dim=256,
        width=256,
        n_blocks=4,
        hidden=768,
        hop_length=320,
        sample_rate=24000,
        n_fft=1024,
        n_mels=100,
    ):
        super().__init__()
        self.hop_length = hop_length
        self.mel = MelFrames(sample_rate, hop_length, n_fft, n_mels)
        self.first = conv(n_mels, width, 7, weight_norm=False, gain=0.5)
        self.blocks = nn.Sequential(*(ConvNeXt(width, hidden) for _ in range(n_blocks)))
        self.norm = LayerNorm(width)
        self.last = conv(width, latent_dim, 3, weight_norm=False, gain=0.7)

    def forward(self, wav):
        return self.last(self.norm(self.blocks(self.first(self.mel(wav))))).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * hop_length]`.

    `noise`: two frequencies in Hz between which its phases give way to those of noise (layers/source), for a network
    that sees frames alone begins with the same ones in each: a buzz. None: all phases are its own.
    """

    piece = PIECE

    def __init__(
        self,
        latent_dim=256,
        width=320,
        n_blocks=8,
        hidden=960,
        hop_length=320,
        n_fft=1280,
        noise=None,
        sample_rate=24000,
    ):
        super().__init__()
        self.hop_length = hop_length
        self.first = conv(latent_dim, width, 7, weight_norm=False, gain=0.7)
        self.blocks = nn.Sequential(*(ConvNeXt(width, hidden) for _ in range(n_blocks)))
        self.norm = LayerNorm(width)
        self.last = conv(width, n_fft + 2, 1, weight_norm=False, gain=0.3)
        if noise is None:
            self.inverse = InverseSTFT(hop_length, n_fft)
        else:
            self.inverse = nn.Sequential(
                NoisePhases(hop_length, n_fft, sample_rate, *noise), InverseParts(hop_length, n_fft)
            )

    def forward(self, z):
        return self.inverse(self.last(self.norm(self.blocks(self.first(z)))))
