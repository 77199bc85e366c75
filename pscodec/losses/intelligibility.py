"""STOI as a loss."""

import torch
from torch import nn

BANDS, LOWEST = 15, 150.0  # thirds of an octave, the first around 150 Hz, the last to 4.3 kHz
FRAMES = 30  # 0.384 s of which envelopes are correlated
WINDOW = 0.0256  # seconds
CLIP = 10 ** (15 / 20)  # an envelope counts up to 15 dB of noise above the clean one
QUIET = 1e-4  # mean power of a stretch that is a pause, beside the loudest frame's: 40 dB
SILENT = 1e-6  # power of a frame in a signal that holds nothing


class Intelligibility(nn.Module):
    """1 less STOI: how the envelopes of bands are correlated with the clean ones, over 0.4 s at a time.

    Source: Taal et al., ICASSP 2010, eqs. 1 to 6; as a loss Fu et al., IEEE/ACM TASLP 2018. At `sample_rate` instead of
    10 kHz, its windows as long; where STOI cuts pauses out, stretches that are pauses do not count.
    """

    def __init__(self, sample_rate=24000):
        super().__init__()
        self.size = 2 * round(WINDOW * sample_rate / 2)
        frequencies = torch.arange(self.size + 1) * (sample_rate / (2 * self.size))  # transformed with as many zeros
        middles = LOWEST * 2 ** (torch.arange(BANDS) / 3)
        inside = (frequencies >= middles[:, None] / 2 ** (1 / 6)) & (frequencies < middles[:, None] * 2 ** (1 / 6))
        self.register_buffer("bands", inside.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, made, wav):
        """The loss of `made` against `wav`, both `[..., L]`: a scalar. Silent signals do not count."""
        clean, heard = (self._envelopes(signal.float().flatten(0, -2)) for signal in (wav, made))
        power = clean.square().sum(1)  # [B, T]
        n = min(FRAMES, clean.shape[-1])
        spoken = power.unfold(-1, n, 1).mean(-1) > (QUIET * power.amax(-1, keepdim=True)).clamp(min=SILENT)  # [B, M]
        clean, heard = (envelopes.unfold(-1, n, 1) for envelopes in (clean, heard))  # [B, bands, M, n]
        heard = heard * (_norm(clean) / _norm(heard))
        heard = torch.minimum(heard, clean * (1 + CLIP))
        clean, heard = (envelopes - envelopes.mean(-1, keepdim=True) for envelopes in (clean, heard))
        alike = (clean * heard).sum(-1) / (_norm(clean) * _norm(heard)).squeeze(-1)
        return 1 - (alike.mean(1) * spoken).sum() / spoken.sum().clamp(min=1)

    def _envelopes(self, wav):
        """`[B, L]` -> `[B, BANDS, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            spectra = torch.stft(
                wav, 2 * self.size, self.size // 2, self.size, self.window, center=True, return_complex=True
            )
            power = spectra.real.square() + spectra.imag.square()
            return (self.bands @ power).add(1e-9).sqrt()


class STOILoss(Intelligibility):
    """The same of a codec's output against what it was given."""

    def forward(self, evidence):
        return super().forward(evidence.output.wav_hat, evidence.wav)


def _norm(x):
    return x.square().sum(-1, keepdim=True).add(1e-9).sqrt()
