"""Pitch and voicing that a codec tells (models/source), judged by those of a pitch tracker."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pscodec.data.audio import resample
from pscodec.layers.source import HIGHEST, LOWEST

RATE = 16000  # of the tracker, Hz


class PitchLoss(nn.Module):
    """Mean absolute difference of the natural logarithms of pitches, over voiced frames, and `voicing` times the cross
    entropy of what is voiced. The first `items` of a batch (0: all) are tracked, by SwiftF0, in about a hundredth of
    their length on a CPU core. Pitches that a codec cannot tell, beyond layers/source's range, count as unvoiced.

    Raises ValueError where a codec tells no pitch.
    """

    def __init__(self, sample_rate, hop_length, voicing=0.2, items=4):
        super().__init__()
        self.sample_rate, self.hop_length = sample_rate, hop_length
        self.voicing, self.items = voicing, items
        self.tracker = None

    def forward(self, evidence):
        told = evidence.output.latents.get("pitch")
        if told is None:
            raise ValueError("PitchLoss: the codec tells no pitch (models/source)")
        log_f0, voicing = told[: self.items or None].unbind(1)
        f0, voiced = (
            torch.from_numpy(x).to(told) for x in self.track(evidence.wav[: self.items or None, 0], told.shape[2])
        )
        off = ((log_f0 - f0.log()).abs() * voiced).sum() / voiced.sum().clamp(min=1)
        return off + self.voicing * F.binary_cross_entropy_with_logits(voicing, voiced)

    def track(self, wav, n_frames):
        """`wav` `[B, L]` -> pitches in Hz, and 1 where they are voiced, 0 elsewhere, `[B, n_frames]` each."""
        if self.tracker is None:
            from swift_f0 import SwiftF0

            self.tracker = SwiftF0(threads=1, spin=False)
        places, found = (np.arange(n_frames) + 0.5) * self.hop_length / self.sample_rate, []
        with torch.autocast("cpu", enabled=False):
            signals = resample(wav.detach().float().cpu(), self.sample_rate, RATE).numpy()
        for signal in signals:
            result = self.tracker.detect(signal, RATE)
            f0 = np.interp(places, result.timestamps, result.pitch_hz)
            sure = np.interp(places, result.timestamps, result.confidence) > 0.5
            found.append((f0.clip(LOWEST, HIGHEST), sure & (f0 > LOWEST) & (f0 < HIGHEST)))
        return (np.stack(part).astype(np.float32) for part in zip(*found, strict=True))
