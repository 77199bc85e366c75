"""What every codec of the project is: waveforms to integers and back."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Codec(nn.Module):
    """An encoder, a quantizer, a decoder. Subclasses give `sample_rate`, `hop_length`, `encoder`, `quantizer` and

    - `side(prompt) -> dict` of the vectors `[B, D, 1]` sent once an utterance (empty for codecs without prompts),
    - `synthesise(z_q, side) -> wav_hat` `[B, 1, T * hop_length]`,
    - `forward(wav, prompt) -> CodecOutput`, the training pass.
    """

    sample_rate: int
    hop_length: int

    @property
    def n_q(self):
        return self.quantizer.n_q

    @property
    def codebook_size(self):
        return self.quantizer.codebook_size

    @property
    def frame_rate(self):
        """Latent frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def bitrate(self):
        """Nominal bit/s of the codes alone; what the side information adds is measured from the bytes."""
        return self.n_q * math.log2(self.codebook_size) * self.frame_rate

    def pad(self, wav):
        """Zeros at the end of `wav` `[B, 1, L]` up to whole frames, at least one."""
        length = max(1, -(-wav.shape[-1] // self.hop_length)) * self.hop_length
        return F.pad(wav, (0, length - wav.shape[-1]))

    @torch.inference_mode()
    def encode(self, wav):
        """`wav` `[B, 1, L]` at `sample_rate` -> codes `[B, K, ceil(L / hop_length)]` int64."""
        return self.quantizer(self.encoder(self.pad(wav))).codes

    @torch.inference_mode()
    def decode(self, codes, side, n_samples=None):
        """Codes `[B, K, T]` and `side(prompt)` -> `[B, 1, n_samples]` (None: all T * hop_length samples)."""
        return self.synthesise(self.quantizer.decode(codes), side)[..., :n_samples]

    @property
    def takes_prompt(self):
        """Whether a prompt changes anything."""
        return False

    def side(self, prompt):
        return {}

    def no_side(self, z_q):
        """What stands for an empty `side`, name -> `[B, D, 1]`, beside `z_q` `[B, D, T]`."""
        return {}
