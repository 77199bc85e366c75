import pytest
import torch

from pscodec.downstream.masks import Masks, masked
from pscodec.downstream.refiner import Refiner


def whole(mix, voices, sample_rate=8000):
    return Masks(sample_rate).push(mix, voices, last=True)


def tones(*frequencies, n=8000):
    t = torch.arange(n) / 8000
    return torch.stack([0.1 * torch.sin(2 * torch.pi * f * t) for f in frequencies])


def test_equal_estimates_share_the_mixture():
    mix = 0.1 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    for n_src in (2, 3):
        shares = whole(mix, mix.expand(n_src, -1))
        assert shares.shape == (n_src, 5000)
        torch.testing.assert_close(shares, (mix / n_src).expand(n_src, -1), atol=1e-6, rtol=0)


def test_a_batch_is_what_each_of_it_is_and_learns():
    generator = torch.Generator().manual_seed(0)
    mix, voices = (0.1 * torch.randn(2, n, 3000, generator=generator) for n in (1, 2))
    voices.requires_grad_()
    found = masked(mix, voices, 8000)
    for i in range(2):
        assert torch.equal(found[i], whole(mix[i], voices[i]))
    torch.testing.assert_close(found.sum(1), mix[:, 0], atol=1e-6, rtol=0)
    found[0, 0].square().sum().backward()
    assert voices.grad.isfinite().all() and voices.grad[0].any() and not voices.grad[1].any()
    louder = (voices - 0.1 * voices.grad).detach()
    assert masked(mix, louder, 8000)[0, 0].square().sum() < found[0, 0].square().sum()


def test_silence_in_the_estimates_loses_nothing():
    mix = 0.1 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole(mix, torch.zeros(2, 3000)).sum(0), mix[0], atol=1e-6, rtol=0)


def test_estimates_without_phases_give_the_sources_with_theirs():
    sources = tones(500, 1500)
    t = torch.arange(8000) / 8000
    estimates = torch.stack([0.02 * torch.cos(2 * torch.pi * f * t + 1.0) for f in (500, 1500)])
    found = whole(sources.sum(0, keepdim=True), estimates)
    error = (found - sources)[:, 400:-400].square().mean() / sources.square().mean()
    assert 10 * error.log10() < -30


@pytest.mark.parametrize("sizes", [[1, 7, 100, 127, 128, 129, 1000, 508], [700, 1300], [2000], [0, 3]])
@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_pieces_give_what_the_whole_gives(sizes, sample_rate):
    n = sum(sizes)
    g = torch.Generator().manual_seed(1)
    mix, voices = torch.randn(1, n, generator=g), torch.randn(2, n, generator=g)
    masks, pieces, at = Masks(sample_rate), [], 0
    for i, size in enumerate(sizes):
        part = slice(at, at + size)
        pieces.append(masks.push(mix[:, part], voices[:, part], last=i == len(sizes) - 1))
        at += size
    torch.testing.assert_close(torch.cat(pieces, 1), whole(mix, voices, sample_rate), atol=1e-5, rtol=0)
    assert whole(mix, voices, sample_rate).shape == (2, n)


# ---- corrected


@pytest.fixture
def refiner():
    """One that corrects at random, with a short context."""
    torch.manual_seed(0)
    refiner = Refiner(4, 3).requires_grad_(False)
    for parameter in refiner.parameters():
        parameter.normal_(std=0.3)
    return refiner


def test_an_untrained_refiner_changes_nothing():
    g = torch.Generator().manual_seed(1)
    mix, voices = torch.randn(1, 1, 3000, generator=g), torch.randn(1, 3, 3000, generator=g)
    with torch.no_grad():
        assert torch.equal(masked(mix, voices, 8000, Refiner(4, 2)), masked(mix, voices, 8000))


@pytest.mark.parametrize("size", [1000, 3333, 9999, 20000])
def test_pieces_are_corrected_as_the_whole_is(refiner, size):
    g = torch.Generator().manual_seed(1)
    mix, voices = torch.randn(1, 20000, generator=g), torch.randn(2, 20000, generator=g)
    whole = masked(mix[None], voices[None], 8000, refiner)[0]
    masks = Masks(8000, refiner, mix.abs().max().item())
    pieces = list(zip(mix.split(size, 1), voices.split(size, 1), strict=True))
    found = torch.cat([masks.push(*piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)], 1)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(0), mix[0], atol=1e-5, rtol=0)
    assert (found - masked(mix[None], voices[None], 8000)[0]).abs().max() > 0.1
    held = Masks(8000, refiner)
    held.push(mix, voices)
    assert held.spectra.shape[1] <= 2 * refiner.context, "memory does not grow"


def test_neither_level_nor_the_order_of_talkers_matters_to_a_refiner(refiner):
    g = torch.Generator().manual_seed(1)
    mix, voices = torch.randn(1, 1, 3000, generator=g), torch.randn(1, 3, 3000, generator=g)
    found = masked(mix, voices, 8000, refiner)
    torch.testing.assert_close(masked(0.1 * mix, 0.1 * voices, 8000, refiner), 0.1 * found, atol=1e-4, rtol=0)
    torch.testing.assert_close(masked(mix, voices.flip(1), 8000, refiner), found.flip(1), atol=1e-4, rtol=0)


def test_a_refiner_learns_what_estimates_lack():
    """Both estimates have the same two tones, one a little louder in each: masks of them hardly separate."""
    torch.manual_seed(0)
    sources = tones(500, 1500)
    mix, voices = (
        sources.sum(0)[None, None],
        sources + 0.7 * sources.flip(0),
    )
    refiner = Refiner(4, 1)
    optimizer = torch.optim.Adam(refiner.parameters(), 0.02)
    errors = []
    for _ in range(40):
        error = (masked(mix, voices[None], 8000, refiner)[0] - sources).square().mean() / sources.square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 0.15 and errors[-1] < 0.2 * errors[0], errors
