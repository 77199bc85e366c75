"""Gaussian diffusion: its schedule, and the ways back from noise to data.

Sources: Ho et al., DDPM (2020), algorithms 1 and 2; Song et al., DDIM (2021), eq. 12; Lu et al., DPM-Solver++ (2022),
algorithm 2 (its second order, multistep); Yang et al., LaDiffCodec (2024), section 2 and algorithm 1, midway-infilling.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pscodec.utils.errors import UserError

SAMPLERS = ("midway", "ddpm", "ddim", "dpm")
FEW = {"ddim": 50, "dpm": 15}  # steps of those that need not take all


@dataclass(frozen=True)
class Sampling:
    """How a codec generates what it decodes: by `sampler` (SAMPLERS), from the same `seed` the same.

    `tau`: the step of the schedule at which sampling begins (None: 100 for `midway`, as the paper, else the last, pure
    noise). `steps` are taken from there, evenly spaced (None: every one of ddpm and midway, 50 of ddim, 15 of dpm).
    `gamma`: the share of the infilling branch in `midway`, 0 to 1. Raises ValueError for what makes no sense.
    """

    sampler: str = "midway"
    steps: int | None = None
    tau: int | None = None
    gamma: float = 0.3
    seed: int = 0

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {' or '.join(SAMPLERS)}, not {self.sampler!r}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is 0 to 1, not {self.gamma:g}")
        for name in ("steps", "tau"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}")


class Schedule:
    """`T` steps of noise, variances `beta` from `first` to `last`, linear: `alpha_bar` `[T + 1]` float64, 1 at step 0.

    Raises ValueError where these are not variances.
    """

    def __init__(self, T=1000, first=1e-4, last=0.02):
        if T < 1 or not 0 < first <= last < 1:
            raise ValueError(f"{T} steps of noise of variances {first:g} to {last:g}")
        self.T = T
        beta = torch.linspace(first, last, T, dtype=torch.float64)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])

    def diffuse(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Eq. 1: `x` `[B, D, T]` at steps `t` `[B]` int64, with `noise` like `x`."""
        kept = self.alpha_bar[t.cpu()].to(x).view(-1, 1, 1)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def way(self, tau: int | None, steps: int | None) -> list[int]:
        """Descending steps of the schedule from `tau` (None: T) to 0, in `steps` (None: every one) strides.

        Raises UserError for a tau beyond T.
        """
        tau = self.T if tau is None else tau
        if tau > self.T:
            raise UserError(f"tau {tau} of a schedule of {self.T} steps")
        return sorted(set(np.linspace(tau, 0, min(steps or tau, tau) + 1).round().astype(int).tolist()), reverse=True)

    def clean(self, x, noise, t):
        """What `x` at step `t` is without its `noise`: z_0 of eq. 1."""
        kept = self.alpha_bar[t].item()
        return (x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)

    def limited(self, x, noise, t, limit):
        """The noise in `x` at step `t`, from a prediction of it, were z_0 within `limit` of zero."""
        kept = self.alpha_bar[t].item()
        return (x - math.sqrt(kept) * self.clean(x, noise, t).clamp(-limit, limit)) / math.sqrt(1 - kept)

    def reverse(self, x, noise, t, s, fresh):
        """G of the paper from step `t` to `s` < t, with the predicted `noise` and `fresh` noise (none at step 0).

        Of neighbours it is the paper's equation; of others that of the schedule that has no steps between them.
        """
        there, here = self.alpha_bar[s].item(), self.alpha_bar[t].item()
        beta = 1 - here / there
        mean = (x - beta / math.sqrt(1 - here) * noise) / math.sqrt(1 - beta)
        return mean if s == 0 else mean + math.sqrt(beta) * fresh


class Noise:
    """White noise from `seed`: each call gives the next `[B, *shape]`, the same for every item of the batch, so that an
    item is generated as if alone. Drawn on the CPU, so that every device has the same."""

    def __init__(self, seed, like: Tensor):
        self.generator, self.like = torch.Generator().manual_seed(seed), like

    def __call__(self):
        shape = self.like.shape[1:]
        return torch.randn(1, *shape, generator=self.generator).to(self.like).expand(self.like.shape)


def sample(denoise: Callable[[Tensor, int], Tensor], prior: Tensor, schedule: Schedule, how: Sampling) -> Tensor:
    """A sample like `prior` `[B, D, T]`, which is what midway-infilling fills in, by `how`.

    `denoise(x, t)` predicts the noise in `x` at step `t` of the schedule. Raises UserError for a tau beyond it.
    """
    noise = Noise(2 * how.seed, prior)
    tau = 100 if how.tau is None and how.sampler == "midway" else how.tau
    way = schedule.way(tau, how.steps or FEW.get(how.sampler))
    if how.sampler == "midway":
        return _midway(denoise, prior, schedule, way, how.gamma, noise, Noise(2 * how.seed + 1, prior))
    solver = {"ddpm": _ddpm, "ddim": _ddim, "dpm": _dpm_solver}[how.sampler]
    return solver(denoise, noise(), schedule, way, noise)


def _steps(way):
    return zip(way, way[1:], strict=False)


def _ddpm(denoise, x, schedule, way, noise):
    for t, s in _steps(way):
        x = schedule.reverse(x, denoise(x, t), t, s, noise())
    return x


def _midway(denoise, prior, schedule, way, gamma, noise, filling_noise):
    """Algorithm 1: a branch that begins at `prior` is mixed into the sampled one after every step, `gamma` of it."""
    x, filled = noise(), prior
    if gamma in (0, 1):  # one branch is the other's input, or no one's
        return _ddpm(denoise, *((filled, schedule, way, filling_noise) if gamma else (x, schedule, way, noise)))
    x = (1 - gamma) * x + gamma * filled
    for t, s in _steps(way):
        filled = schedule.reverse(filled, denoise(filled, t), t, s, filling_noise())
        x = (1 - gamma) * schedule.reverse(x, denoise(x, t), t, s, noise()) + gamma * filled
    return x


def _ddim(denoise, x, schedule, way, _):
    """Without fresh noise (eta 0)."""
    for t, s in _steps(way):
        noise, kept = denoise(x, t), schedule.alpha_bar[s].item()
        x = math.sqrt(kept) * schedule.clean(x, noise, t) + math.sqrt(1 - kept) * noise
    return x


def _dpm_solver(denoise, x, schedule, way, _):
    """DPM-Solver++ (2M): the clean signal is taken to change linearly, over half the log of signal to noise."""
    before = None  # the clean signal predicted a step earlier, and how long that step was
    for t, s in _steps(way):
        clean, kept = schedule.clean(x, denoise(x, t), t), schedule.alpha_bar[s].item()
        if s == 0:
            return clean
        length = _half_log_snr(schedule, s) - _half_log_snr(schedule, t)
        ahead = clean if before is None else clean + (clean - before[0]) * length / (2 * before[1])
        x = math.sqrt((1 - kept) / (1 - schedule.alpha_bar[t].item())) * x
        x = x - math.sqrt(kept) * math.expm1(-length) * ahead
        before = clean, length
    return x


def _half_log_snr(schedule, t):
    kept = schedule.alpha_bar[t].item()
    return 0.5 * math.log(kept / (1 - kept))
