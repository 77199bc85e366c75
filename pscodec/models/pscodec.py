"""PSCodec: a HifiCodec-like encoder, quantizer and decoder, helped by two prompt encoders.

Source: Pan et al., PSCodec, section III: fig. 2 (Base, and DRL-ICT, which trains the same model differently).
"""

from pscodec.models.base import Codec
from pscodec.types import CodecOutput


class PSCodec(Codec):
    """The parts are built elsewhere (YAML) and joined here as in fig. 2; a prompt encoder may be None (Table V)."""

    def __init__(self, encoder, quantizer, decoder, fusion, vpp_enc=None, melp_enc=None, sample_rate=24000):
        super().__init__()
        if encoder.hop_length != decoder.hop_length:
            raise ValueError(
                f"encoder strides give {encoder.hop_length} samples a frame, decoder strides {decoder.hop_length}"
            )
        self.sample_rate, self.hop_length = sample_rate, encoder.hop_length
        self.encoder, self.quantizer = encoder, quantizer
        self.vpp_enc, self.melp_enc = vpp_enc, melp_enc
        self.fusion, self.decoder = fusion, decoder

    def forward(self, wav, prompt):
        """`wav` `[B, 1, L]`, L a multiple of hop_length; latents z, z_q, z_vp, z_mel are kept for the losses."""
        z = self.encoder(wav)
        quantized = self.quantizer(z)
        side = self.side(prompt)
        wav_hat = self.synthesise(quantized.z_q, side)
        return CodecOutput(wav_hat, quantized, {"z": z, "z_q": quantized.z_q, **side})

    @property
    def needs_prompt(self):
        return self.vpp_enc is not None or self.melp_enc is not None

    def side(self, prompt):
        """The prompt as vectors: `z_vp` and `z_mel`, `[B, D, 1]` each, for those encoders that exist."""
        side = {}
        if self.vpp_enc is not None:
            side["z_vp"] = self.vpp_enc(prompt)
        if self.melp_enc is not None:
            side["z_mel"] = self.melp_enc(prompt.mel)
        return side

    def synthesise(self, z_q, side):
        return self.decoder(self.fusion(z_q, **side))
