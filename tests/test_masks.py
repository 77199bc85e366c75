import pytest
import torch

from pscodec.downstream.masks import Masks, masked


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
