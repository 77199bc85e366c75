"""Estimates as masks of the mixture: a codec that keeps no phases still tells which voice is how loud, when and where.

Shapes: S sources, L samples, N samples a window, F bins.
"""

import torch

SECONDS = 0.064  # a window
SHIFTS = 4  # windows that cover a sample
FLOOR = 1e-8  # where nobody speaks, all share what is there


def masked(mix, voices, sample_rate):
    """Mixtures `[B, 1, L]`, each divided among its talkers by estimates of them `[B, S, L]`: `[B, S, L]`, with
    gradients."""
    pairs = zip(mix, voices, strict=True)
    return torch.stack([Masks(sample_rate).push(one, estimates, last=True) for one, estimates in pairs])


class Masks:
    """A mixture's spectrum, divided among its talkers by the magnitudes of their estimates: |V_s| / sum |V|.

    Both come in pieces; all told, they give the same samples as in one. `sample_rate`: theirs (Hz). Windows, square
    roots of Hann's, are of 64 ms: the best of 32 to 128 ms for speech at 16 kHz, as the magnitudes themselves were
    among their powers.
    """

    def __init__(self, sample_rate):
        self.hop = round(SECONDS * sample_rate / SHIFTS)
        self.size = SHIFTS * self.hop
        self.window = torch.hann_window(self.size).sqrt()
        self.held = self.tail = None

    def push(self, mix, voices, last=False):
        """The next piece of the mixture `[1, n]` and of the estimates `[S, n]` -> of the talkers, `[S, m]`, what it
        completes; with `last` nothing follows, and as many samples have come out as went in."""
        x = torch.cat([mix.to(voices), voices])
        rest = self.size - self.hop
        if self.held is None:  # the first sample is covered as the others are
            self.held, self.tail, self.skip = x.new_zeros(len(x), rest), x.new_zeros(len(voices), rest), rest
        self.held = torch.cat([self.held, x], 1)
        known = self.held.shape[1]
        if last:
            self.held = torch.nn.functional.pad(self.held, (0, rest + -known % self.hop))
        n = (self.held.shape[1] - rest) // self.hop
        done = n * self.hop
        y = torch.cat([self.tail, x.new_zeros(len(voices), done)], 1)
        if n:
            y = y + self._separated(self.held[:, : done + rest])
        self.held, self.tail = self.held[:, done:], y[:, done:]
        skip = min(self.skip, done)
        self.skip -= skip
        return y[:, skip : min(done, known)]

    def _separated(self, x):
        """Windows of `x` `[1 + S, n]`, mixture and estimates, overlapped and added: `[S, n]`."""
        window = self.window.to(x)
        spectra = torch.fft.rfft(x.unfold(1, self.size, self.hop) * window)  # [1 + S, n, F]
        magnitudes = spectra[1:].abs() + FLOOR
        frames = torch.fft.irfft(magnitudes / magnitudes.sum(0) * spectra[:1], self.size) * window * (2 / SHIFTS)
        fold = {"output_size": (1, x.shape[1]), "kernel_size": (1, self.size), "stride": (1, self.hop)}
        return torch.nn.functional.fold(frames.transpose(1, 2), **fold)[:, 0, 0]
