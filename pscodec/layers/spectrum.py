"""From waveform to frames and back by Fourier transforms, whole or piece by piece: the ends of a codec without strides.

Frame t of `n_fft` samples is centred on the hop_length samples t * hop_length ... (t + 1) * hop_length, so that
T * hop_length samples are T frames ("same" padding).
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from pscodec.features import RealFFT, dft, hann, magnitudes, mel_filters
from pscodec.layers.push import PushFrames, PushOverlap

LOUDEST = 6  # logarithm of an amplitude, of an unscaled STFT


def margin_of(n_fft, hop_length):
    """Samples by which a frame looks beyond its own hop, on each side."""
    if n_fft < hop_length or (n_fft - hop_length) % 2:
        raise ValueError(f"an STFT of {n_fft} samples has no middle {hop_length}")
    return (n_fft - hop_length) // 2


def amplitude_of(log_amplitude):
    """The amplitudes of natural logarithms that a network makes: at most exp(LOUDEST), whatever it says."""
    return log_amplitude.clamp(max=LOUDEST).exp()


class MelFrames(nn.Module):
    """`wav` `[B, 1, T * hop_length]` -> `[B, n_mels, T]`, the log-Mel spectrum, zeros around the waveform.

    Computed in float32 whatever the precision of what surrounds it; magnitudes below `floor` (of an unscaled STFT)
    are not told apart.
    """

    def __init__(self, sample_rate, hop_length, n_fft=1024, n_mels=100, floor=0.01):
        super().__init__()
        self.sample_rate, self.hop_length, self.n_fft = sample_rate, hop_length, n_fft
        self.n_mels, self.floor, self.margin = n_mels, floor, margin_of(n_fft, hop_length)

    def forward(self, wav):
        return self.frames(F.pad(wav, (self.margin, self.margin)))

    def frames(self, wav):
        """`wav` `[B, 1, (T - 1) * hop_length + n_fft]`, without padding -> `[B, n_mels, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            magnitude = magnitudes(wav.float()[:, 0], self.n_fft, self.hop_length)
            filters = _filters(self.n_fft, self.n_mels, self.sample_rate, wav.device)
            return (magnitude @ filters).clamp(min=self.floor).log().transpose(1, 2)

    def push_form(self):
        return PushFrames(self.frames, self.n_mels, self.hop_length, self.margin, self.n_fft)


class ComplexFrames(nn.Module):
    """`wav` `[B, 1, T * hop_length]` -> complex `[B, n_fft // 2 + 1, T]`, zeros around the waveform.

    The Hann window, of `win_length` samples (None: n_fft), stands in the middle of a frame. In float32.
    """

    def __init__(self, hop_length, n_fft=1024, win_length=None):
        super().__init__()
        self.hop_length, self.n_fft, self.win_length = hop_length, n_fft, win_length or n_fft
        self.margin = margin_of(n_fft, hop_length)

    def forward(self, wav):
        return self.transform(F.pad(wav, (self.margin, self.margin)))

    def transform(self, wav):
        """`wav` `[B, 1, (T - 1) * hop_length + n_fft]`, without padding."""
        with torch.autocast(wav.device.type, enabled=False):
            frames = wav.float()[:, 0].unfold(-1, self.n_fft, self.hop_length)
            return RealFFT.apply(frames * _window(self.n_fft, self.win_length, wav.device)).transpose(1, 2)

    def push_form(self):
        return PushFrames(self.transform, self.n_fft // 2 + 1, self.hop_length, self.margin, self.n_fft)


class InverseSTFT(nn.Module):
    """`[B, n_fft + 2, T]`, log amplitude and phase of each bin -> `wav` `[B, 1, T * hop_length]`.

    Windowed (Hann, of `win_length` samples in the middle of a frame; None: n_fft), overlapped and added, divided by
    what the windows add up to; in float32. Amplitudes end at exp(6), above
    full scale, so that no step of training can make them infinite. Source: Siuzdak, Vocos (2023), section 3.2.
    """

    def __init__(self, hop_length, n_fft=1280, win_length=None):
        super().__init__()
        self.hop_length, self.n_fft, self.margin = hop_length, n_fft, margin_of(n_fft, hop_length)
        self.win_length = win_length or n_fft

    def forward(self, x):
        sums = self.overlap(x)
        return _divided(sums[..., self.margin : sums.shape[-1] - self.margin])

    def overlap(self, x):
        """-> `[B, 2, (T - 1) * hop_length + n_fft]`: sums of the windowed frames, and of their windows' squares."""
        with torch.autocast(x.device.type, enabled=False):
            window = _window(self.n_fft, self.win_length, x.device)
            if torch.onnx.is_in_onnx_export():
                add = functools.partial(F.conv_transpose1d, stride=self.hop_length)
                wav = add(torch.cat(self.parts(x.float(), 1), 1), dft(self.n_fft, inverse=True)[:, None])
                return torch.cat([wav, add(torch.ones_like(x[:, :1]), window.square()[None, None])], 1)
            parts = self.parts(x.float().transpose(1, 2), 2)  # a frame's numbers are neighbours in memory
            frames = torch.fft.irfft(torch.complex(*parts), self.n_fft) * window  # [B, T, n_fft]
            squares = overlap_add(window.square().expand_as(frames[:1]), self.hop_length)
            wav = overlap_add(frames, self.hop_length)
            return torch.stack([wav, squares.expand_as(wav)], 1)

    @staticmethod
    def parts(x, axis):
        """Real and imaginary parts of the spectrum, n_fft // 2 + 1 bins each along `axis`."""
        amplitude, phase = x.chunk(2, axis)
        amplitude = amplitude_of(amplitude)
        return amplitude * phase.cos(), amplitude * phase.sin()

    def push_form(self):
        sizes = self.hop_length, self.margin, self.n_fft
        return PushOverlap(self.overlap, 2, *sizes, end=-self.margin, finish=_divided)


class InverseParts(InverseSTFT):
    """The same of real parts `[B, n_fft // 2 + 1, T]` and imaginary ones, one after the other."""

    @staticmethod
    def parts(x, axis):
        return x.chunk(2, axis)


def log_amplitude(spectrum, floor=1e-5):
    """The logarithm of a complex spectrum's amplitudes, to which `floor` is added."""
    return (spectrum.abs() + floor).log()


def overlap_add(frames, hop_length):
    """Frames `[B, T, N]`, each hop_length after the one before, summed: `[B, (T - 1) * hop_length + N]`.

    As many sums of shifted hops as a frame has: `F.fold` wants the frames transposed, there and back.
    """
    n_frames, length = frames.shape[1:]
    n_hops = -(-length // hop_length)
    hops = F.pad(frames, (0, n_hops * hop_length - length)).unflatten(2, (n_hops, hop_length))
    total = sum(F.pad(hops[:, :, i], (0, 0, i, n_hops - 1 - i)) for i in range(n_hops))
    return total.flatten(1)[:, : (n_frames - 1) * hop_length + length]


def _window(n_fft, win_length, device):
    """A Hann window of `win_length` in the middle of `n_fft` samples."""
    rest = n_fft - win_length
    return F.pad(hann(win_length, device), (rest // 2, rest - rest // 2)) if rest else hann(n_fft, device)


def _divided(sums):
    return sums[:, :1] / sums[:, 1:]


@functools.lru_cache(maxsize=8)
def _filters(n_fft, n_mels, sample_rate, device):
    with torch.inference_mode(False):  # kept for training too
        return mel_filters(n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate).to(device)
