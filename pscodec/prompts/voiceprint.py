"""VPP-Enc: the voiceprint of the prompt, by a frozen CAM++ and a learned MLP. PSCodec, section III-A.2, eq. (2)."""

import torch
from torch import nn


class VPPEnc(nn.Module):
    """`prompt` -> `z_vp` `[B, latent_dim, 1]`. A prompt that brings its `voiceprint` `[B, 192]` skips CAM++."""

    def __init__(self, campplus, latent_dim=512, embedding_dim=192, hidden=1024):
        super().__init__()
        self.campplus = campplus
        self.mlp = nn.Sequential(nn.Linear(embedding_dim, hidden), nn.ReLU(), nn.Linear(hidden, latent_dim))

    def forward(self, prompt):
        voiceprint = prompt.voiceprint
        if voiceprint is None:
            with torch.no_grad():
                voiceprint = self.campplus(prompt.fbank)
        # CAM++ ends in a batch norm whose outputs are not of unit length; its metric is the cosine
        return self.mlp(nn.functional.normalize(voiceprint.float(), dim=1) * voiceprint.shape[1] ** 0.5).unsqueeze(2)
