"""SepFormer, the waveform baseline, from SpeechBrain's own parts.

Source: Subakan et al., "Attention is all you need in speech separation" (ICASSP 2021), section 2; sizes of
SpeechBrain's WSJ0-2mix recipe, 25.7 M parameters. Shapes: B batch, L samples, S sources.
"""

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import Decoder, Dual_Path_Model, Encoder, SBTransformerBlock
from torch import nn


class SepFormer(nn.Module):
    """Learned encoder, dual-path transformer masks, learned decoder. It has no padding mask: the longest item of a
    batch decides what its shorter ones see, so that mixtures are separated one by one.

    `filters` of `kernel_size` samples, half overlapping; chunks of `chunk` frames; `n_layers` dual-path blocks of
    `n_blocks` transformer layers within and as many across the chunks.
    """

    domain = "waveform"

    def __init__(
        self,
        n_src=2,
        filters=256,
        kernel_size=16,
        chunk=250,
        n_layers=2,
        n_blocks=8,
        n_heads=8,
        hidden=1024,
        dropout=0.0,
    ):
        super().__init__()
        self.n_src = n_src
        self.encoder = Encoder(kernel_size, filters)
        within, across = (
            SBTransformerBlock(
                n_blocks, filters, n_heads, hidden, dropout=dropout, use_positional_encoding=True, norm_before=True
            )
            for _ in range(2)
        )
        self.masker = Dual_Path_Model(
            filters,
            filters,
            within,
            across,
            n_layers,
            norm="ln",
            K=chunk,
            num_spks=n_src,
            skip_around_intra=True,
            linear_layer_after_inter_intra=False,
        )
        self.decoder = Decoder(filters, 1, kernel_size, stride=kernel_size // 2, bias=False)

    def forward(self, mix):
        """`mix` `[B, 1, L]` -> `[B, S, L]`."""
        length = mix.shape[-1]
        hop = self.decoder.stride[0]
        mix = F.pad(mix[:, 0], (0, max(2 * hop - length, -length % hop)))
        features = self.encoder(mix)
        masked = self.masker(features) * features  # [S, B, filters, T]
        wav = nn.ConvTranspose1d.forward(self.decoder, masked.flatten(0, 1))  # SpeechBrain's drops a batch of one
        return torch.stack(wav[..., :length].squeeze(1).float().chunk(self.n_src), 1)
