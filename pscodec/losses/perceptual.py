"""What PESQ hears, as a loss."""

import torch
from torch import nn

BANDS, HIGHEST = 49, 8000.0
WINDOW = 0.032  # seconds; they overlap by half
LEVEL = 94.0  # dB above the threshold of hearing, of speech between 325 and 3250 Hz: what comes nearest to PESQ
SCALE = 0.1866055  # of loudness
STRETCH = 20  # windows, of which the worst count most


class PerceptualLoss(nn.Module):
    """How far speech is from the best, in points of raw PESQ: 0.1 times what is wrong and 0.0309 times what was added.

    Sources: ITU-T P.862, section 10.2, and P.862.2 for wide-band signals; as a loss Martin-Donas et al., IEEE SPL 2018.
    Nearly, for no score is made of it: bands are equally wide on Traunmueller's scale, thresholds are Terhardt's,
    levels are aligned in the spectrum, and neither delays nor bad intervals are looked for. At `sample_rate`; what lies
    above 8 kHz is not heard.
    """

    def __init__(self, sample_rate=24000):
        super().__init__()
        self.size = 2 * round(WINDOW * sample_rate / 2)
        frequencies = torch.arange(self.size // 2 + 1) * (sample_rate / self.size)
        edges = torch.linspace(_bark(frequencies[1]), _bark(torch.tensor(HIGHEST)), BANDS + 1)
        inside = (_bark(frequencies) >= edges[:-1, None]) & (_bark(frequencies) < edges[1:, None])
        middles = (edges[1:] + edges[:-1]) / 2
        khz = 1.96 * (middles + 0.53) / (26.28 - middles)
        quiet = 3.64 * khz**-0.8 - 6.5 * (-0.6 * (khz - 3.3).square()).exp() + 1e-3 * khz**4
        power = 0.23 * (6 / (middles + 2)).clamp(1, 2) ** 0.15
        self.width = (edges[1] - edges[0]).item()
        self.register_buffer("bands", inside * _input_filter(frequencies), persistent=False)
        self.register_buffer("level", ((frequencies > 325) & (frequencies < 3250)).float(), persistent=False)
        self.register_buffer("quiet", 10 ** (quiet / 10)[:, None], persistent=False)
        self.register_buffer("power", power[:, None], persistent=False)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, evidence):
        return self.distance(evidence.output.wav_hat, evidence.wav)

    def distance(self, made, wav):
        """Of `made` from `wav`, both `[..., L]`: a scalar."""
        heard, clean = (self._powers(signal.float().flatten(0, -2)) for signal in (made, wav))
        spoken = self._audible(clean, 100) > 1e7  # [B, 1, T]
        # a filter over the whole signal is forgiven, and levels of windows are
        means = [(p * (p > 100 * self.quiet) * spoken).mean(2, keepdim=True) for p in (heard, clean)]
        clean = clean * ((means[0] + 1000) / (means[1] + 1000)).clamp(0.01, 100)
        ratio = (self._audible(clean, 1) + 5e3) / (self._audible(heard, 1) + 5e3)
        before = torch.cat([ratio[..., :1], ratio[..., :-1]], 2)
        heard = heard * (0.8 * ratio + 0.2 * before).clamp(3e-4, 5)

        louder, loud = self._loudness(heard), self._loudness(clean)
        wrong = ((louder - loud).abs() - 0.25 * torch.minimum(louder, loud)).clamp(min=0) * self.width
        more = ((heard + 50) / (clean + 50)) ** 1.2
        added = wrong * torch.where(more < 3, 0.0, more.clamp(max=12))
        wrong = (wrong.square().sum(1) * (BANDS * self.width) + 1e-8).sqrt()
        weight = ((self._audible(clean, 1)[:, 0] + 1e5) / 1e7) ** 0.04
        return 0.1 * _pooled(wrong / weight) + 0.0309 * _pooled(added.sum(1) / weight)

    def _powers(self, wav):
        """`[B, L]` -> `[B, BANDS, T]`, levels aligned."""
        with torch.autocast(wav.device.type, enabled=False):
            spectra = torch.stft(wav, self.size, self.size // 2, window=self.window, return_complex=True)
            power = spectra.real.square() + spectra.imag.square()
            level = (self.level @ power).mean(-1)[:, None, None]
            return self.bands @ (power * (10 ** (LEVEL / 10) / (level + 1e-6)))

    def _audible(self, power, times):
        """Of all bands together, `[B, 1, T]`, what lies above so many times their thresholds."""
        return (power * (power > times * self.quiet)).sum(1, keepdim=True)

    def _loudness(self, power):
        """Zwicker's, of `[B, BANDS, T]`, in sones."""
        above = (0.5 + 0.5 * power / self.quiet).clamp(min=1) ** self.power - 1
        return SCALE * (2 * self.quiet) ** self.power * above


def _bark(frequencies):
    return 26.81 * frequencies / (1960 + frequencies) - 0.53


def _input_filter(frequencies):
    """Power response of P.862.2's filter, which takes away what lies below 100 Hz; 1 far above."""
    z = torch.exp(-2j * torch.pi * frequencies.clamp(max=HIGHEST) / 16000)
    response = (1 - z).square() / (1 - 1.9444777 * z + 0.94597794 * z.square())
    return response.abs().square()


def _pooled(disturbance):
    """`[B, T]` of windows -> the mean over signals: of sixth powers in a stretch, of squares over stretches."""
    n = min(STRETCH, disturbance.shape[1])
    stretches = disturbance.clamp(max=45).unfold(1, n, max(1, n // 2))
    worst = (stretches**6).mean(-1).add(1e-12) ** (1 / 6)
    return worst.square().mean(1).sqrt().mean()
