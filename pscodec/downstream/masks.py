"""Estimates as masks of the mixture: a codec that keeps no phases still tells which voice is how loud, when and where.

Shapes: S sources, L samples, N samples a window, F bins, T windows.
"""

import torch
from torch.nn.functional import fold, pad

SECONDS = 0.064  # a window
SHIFTS = 4  # windows that cover a sample
FLOOR = 1e-8  # where nobody speaks, all share what is there


def masked(mix, voices, sample_rate, refiner=None):
    """Mixtures `[B, 1, L]`, each divided among its talkers by estimates of them `[B, S, L]`: `[B, S, L]`, with
    gradients. `refiner` as in `Masks`."""
    masks = (Masks(sample_rate, refiner, one.abs().max().item()) for one in mix)
    return torch.stack([m.push(one, each, last=True) for m, one, each in zip(masks, mix, voices, strict=True)])


class Masks:
    """A mixture's spectrum, divided among its talkers by the magnitudes of their estimates: |V_s| / sum |V|.

    Both come in pieces; all told, they give the same samples as in one. `sample_rate`: theirs (Hz). Windows, square
    roots of Hann's, are of 64 ms: the best of 32 to 128 ms for speech at 16 kHz, as the magnitudes themselves were
    among their powers. `refiner` (downstream.refiner; None: no such network) corrects them, given the loudest sample
    of the mixture, its `peak`; then what comes out is later by its context.
    """

    def __init__(self, sample_rate, refiner=None, peak=1.0):
        self.hop = round(SECONDS * sample_rate / SHIFTS)
        self.size = SHIFTS * self.hop
        self.window = torch.hann_window(self.size).sqrt()
        self.refiner, self.peak = refiner, max(peak, FLOOR)
        self.context = refiner.context if refiner else 0
        self.rest = self.size - self.hop  # what two windows share, nearly all
        self.held = None

    def push(self, mix, voices, last=False):
        """The next piece of the mixture `[1, n]` and of the estimates `[S, n]` -> of the talkers, `[S, m]`, what it
        completes; with `last` nothing follows, and as many samples have come out as went in."""
        x = torch.cat([mix.to(voices), voices])
        if self.held is None:  # the first sample is covered as the others are
            self.held, self.tail = x.new_zeros(len(x), self.rest), x.new_zeros(len(voices), self.rest)
            self.spectra = x.new_zeros(len(x), 0, self.size // 2 + 1, dtype=torch.complex64)
            self.known = 0  # windows of those held whose talkers are told already
            self.given, self.due = -self.rest, 0  # samples out and in
        self.due += x.shape[1]
        y = self._added(self._divided(self._spectra(x, last), last))
        begin, self.given = max(0, -self.given), self.given + y.shape[1]
        return y[:, begin : y.shape[1] - max(0, self.given - self.due)]

    def _spectra(self, x, last):
        """Samples `[1 + S, n]` -> spectra of the windows that they complete, `[1 + S, T, F]`."""
        x = torch.cat([self.held, x], 1)
        if last:
            x = pad(x, (0, self.rest + -x.shape[1] % self.hop))
        n = (x.shape[1] - self.rest) // self.hop
        self.held = x[:, n * self.hop :]
        if not n:
            return self.spectra[:, :0]
        windows = x[:, : n * self.hop + self.rest].unfold(1, self.size, self.hop)
        return torch.fft.rfft(windows * self.window.to(x))

    def _divided(self, spectra, last):
        """Spectra of the mixture and the estimates, `[1 + S, T, F]`, -> of the talkers, `[S, T, F]`.

        A refiner waits for `context` windows that follow, and sees as many before.
        """
        spectra = torch.cat([self.spectra, spectra], 1)
        known = spectra.shape[1] if last else max(self.known, spectra.shape[1] - self.context)
        old, new = max(0, known - self.context), slice(self.known, known)
        self.spectra, self.known = spectra[:, old:], known - old
        magnitudes = spectra.abs() + FLOOR
        if self.refiner is None or known == new.start:
            magnitudes = magnitudes[1:, new]
        else:
            more = self._more(magnitudes)[:, new]
            magnitudes = magnitudes[1:, new] * (more - more.amax(0)).exp()
        return magnitudes / magnitudes.sum(0) * spectra[:1, new]

    def _more(self, magnitudes):
        """What the refiner says of all that is held, `[S, T, F]`."""
        x = (magnitudes / self.peak).to(next(self.refiner.parameters()).device).transpose(1, 2)
        return self.refiner(x[0], x[1:]).transpose(1, 2).to(magnitudes)

    def _added(self, spectra):
        """Spectra of the next windows, `[S, T, F]`, overlapped and added: `[S, T * hop]`, `rest` samples later."""
        y = self.tail
        if spectra.shape[1]:
            frames = torch.fft.irfft(spectra, self.size) * self.window.to(y) * (2 / SHIFTS)
            length = spectra.shape[1] * self.hop + self.rest
            how = {"output_size": (1, length), "kernel_size": (1, self.size), "stride": (1, self.hop)}
            y = fold(frames.transpose(1, 2), **how)[:, 0, 0] + pad(y, (0, length - y.shape[1]))
        self.tail = y[:, y.shape[1] - self.rest :]
        return y[:, : y.shape[1] - self.rest]
