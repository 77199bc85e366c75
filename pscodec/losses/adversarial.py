"""Adversarial losses over `Judged` answers: hinge (PSCodec eq. 7) and feature matching (eq. 9)."""

import torch
from torch import nn


def hinge_discriminator(real, fake):
    """Eq. (7): mean over K discriminators of mean max(0, 1 - D(x)) + mean max(0, 1 + D(x~))."""
    terms = [
        torch.relu(1 - r.float()).mean() + torch.relu(1 + f.float()).mean()
        for r, f in zip(real.logits, fake.logits, strict=True)
    ]
    return sum(terms) / len(terms)


class HingeGenerator(nn.Module):
    """Mean over discriminators of mean max(0, 1 - D(x~)) (EnCodec's form); `clipped=False` gives mean -D(x~)."""

    adversarial = True

    def __init__(self, clipped=True):
        super().__init__()
        self.clipped = clipped

    def forward(self, evidence):
        logits = [x.float() for x in evidence.fake.logits]
        return sum((torch.relu(1 - x) if self.clipped else -x).mean() for x in logits) / len(logits)


class FeatureMatching(nn.Module):
    """Eq. (9): mean over discriminators and hidden layers of the mean absolute difference of feature maps.

    `relative` divides each by the mean magnitude of the real one (EnCodec, eq. 2).
    """

    adversarial = True

    def __init__(self, relative=False):
        super().__init__()
        self.relative = relative

    def forward(self, evidence):
        terms = []
        for reals, fakes in zip(evidence.real.fmaps, evidence.fake.fmaps, strict=True):
            for real, fake in zip(reals, fakes, strict=True):
                real = real.detach()
                term = (real - fake).abs().mean(dtype=torch.float32)
                terms.append(term / real.abs().mean(dtype=torch.float32).clamp(min=1e-6) if self.relative else term)
        return sum(terms) / len(terms)
