"""APCodec: amplitude and phase spectra, coded and decoded side by side.

Source: Ai et al., APCodec (2024), figure 1 and section III; sizes and layout of its public code. It describes 48 kHz;
the sizes are keys.
"""

import torch
from torch import nn

from pscodec.layers.conv import conv, upsample
from pscodec.layers.convnext import ConvNeXtV2
from pscodec.layers.hifigan import LayerNorm
from pscodec.layers.spectrum import ComplexFrames, InverseSTFT, log_amplitude
from pscodec.models.base import Codec
from pscodec.types import CodecOutput


class APCodec(Codec):
    """`Encoder`, quantizer, `Decoder`. What the decoder says of amplitude and phase is kept for the losses."""

    activation = "gelu"

    def forward(self, wav, prompt=None):
        z = self.encoder(wav)
        quantized = self.quantizer(z)
        log_amplitude, phase = self.decoder.spectrum(quantized.z_q)
        wav_hat = self.decoder.inverse(torch.cat([log_amplitude, phase], 1))
        latents = {"z": z, "z_q": quantized.z_q, "log_amplitude": log_amplitude, "phase": phase}
        return CodecOutput(wav_hat, quantized, latents, {"quant": quantized.loss})


class Branch(nn.Module):
    """Convolution, norm, ConvNeXt v2 blocks, norm, a linear layer: `[B, i, F]` -> `[B, o, F]`."""

    def __init__(self, i, o, width, n_blocks, hidden, grn):
        super().__init__()
        self.embed, self.norm = conv(i, width, 7, weight_norm=False, gain=0.5), LayerNorm(width, eps=1e-6)
        self.blocks = nn.Sequential(*(ConvNeXtV2(width, hidden, grn=grn) for _ in range(n_blocks)))
        self.last_norm = LayerNorm(width, eps=1e-6)
        self.last = conv(width, o, 1, weight_norm=False, gain=0.7)

    def forward(self, x):
        return self.last(self.last_norm(self.blocks(self.norm(self.embed(x)))))


class Encoder(nn.Module):
    """`wav` `[B, 1, L]` -> `z` `[B, latent_dim, L / hop_length]`, L a multiple of hop_length = shift * ratio.

    Spectra every `shift` samples (FFT `n_fft`, window `win_length`), a `Branch` of `width` channels for log amplitudes
    and one for phases, each brought to half as many channels at every `ratio`-th of their frames.
    """

    def __init__(
        self, latent_dim=32, width=256, n_blocks=8, hidden=512, shift=40, ratio=8, n_fft=1024, win_length=320, grn=True
    ):
        super().__init__()
        self.hop_length = shift * ratio
        self.frames, bins = ComplexFrames(shift, n_fft, win_length), n_fft // 2 + 1
        self.amplitude, self.phase = (Branch(bins, width, width, n_blocks, hidden, grn) for _ in range(2))
        self.amplitude_down, self.phase_down = (conv(width, width // 2, 7, ratio, padding=3) for _ in range(2))
        self.last = conv(2 * (width // 2), latent_dim, 7, gain=0.7)

    def forward(self, wav):
        spectrum = self.frames(wav)
        amplitude = self.amplitude_down(self.amplitude(log_amplitude(spectrum)))
        phase = self.phase_down(self.phase(spectrum.angle()))
        return self.last(torch.cat([amplitude, phase], 1)).float()


class Decoder(nn.Module):
    """`z` `[B, latent_dim, T]` -> `wav_hat` `[B, 1, T * hop_length]`: the encoder's mirror image, and an inverse STFT.

    The phase is the angle of two outputs, so that it is wrapped by itself (parallel phase estimation).
    """

    def __init__(
        self, latent_dim=32, width=256, n_blocks=8, hidden=512, shift=40, ratio=8, n_fft=1024, win_length=320, grn=True
    ):
        super().__init__()
        self.hop_length, bins = shift * ratio, n_fft // 2 + 1
        self.first = conv(latent_dim, width, 7)
        self.amplitude_up, self.phase_up = (upsample(width, width, ratio) for _ in range(2))
        self.amplitude, self.phase = (Branch(width, width, width, n_blocks, hidden, grn) for _ in range(2))
        self.log_amplitude, self.real, self.imaginary = (conv(width, bins, 7, gain=0.3) for _ in range(3))
        self.inverse = InverseSTFT(shift, n_fft, win_length)

    def forward(self, z):
        return self.inverse(torch.cat(self.spectrum(z), 1))

    def spectrum(self, z):
        """Log amplitude and phase, `[B, n_fft // 2 + 1, T * ratio]` each, float32."""
        x = self.first(z)
        log_amplitude = self.log_amplitude(self.amplitude(self.amplitude_up(x)))
        phase = self.phase(self.phase_up(x))
        return log_amplitude.float(), torch.atan2(self.imaginary(phase).float(), self.real(phase).float())
