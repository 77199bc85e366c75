"""A trained codec as the place where something else happens: frozen, at the rate of the data, level apart.

Shapes: B batch, S sources, L samples, D latent_dim, T frames.
"""

import contextlib

import torch
import torch.nn.functional as F
import torchaudio
from torch import nn
from torch.nn.utils import parametrize

SILENCE = 2.0**-15  # a mixture whose peak is at most one step of 16-bit audio keeps its level


class FrozenCodec(nn.Module):
    """Takes over `codec` (models.base.Codec): no gradients for its weights, in eval mode whatever surrounds it does,
    its weight norms folded, which changes its state dict but not what it computes.

    `sample_rate`: of the signals that come and go (Hz); the codec works at its own. `normalise`: `peak` brings the
    mixture's peak to 0.95 and its sources by the same factor, so that they still add up; `none` leaves the level.
    """

    def __init__(self, codec, sample_rate, normalise="peak"):
        super().__init__()
        if normalise not in ("peak", "none"):
            raise ValueError(f"normalise is peak or none, not {normalise!r}")
        if codec.channels > 1 or codec.chunk:
            raise ValueError("separation needs a codec of one channel and without chunks")
        self.codec, self.sample_rate, self.normalise = codec, sample_rate, normalise
        for module in codec.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        codec.requires_grad_(False).eval()
        self.up = torchaudio.transforms.Resample(sample_rate, codec.sample_rate)
        self.down = torchaudio.transforms.Resample(codec.sample_rate, sample_rate)
        device = next(codec.parameters()).device
        self.to(device)
        with torch.inference_mode():
            self.latent_dim = codec.encoder(torch.zeros(1, 1, codec.hop_length, device=device)).shape[1]

    @property
    def hop_length(self):
        """Samples a frame at the codec's rate."""
        return self.codec.hop_length

    @property
    def frame_rate(self):
        return self.codec.frame_rate

    def train(self, mode=True):
        """Stay in eval mode, whatever `mode` a surrounding model is put into."""
        return super().train(False)

    def scale(self, mix):
        """The factor that `normalise` gives each mixture `[B, 1, L]` (padding does not matter): `[B, 1, 1]`."""
        peak = mix.abs().amax((1, 2), keepdim=True)
        loud = (peak > SILENCE) & (self.normalise == "peak")
        return torch.where(loud, 0.95 / peak.clamp(min=SILENCE), torch.ones_like(peak))

    @torch.no_grad()
    def embed(self, mix, sources=None, lengths=None):
        """Mixtures `[B, 1, L]` and their `sources` `[B, S, L]`, of true `lengths` `[B]` (None: L), through the encoder.

        Returns `z_mix` `[B, D, T]`, `z_sources` `[B, S, D, T]` (None without sources), both float32 and 0 in the
        padding, and `frames` `[B]`. Items of one length share a call; no item sees another's padding.
        """
        signals = mix if sources is None else torch.cat([mix, sources], 1)
        signals = signals * self.scale(mix)
        if lengths is None:
            lengths = torch.full((len(mix),), mix.shape[-1], device=mix.device)
        at_codec = -(-lengths * self.codec.sample_rate // self.sample_rate)
        frames = (-(-at_codec // self.hop_length)).clamp(min=1)
        z = signals.new_zeros(*signals.shape[:2], self.latent_dim, int(frames.max()))
        for length in torch.unique(lengths).tolist():
            chosen = lengths == length
            group = self.encode(signals[chosen, :, :length].flatten(0, 1).unsqueeze(1))
            z[chosen, :, :, : group.shape[-1]] = group.view(-1, z.shape[1], *group.shape[1:])
        return z[:, 0], (None if sources is None else z[:, 1:]), frames

    @torch.no_grad()
    def encode(self, wav):
        """`wav` `[B, 1, L]` at `sample_rate`, at the level that it has -> `[B, D, T]` float32."""
        with _full_precision(wav):
            wav = self.up(wav)
        return self.codec.encoder(self.codec.pad(wav)).float()

    def decode(self, z, side, n_samples, scale=None, quantise=False):
        """`z` `[B, S, D, T]` -> waveforms `[B, S, n_samples]` at `sample_rate`, float32.

        `side`: what `codec.side` made of prompts, one for each of the B * S embeddings, or {}. `scale` `[B, 1, 1]`
        is taken off again. `quantise` sends the embeddings through the codec's codebooks first.
        """
        flat = z.flatten(0, 1)
        if quantise:
            flat = self.codec.quantizer(flat).z_q
        wav = self.codec.synthesise(flat, side)
        with _full_precision(wav):
            wav = self.down(wav.float())[..., :n_samples]
        wav = F.pad(wav, (0, n_samples - wav.shape[-1])).view(*z.shape[:2], n_samples)
        return wav if scale is None else wav / scale

    def round_trip(self, wav, lengths=None, side=None, quantise=True):
        """Signals `[B, 1, L]` coded and decoded, `[B, 1, L]`."""
        z, _, _ = self.embed(wav, None, lengths)
        return self.decode(z.unsqueeze(1), side or {}, wav.shape[-1], self.scale(wav), quantise)


@contextlib.contextmanager
def _full_precision(x):
    """Resampling in bfloat16 would cost more of the signal than the codec does."""
    with torch.autocast(x.device.type, enabled=False):
        yield
