"""TiCodec: what does not change in an utterance is coded once, and the frames have that much less to say.

Source: Ren et al., Fewer-token neural speech codec with time-invariant codes (TiCodec, 2023), figure 1 and section 2;
sizes of its public configurations. Encoder, decoder and frame quantizer are HifiCodec's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.layers.conv import conv
from pscodec.layers.hifigan import SLOPE
from pscodec.models import hificodec
from pscodec.models.base import Codec
from pscodec.types import CodecOutput

TAP = 2  # blocks of the encoder before what does not change is taken out, and of the decoder before it is put back


class TiCodec(Codec):
    """Figure 1 (a): `tire` sees the output of the encoder's second block; its vector m, quantized by `group_quantizer`
    into a token a group, is added to every frame of the output of the decoder's second block.

    The tokens are those of the recording itself, sent once. Training codes the segment with its own m, and asks that
    another segment of the same utterance has the same (`consistency`, eq. 1; weight 0 is the paper's TiCodec without).
    Raises ValueError where m is not as wide as what it is added to.
    """

    sees = ("wav",)
    side_of = "self"

    def __init__(self, encoder, quantizer, decoder, tire, group_quantizer, sample_rate=24000):
        super().__init__(encoder, quantizer, decoder, sample_rate, tire=tire, group_quantizer=group_quantizer)
        self.side_sizes = {"time_invariant": group_quantizer.codebook_size}

    def forward(self, wav, prompt=None):
        """`prompt.wav` `[B, 1, L']`: another segment of the same utterance."""
        z, h = self.encoder.tapped(wav)
        m, z_q = self.tire(h), self.quantizer(z)
        m_q = self.group_quantizer(m)
        wav_hat = self.decoder(z_q.z_q, m_q.z_q)
        losses = {"quant": z_q.loss, "quant_m": m_q.loss, "consistency": self._consistency(m, prompt)}
        latents = {"z": z, "z_q": z_q.z_q, "m": m, "m_q": m_q.z_q}
        return CodecOutput(wav_hat, z_q, latents, losses)

    def _consistency(self, m, prompt):
        """Eq. 1; the second segment's m is a target, which learns nothing (section 2.3)."""
        with torch.no_grad():
            other = self.tire(self.encoder.tap(prompt.wav))
        return 1 - F.cosine_similarity(m, other, dim=1).mean()

    def side(self, prompt):
        """`time_invariant` `[B, groups]` of `prompt.wav`, the recording."""
        if prompt is None:
            return {}
        return {"time_invariant": self.group_quantizer(self.tire(self.encoder.tap(prompt.wav))).codes.squeeze(2)}

    def synthesise(self, z_q, side):
        tokens = side["time_invariant"]
        return self.decoder(z_q, self.group_quantizer.decode(tokens.unsqueeze(2)))

    def no_side(self, z_q):
        """The tokens of the first entries: a voice, but nobody's."""
        n_groups = self.group_quantizer.n_q
        return {"time_invariant": torch.zeros(len(z_q), n_groups, dtype=torch.long, device=z_q.device)}


class Encoder(hificodec.Encoder):
    """HifiCodec's, whose second block's output h `[B, 4 * width, L / (strides[0] * strides[1])]` can be had, too."""

    def tapped(self, wav):
        """`wav` `[B, 1, L]` -> z, as forward gives it, and h."""
        h = self.tap(wav)
        return self.finish(self.blocks(h, slice(TAP, None))), h

    def tap(self, wav):
        """`wav` `[B, 1, L]` -> h alone."""
        return self.blocks(self.first(wav), slice(TAP))


class TIRE(nn.Module):
    """Figure 1 (b), time-invariant representation extraction: h `[B, channels, T]` -> m `[B, out_channels, 1]`.

    Three convolutions, the mean over time, a linear layer. `norm`: `batch`, as the public code has it, brings every
    number of m to one scale, which the codebooks need; `none` is the figure's.
    """

    def __init__(self, channels=128, out_channels=128, hidden=64, norm="batch"):
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(f"norm is batch or none, not {norm!r}")
        widths = (channels, hidden, hidden, out_channels)
        self.convs = nn.ModuleList(
            conv(before, after, 3, bias=False, weight_norm=False)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.linear = nn.Linear(out_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels) if norm == "batch" else nn.Identity()

    def forward(self, h):
        h = h.float()
        for layer in self.convs:
            h = F.leaky_relu(layer(h), SLOPE)
        return self.norm(F.leaky_relu(self.linear(h.mean(2)).float(), SLOPE)).unsqueeze(2)


class Decoder(hificodec.Decoder):
    """HifiCodec's, to which m is added. `z` `[B, latent_dim, T]`, `m` `[B, width / 4, 1]` -> `[B, 1, L]`."""

    def forward(self, z, m):
        x = self.blocks(self.first(z), slice(TAP)) + m
        return self.finish(self.blocks(x, slice(TAP, None)))
