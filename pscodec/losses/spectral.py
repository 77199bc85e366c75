"""Reconstruction losses: L_r of PSCodec, eq. (8), whose two terms are logged apart, and EnCodec's frequency domain."""

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.features import LogMel, magnitude


class WavL1(nn.Module):
    """Mean absolute difference of the waveforms."""

    def forward(self, evidence):
        return F.l1_loss(evidence.output.wav_hat.float(), evidence.wav)


class MultiMelL1(nn.Module):
    """Sum over window lengths (samples) of the mean absolute difference of log-Mel spectrograms.

    Hops are a quarter of the windows unless `hops` says otherwise; `n_mels` is one number, or one for each window. What
    lies below `floor` (magnitude of an unscaled STFT) in both signals counts as equal.
    """

    def __init__(self, sample_rate=24000, windows=(256, 512, 1024, 2048, 4096), n_mels=80, floor=1e-5, hops=None):
        super().__init__()
        hops = hops or [w // 4 for w in windows]
        n_mels = [n_mels] * len(windows) if isinstance(n_mels, int) else n_mels
        self.mels = nn.ModuleList(
            LogMel(sample_rate, *sizes, floor=floor) for sizes in zip(windows, hops, n_mels, strict=True)
        )

    def forward(self, evidence):
        return sum(F.l1_loss(mel(evidence.output.wav_hat), mel(evidence.wav)) for mel in self.mels)


class MultiMelL2(MultiMelL1):
    """The same with the mean squared difference (APCodec)."""

    def forward(self, evidence):
        return sum(F.mse_loss(mel(evidence.output.wav_hat), mel(evidence.wav)) for mel in self.mels)


class MultiSTFTL1(nn.Module):
    """Mean over window lengths (samples) of the mean absolute difference of log magnitudes, hops a quarter of them.

    Where a Mel band is wider than a pitch it still hears harmonics. `floor` as for `MultiMelL1`.
    """

    def __init__(self, windows=(512, 1024, 2048), floor=1e-5):
        super().__init__()
        self.windows, self.floor = windows, floor

    def forward(self, evidence):
        signals = evidence.output.wav_hat, evidence.wav
        distances = [F.l1_loss(*(self._log(signal, window) for signal in signals)) for window in self.windows]
        return sum(distances) / len(distances)

    def _log(self, signal, window):
        with torch.autocast(signal.device.type, enabled=False):
            return magnitude(signal, window, window // 4).clamp(min=self.floor).log()


class MultiMelL1LogL2(nn.Module):
    """Mean over window lengths s (samples) of the mean absolute difference of Mel spectrograms, and sqrt(s / 2) times
    the root mean squared one of their logarithms: 64 bands, hops of a quarter.

    Source: Zeghidour et al., SoundStream (2021), eqs. 4 and 5, with means for its sums, so that lengths say nothing.
    """

    def __init__(self, sample_rate=24000, windows=(64, 128, 256, 512, 1024, 2048), n_mels=64, floor=1e-5):
        super().__init__()
        self.mels = nn.ModuleList(LogMel(sample_rate, window, window // 4, n_mels, floor=floor) for window in windows)

    def forward(self, evidence):
        return sum(self._distance(mel, evidence) for mel in self.mels) / len(self.mels)

    def _distance(self, mel, evidence):
        made, wanted = (mel.mel(wav) for wav in (evidence.output.wav_hat, evidence.wav))
        logs = made.clamp(min=mel.floor).log() - wanted.clamp(min=mel.floor).log()
        root = logs.square().mean((-1, -2)).add(1e-12).sqrt()
        return (made - wanted).abs().mean() + (mel.n_fft / 2) ** 0.5 * root.mean()


class MultiMelL1L2(nn.Module):
    """Mean over window lengths (samples) of the distances of Mel spectrograms, L1 and L2.

    Source: Defossez et al., EnCodec (2022), eq. (1), alpha 1: 64 bands of a normalized STFT, hops of a quarter of the
    windows, and no logarithm. L1 is the mean absolute difference, L2 the root of an item's mean squared one, its
    mean over the batch, so that both are of one unit.
    """

    def __init__(self, sample_rate=24000, windows=(32, 64, 128, 256, 512, 1024, 2048), n_mels=64):
        super().__init__()
        self.mels = nn.ModuleList(LogMel(sample_rate, window, window // 4, n_mels) for window in windows)

    def forward(self, evidence):
        return sum(self._distance(mel, evidence) for mel in self.mels) / len(self.mels)

    def _distance(self, mel, evidence):
        difference = (mel.mel(evidence.output.wav_hat) - mel.mel(evidence.wav)).flatten(1) / mel.n_fft**0.5
        l2 = torch.linalg.vector_norm(difference, dim=1) / difference.shape[1] ** 0.5
        return difference.abs().mean() + l2.mean()
