"""Diffusion: its schedule by hand, and ways back from noise whose ends are known."""

import math

import pytest
import torch

from pscodec.models.sampling import SAMPLERS, Noise, Sampling, Schedule, _ddim, _dpm_solver, sample
from pscodec.utils.errors import UserError

SHAPE = (2, 3, 5)


def number(x):
    return torch.full((1, 1, 1), float(x))


def test_the_schedule_by_hand():
    schedule = Schedule(2, 0.1, 0.2)
    assert schedule.alpha_bar.tolist() == pytest.approx([1, 0.9, 0.9 * 0.8])
    noisy = schedule.diffuse(torch.full((2, 1, 1), 2.0), torch.tensor([1, 2]), torch.full((2, 1, 1), -1.0))
    by_hand = [math.sqrt(0.9) * 2 - math.sqrt(0.1), math.sqrt(0.72) * 2 - math.sqrt(0.28)]
    assert noisy.flatten().tolist() == pytest.approx(by_hand)
    # the public configuration's, whose last step is noise
    assert Schedule().alpha_bar[-1].item() == pytest.approx(math.exp(-10.12), rel=0.01)


def test_a_reverse_step_by_hand():
    schedule = Schedule(2, 0.1, 0.2)
    mean = (1.5 - 0.2 / math.sqrt(0.28) * 0.5) / math.sqrt(0.8)
    found = schedule.reverse(number(1.5), number(0.5), 2, 1, number(-2))
    assert found.item() == pytest.approx(mean + math.sqrt(0.2) * -2)
    # the last step adds none
    last = schedule.reverse(number(1.5), number(0.5), 1, 0, number(-2)).item()
    assert last == pytest.approx((1.5 - math.sqrt(0.1) * 0.5) / math.sqrt(0.9))
    # both at once: the variance of a step from 2 to 0 is 1 - 0.72
    both = schedule.reverse(number(1.5), number(0.5), 2, 0, None).item()
    assert both == pytest.approx((1.5 - 0.28 / math.sqrt(0.28) * 0.5) / math.sqrt(0.72))


def test_noise_by_hand_were_the_clean_signal_within_a_limit():
    schedule = Schedule(2, 0.1, 0.2)
    for noise, clean in ((0.5, (1.5 - math.sqrt(0.28) * 0.5) / math.sqrt(0.72)), (-9, 2.0), (9, -2.0)):
        found = schedule.limited(number(1.5), number(noise), 2, 2.0).item()
        assert found == pytest.approx((1.5 - math.sqrt(0.72) * clean) / math.sqrt(0.28))


def test_ways_through_the_schedule():
    schedule = Schedule(1000)
    assert schedule.way(4, None) == schedule.way(4, 9) == [4, 3, 2, 1, 0]
    assert schedule.way(None, 4) == [1000, 750, 500, 250, 0]
    with pytest.raises(UserError, match="tau 1001 of a schedule of 1000"):
        schedule.way(1001, None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_knows_the_clean_signal_ends_there(sampler):
    clean, schedule = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), Schedule()

    def denoise(x, t):
        kept = schedule.alpha_bar[t].item()
        return (x - math.sqrt(kept) * clean) / math.sqrt(1 - kept)

    for steps in (None, 7):
        found = sample(denoise, torch.zeros(SHAPE), schedule, Sampling(sampler, steps=steps))
        assert torch.allclose(found, clean, atol=1e-4)


def gaussian(schedule, deviation):
    """The noise in a signal whose clean one is Gaussian, of this deviation, at its best guess."""

    def denoise(x, t):
        kept = schedule.alpha_bar[t].item()
        return math.sqrt(1 - kept) * x / (kept * deviation**2 + 1 - kept)

    return denoise


@pytest.mark.parametrize(("solver", "order"), [(_ddim, 1), (_dpm_solver, 2)])
def test_the_order_of_solvers(solver, order):
    """Of Gaussian signals the noise-free way is known: the signal's size follows the deviation of its marginals."""
    schedule, deviation = Schedule(20000, 5e-6, 1e-3), 0.5  # fine, so that steps are where they should be

    def size(t):
        kept = schedule.alpha_bar[t].item()
        return math.sqrt(kept * deviation**2 + 1 - kept)

    errors = []
    for stride in (200, 100):
        way = range(16000, 3999, -stride)
        found = solver(gaussian(schedule, deviation), number(size(16000)).double(), schedule, way, None)
        errors.append(abs(found.item() - size(4000)))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15) and 0 < errors[1] < 0.02


def test_few_steps_of_dpm_solver_are_nearer_than_many_of_ddim():
    schedule, prior = Schedule(), torch.zeros(1, 1, 400, dtype=torch.float64)
    kept = schedule.alpha_bar[-1].item()
    exact = Noise(0, prior)() * 0.5 / math.sqrt(kept * 0.25 + 1 - kept)
    hows = Sampling("dpm"), Sampling("ddim", steps=30)
    dpm, ddim = (sample(gaussian(schedule, 0.5), prior, schedule, how) for how in hows)
    assert (dpm - exact).abs().max() < (ddim - exact).abs().max() < 0.2


@pytest.mark.parametrize("steps", [None, 100])
def test_ddpm_gives_the_deviation_of_the_data(steps):
    schedule = Schedule()
    found = sample(gaussian(schedule, 0.5), torch.zeros(1, 1, 20000), schedule, Sampling("ddpm", steps=steps))
    assert found.mean().item() == pytest.approx(0, abs=0.02) and found.std().item() == pytest.approx(0.5, rel=0.06)


def test_one_step_of_midway_infilling_by_hand():
    schedule = Schedule(1, 0.19, 0.19)  # one step, of which 0.9 of the signal's size is left
    prior = torch.full((1, 1, 2), 3.0)
    found = sample(lambda x, t: 0.5 * x, prior, schedule, Sampling(tau=1, gamma=0.25))
    scale = (1 - 0.19 / math.sqrt(0.19) * 0.5) / 0.9
    begun = 0.75 * Noise(0, prior)() + 0.25 * 3.0
    assert torch.allclose(found, 0.75 * scale * begun + 0.25 * scale * 3.0)


def test_gamma_1_is_the_infilling_branch_alone_and_0_from_the_last_step_ddpm():
    schedule, prior = Schedule(50), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    denoise = gaussian(schedule, 0.7)
    calls = []

    def counted(x, t):
        calls.append(t)
        return denoise(x, t)

    ddpm = sample(denoise, prior, schedule, Sampling("ddpm"))
    assert torch.equal(sample(counted, prior, schedule, Sampling(tau=50, gamma=0)), ddpm) and len(calls) == 50
    filled, fresh = prior, Noise(1, prior)
    for t in range(20, 0, -1):
        filled = schedule.reverse(filled, denoise(filled, t), t, t - 1, fresh())
    calls.clear()
    assert torch.equal(sample(counted, prior, schedule, Sampling(tau=20, gamma=1)), filled) and len(calls) == 20
    # in between there are two evaluations a step, and close to either end it is close to it
    calls.clear()
    near = sample(counted, prior, schedule, Sampling(tau=20, gamma=1 - 1e-6))
    assert len(calls) == 40 and torch.allclose(near, filled, atol=1e-4)


def test_a_seed_is_a_sample_and_items_of_a_batch_are_generated_as_if_alone():
    schedule, prior = Schedule(20), torch.zeros(SHAPE)
    denoise = gaussian(schedule, 0.7)
    for how in (Sampling(tau=10), Sampling("ddpm")):
        whole = sample(denoise, prior, schedule, how)
        assert torch.equal(whole[1:], sample(denoise, prior[1:], schedule, how))
    assert torch.equal(Noise(3, prior)(), Noise(3, prior)()) and not torch.equal(Noise(3, prior)(), Noise(4, prior)())
    noise = Noise(3, prior)
    assert not torch.equal(noise(), noise())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "euler"}, "sampler is midway or ddpm or ddim or dpm, not 'euler'"),
        ({"gamma": 1.5}, "gamma is 0 to 1, not 1.5"),
        ({"steps": 0}, "steps is 1 or more, not 0"),
        ({"tau": -1}, "tau is 1 or more, not -1"),
    ],
)
def test_what_makes_no_sense_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Sampling(**options)


def test_no_variances_are_refused():
    with pytest.raises(ValueError, match="10 steps of noise of variances 0.1 to 1"):
        Schedule(10, 0.1, 1)
