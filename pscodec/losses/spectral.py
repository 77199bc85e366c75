"""Reconstruction losses: L_r of PSCodec, eq. (8), whose two terms are logged apart."""

import torch.nn.functional as F
from torch import nn

from pscodec.features import LogMel


class WavL1(nn.Module):
    """Mean absolute difference of the waveforms."""

    def forward(self, evidence):
        return F.l1_loss(evidence.output.wav_hat.float(), evidence.wav)


class MultiMelL1(nn.Module):
    """Sum over window lengths (samples) of the mean absolute difference of log-Mel spectrograms.

    Hops are a quarter of the windows unless `hops` says otherwise. What lies below `floor` (magnitude of an unscaled
    STFT) in both signals counts as equal.
    """

    def __init__(self, sample_rate=24000, windows=(256, 512, 1024, 2048, 4096), n_mels=80, floor=1e-5, hops=None):
        super().__init__()
        hops = hops or [w // 4 for w in windows]
        self.mels = nn.ModuleList(
            LogMel(sample_rate, window, hop, n_mels, floor=floor) for window, hop in zip(windows, hops, strict=True)
        )

    def forward(self, evidence):
        return sum(F.l1_loss(mel(evidence.output.wav_hat), mel(evidence.wav)) for mel in self.mels)
