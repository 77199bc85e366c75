"""Adversarial losses over `Judged` answers: hinge (PSCodec eq. 7), least squares, and feature matching (eq. 9)."""

import torch
from torch import nn


def hinge_discriminator(real, fake):
    """Eq. (7): mean over K discriminators of mean max(0, 1 - D(x)) + mean max(0, 1 + D(x~))."""
    terms = [
        torch.relu(1 - r.float()).mean() + torch.relu(1 + f.float()).mean()
        for r, f in zip(real.logits, fake.logits, strict=True)
    ]
    return sum(terms) / len(terms)


def least_squares_discriminator(real, fake):
    """LSGAN (Mao et al., 2017), summed over discriminators as HiFi-GAN does: mean (1 - D(x))^2 + mean D(x~)^2."""
    return sum(
        (1 - r.float()).pow(2).mean() + f.float().pow(2).mean() for r, f in zip(real.logits, fake.logits, strict=True)
    )


class LeastSquaresGenerator(nn.Module):
    """The other side of LSGAN: over discriminators, the sum of mean (1 - D(x~))^2."""

    adversarial = True

    def forward(self, evidence):
        judged = zip(evidence.fake.weights, evidence.fake.logits, strict=True)
        return sum(weight * (1 - logits.float()).pow(2).mean() for weight, logits in judged)


class HingeGenerator(nn.Module):
    """Mean over discriminators of mean max(0, 1 - D(x~)) (EnCodec's form); `clipped=False` gives mean -D(x~)."""

    adversarial = True

    def __init__(self, clipped=True):
        super().__init__()
        self.clipped = clipped

    def forward(self, evidence):
        logits = [x.float() for x in evidence.fake.logits]
        terms = [(torch.relu(1 - x) if self.clipped else -x).mean() for x in logits]
        return sum(w * term for w, term in zip(evidence.fake.weights, terms, strict=True)) / len(terms)


class FeatureMatching(nn.Module):
    """Eq. (9): mean over discriminators and hidden layers of the mean absolute difference of feature maps.

    `relative` divides each by the mean magnitude of the real one (EnCodec, eq. 2). `summed` is HiFi-GAN's: the sum
    instead of the mean, with the logits as one more layer unless `logits` is false (DAC).
    """

    adversarial = True

    def __init__(self, relative=False, summed=False, logits=None):
        super().__init__()
        self.relative, self.summed = relative, summed
        self.logits = summed if logits is None else logits

    def forward(self, evidence):
        terms = []
        both = map(self._layers, (evidence.real, evidence.fake))
        for weight, real_layers, fake_layers in zip(evidence.fake.weights, *both, strict=True):
            for real, fake in zip(real_layers, fake_layers, strict=True):
                real = real.detach()
                term = weight * (real - fake).abs().mean(dtype=torch.float32)
                terms.append(term / real.abs().mean(dtype=torch.float32).clamp(min=1e-6) if self.relative else term)
        return sum(terms) if self.summed else sum(terms) / len(terms)

    def _layers(self, judged):
        """Those of each discriminator that are compared."""
        if not self.logits:
            return judged.fmaps
        return [[*layers, logits] for layers, logits in zip(judged.fmaps, judged.logits, strict=True)]
