"""Separators at work: in the embedding of a frozen codec, or on waveforms."""

from torch import nn

from pscodec.downstream import masks
from pscodec.types import Separation


def join(separator, codec=None, quantise=False, masked=False, refiner=None):
    """The system of a `separator`, which says itself what it works on, and a `FrozenCodec` (None: no codec)."""
    if separator.domain == "embedding":
        return CodecSystem(separator, codec, quantise, masked, refiner)
    return WaveformSystem(separator, codec)


class CodecSystem(nn.Module):
    """Encoder, separator, decoder (fig. 1 of the embedding-loss paper).

    Where a waveform is asked for: `quantise`, whether embeddings pass the codebooks before the decoder; `masked`,
    whether the estimates are the mixture, masked by what is decoded (downstream.masks), or that itself; `refiner`,
    what corrects the masks (downstream.refiner): where there is one it alone is trained.
    """

    def __init__(self, separator, codec, quantise=False, masked=False, refiner=None):
        super().__init__()
        self.separator, self.codec, self.quantise, self.masked = separator, codec, quantise, masked
        self.refiner = refiner
        if refiner is not None:
            separator.requires_grad_(False)

    @property
    def parts(self):
        """What an experiment keeps, by name."""
        return {"separator": self.separator} | ({} if self.refiner is None else {"refiner": self.refiner})

    def forward(self, batch, domain):
        """`batch`: `mix` `[B, 1, L]`, `sources` `[B, S, L]` and their `lengths` `[B]`; from a cache come
        `z_mix`, `z_sources` and `frames`. `domain`: `embedding`, which needs no decoder, or `waveform`.

        Returns types.Separation.
        """
        in_embedding = domain == "embedding"
        if "z_mix" in batch:
            z_mix, z_sources, frames = batch["z_mix"], batch["z_sources"], batch["frames"]
        elif "z_sources" in batch:
            z_sources = batch["z_sources"]
            z_mix, _, frames = self.codec.embed(batch["mix"], None, batch["lengths"])
        else:
            sources = batch["sources"] if in_embedding else None
            z_mix, z_sources, frames = self.codec.embed(batch["mix"], sources, batch["lengths"])
        z_hat = self.separator(z_mix, frames)
        if in_embedding:
            return Separation(z_hat, z_sources, frames, z_mix)
        sources, scale = batch["sources"], self.codec.scale(batch["mix"])
        wav_hat = self.codec.decode(z_hat, {}, sources.shape[-1], scale, self.quantise)
        if self.masked:
            wav_hat = masks.masked(batch["mix"], wav_hat, self.codec.sample_rate, self.refiner)
        return Separation(wav_hat, sources, batch["lengths"], batch["mix"][:, 0])


class WaveformSystem(nn.Module):
    """A separator of waveforms; with a codec, of mixtures that went through it (section IV-D)."""

    def __init__(self, separator, codec=None):
        super().__init__()
        self.separator, self.codec = separator, codec

    @property
    def parts(self):
        return {"separator": self.separator}

    def forward(self, batch, domain="waveform"):
        """As `CodecSystem.forward`, for `waveform` alone."""
        mix = batch["mix"]
        if self.codec is not None:
            mix = self.codec.round_trip(mix, batch["lengths"]).detach()
        return Separation(self.separator(mix), batch["sources"], batch["lengths"], mix[:, 0])
