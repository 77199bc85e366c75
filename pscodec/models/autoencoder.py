"""An encoder and a decoder with nothing between them: the continuous space in which a diffusion model generates."""

import torch
from torch import Tensor, nn

from pscodec.models.base import Codec
from pscodec.types import CodecOutput, Prompt
from pscodec.utils.errors import UserError


class Autoencoder(Codec):
    """A codec that sends nothing, the continuous coding of LaDiffCodec (Yang et al., 2024, section 2.2)."""

    n_q, codebook_size = 0, 1

    def __init__(self, encoder, decoder, sample_rate=24000):
        super().__init__(encoder, None, decoder, sample_rate)

    def forward(self, wav: Tensor, prompt: Prompt | None = None) -> CodecOutput:
        z = self.encoder(wav)
        return CodecOutput(self.decoder(z), None, {"z": z})

    @torch.inference_mode()
    def encode(self, wav):
        raise UserError("an autoencoder without a quantizer has no codes to send")


class Waveform(nn.Module):
    """The waveform as its own latent, both ways: the diffusion is then of the waveform (table 1's first row)."""

    hop_length, channels = 1, 1

    def forward(self, wav: Tensor) -> Tensor:
        return wav
