"""Losses of speech separation: permutation-invariant, on embeddings or on waveforms.

Shapes: B batch, S sources, D latent_dim, T frames, L samples.
"""

import itertools
from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from pscodec.losses.intelligibility import Intelligibility

EXHAUSTIVE = 3  # up to so many sources every permutation is tried; past it the Hungarian algorithm finds the best


def best_order(cost):
    """Which estimate belongs to which target: `cost` `[B, S, S]` of (estimate, target) -> `order` `[B, S]` int64.

    `order[b, s]` is the estimate for target s, of the permutation with the least sum of costs.
    """
    n = cost.shape[-1]
    if n > EXHAUSTIVE:
        solved = [linear_sum_assignment(matrix.T)[1] for matrix in cost.detach().float().cpu().numpy()]
        return torch.stack([torch.from_numpy(order) for order in solved]).to(cost.device)
    orders = torch.tensor(list(itertools.permutations(range(n))), device=cost.device)  # [S!, S]
    totals = cost[:, orders, torch.arange(n, device=cost.device)].sum(-1)  # [B, S!]
    return orders[totals.argmin(1)]


def ordered(estimates, order):
    """`estimates` `[B, S, ...]` in the order of the targets, `order` `[B, S]` as `best_order` gives it."""
    return estimates[torch.arange(len(order), device=order.device)[:, None], order]


def _mask(lengths, length):
    """`[B, length]`, 1 where there is no padding."""
    return (torch.arange(length, device=lengths.device) < lengths[:, None]).float()


class EmbeddingLoss(nn.Module):
    """Eq. (1) of Yip et al. within PIT: the mean squared error of the embeddings, over D and the true frames of each
    mixture's sources, averaged over the batch. Needs no decoder."""

    domain = "embedding"

    def forward(self, separation):
        """types.Separation of embeddings -> (scalar, `order` `[B, S]`)."""
        mask = _mask(separation.lengths, separation.targets.shape[-1])[:, None, None]
        targets = separation.targets.float() * mask
        estimates = separation.estimates.float() * mask
        with torch.no_grad():  # the squared norms are the same in every permutation; the products decide
            order = best_order(-estimates.flatten(2) @ targets.flatten(2).transpose(1, 2))
        error = (ordered(estimates, order) - targets).square().sum((1, 2, 3))
        count = separation.lengths * targets.shape[1] * targets.shape[2]
        return (error / count).mean(), order

    def trivial(self, separation):
        """Losses of two guesses that need no separator: `(the mean of the sources for each, the mixture for each)`."""
        targets = separation.targets
        guesses = (targets.mean(1, keepdim=True), separation.mixture.unsqueeze(1))
        return tuple(self(replace(separation, estimates=guess.expand_as(targets)))[0] for guess in guesses)


class SiSnrLoss(nn.Module):
    """Negative SI-SNR in dB within PIT, over the true samples; what SpeechBrain's separation recipes train on.

    Mixtures already separated beyond `threshold` (dB, -30: better than 30 dB) are left out of the mean, so that the
    easy ones do not rule. Silent targets have no SI-SNR and do not count.
    """

    domain = "waveform"

    def __init__(self, threshold=-30.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, separation):
        """types.Separation of waveforms -> (scalar, `order` `[B, S]`)."""
        mask = _mask(separation.lengths, separation.targets.shape[-1])[:, None]
        estimates = _zero_mean(separation.estimates.float(), mask)
        targets = _zero_mean(separation.targets.float(), mask)
        heard = targets.square().sum(-1) > 1e-8 * separation.lengths[:, None]  # [B, S]: above -80 dBFS
        with torch.no_grad():
            products = (estimates @ targets.transpose(1, 2)).square()
            energies = estimates.square().sum(-1)[:, :, None] * targets.square().sum(-1)[:, None]
            share = products / energies.clamp(min=1e-20)
            ratio = 10 * torch.log10(share.clamp(min=1e-10) / (1 - share).clamp(min=1e-7))
            order = best_order(-ratio * heard[:, None])
        losses = -si_snr(ordered(estimates, order), targets)
        losses = (losses * heard).sum(1) / heard.sum(1).clamp(min=1)
        kept = heard.any(1) & (losses.detach() > self.threshold)
        return (losses * kept).sum() / kept.sum().clamp(min=1), order


class SiSnrStoiLoss(SiSnrLoss):
    """`SiSnrLoss`, and `stoi` times what STOI lacks to 1 (losses.intelligibility), in the order of the first.

    SI-SNR is of the loudest; this hears envelopes in every band alike. `sample_rate`: of the waveforms (Hz);
    `threshold` is of SI-SNR alone.
    """

    def __init__(self, sample_rate, threshold=-30.0, stoi=30.0):
        super().__init__(threshold)
        self.intelligibility, self.stoi = Intelligibility(sample_rate), stoi

    def forward(self, separation):
        loss, order = super().forward(separation)
        mask = _mask(separation.lengths, separation.targets.shape[-1])[:, None]
        found, targets = ordered(separation.estimates, order) * mask, separation.targets * mask
        return loss + self.stoi * self.intelligibility(found, targets), order


def _zero_mean(wav, mask):
    mean = (wav * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    return (wav - mean) * mask


def si_snr(estimates, targets, eps=1e-8):
    """SI-SNR in dB of zero-mean `estimates` against `targets`, `[..., L]` -> `[...]` (Luo & Mesgarani 2019, eq. 9)."""
    energy = targets.square().sum(-1, keepdim=True)
    projection = (estimates * targets).sum(-1, keepdim=True) / (energy + eps) * targets
    noise = estimates - projection
    return 10 * torch.log10((projection.square().sum(-1) + eps) / (noise.square().sum(-1) + eps))
