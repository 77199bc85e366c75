"""Quantizers against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from pscodec.quantizers.codebook import Codebook
from pscodec.quantizers.fsq import FSQ
from pscodec.quantizers.rvq import GroupResidualVQ, ResidualVQ
from pscodec.types import Plan


def fixed(entries, **options):
    book = Codebook(len(entries), len(entries[0]), kmeans_steps=0, **options)
    book.entries.data.copy_(torch.tensor(entries, dtype=torch.float32))
    return book


def test_nearest_is_euclidean():
    book = fixed([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    x = torch.tensor([[1.0, 1.0], [3.0, 3.0], [7.0, 0.5], [6.4, 0.0]])
    # the last: distances^2 40.96, 27.56 (to [3, 4]), 12.96
    assert book.nearest(x).tolist() == [0, 1, 2, 2]


def test_losses_gradients_and_straight_through_by_hand():
    rvq = ResidualVQ(2, codebook_size=2, commitment=0.25, kmeans_steps=0, restart_after=0)
    rvq.layers[0].entries.data.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    z = torch.tensor([[[2.0], [1.0]]], requires_grad=True)  # [B, D, T]; nearest [1, 1], difference [1, 0]
    q = rvq(z)
    assert q.codes.tolist() == [[[0]]]
    assert q.z_q.flatten().tolist() == [1.0, 1.0]
    # element means: codebook (1 + 0) / 2, commitment 0.25 of the same
    assert q.loss.item() == pytest.approx(0.5 + 0.125)
    (q.loss + (q.z_q * torch.tensor([[[3.0], [5.0]]])).sum()).backward()
    # straight-through [3, 5] plus commitment 0.25 * 2 * [1, 0] / 2
    assert z.grad.flatten().tolist() == pytest.approx([3.25, 5.0])
    # codebook 2 * (e - z) / 2 = [-1, 0], only for the chosen entry
    assert rvq.layers[0].entries.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_residual_layers_by_hand():
    rvq = ResidualVQ(1, codebook_size=2, n_residual=2, kmeans_steps=0, restart_after=0)
    rvq.layers[0].entries.data.copy_(torch.tensor([[4.0], [-4.0]]))
    rvq.layers[1].entries.data.copy_(torch.tensor([[1.0], [-1.0]]))
    q = rvq(torch.tensor([[[5.5, 2.5, -3.2]]]))
    assert q.codes.tolist() == [[[0, 0, 1], [0, 1, 0]]]
    assert q.z_q.tolist() == [[[5.0, 3.0, -3.0]]]
    assert torch.equal(rvq.decode(q.codes), q.z_q)


def test_beam_search_by_hand_and_against_every_pair():
    rvq = ResidualVQ(1, codebook_size=2, n_residual=2, kmeans_steps=0, restart_after=0, beam=2)
    rvq.layers[0].entries.data.copy_(torch.tensor([[0.0], [4.0]]))
    rvq.layers[1].entries.data.copy_(torch.tensor([[2.5], [9.0]]))
    z = torch.tensor([[[2.2]]])
    assert rvq(z).codes.flatten().tolist() == [1, 0]  # in training the nearest, 4, though 6.5 is what comes of it
    assert rvq.eval()(z).codes.flatten().tolist() == [0, 0]
    for beam in (1, 3, 8, 100):  # 100: more paths than there are
        rvq = ResidualVQ(6, codebook_size=8, n_residual=2, beam=beam)
        for layer in rvq.layers:
            layer.entries.data.normal_()
            layer.started.fill_(True)
        z = torch.randn(2, 6, 30)
        q = rvq.eval()(z)
        error = (q.z_q - z).square().sum(1)
        pairs = rvq.layers[0].entries[:, None] + rvq.layers[1].entries[None]
        least = torch.cdist(z.transpose(1, 2), pairs.flatten(0, 1)).square().amin(2)
        assert torch.allclose(rvq.decode(q.codes), q.z_q, atol=1e-6)
        assert torch.allclose(error, least, atol=1e-5) if beam >= 8 else (error >= least - 1e-5).all()
    nearest = torch.cdist(z.transpose(1, 2), rvq.layers[0].entries).argmin(2)
    assert torch.equal(rvq(z, 1).codes[:, 0], nearest)


@pytest.mark.parametrize(("residual_grad", "expected"), [("all", 0.25), ("first", 0.25 * 1.5 / 2 * 2)])
def test_which_commitments_reach_the_encoder(residual_grad, expected):
    rvq = ResidualVQ(1, 2, n_residual=2, kmeans_steps=0, restart_after=0, residual_grad=residual_grad)
    rvq.layers[0].entries.data.copy_(torch.tensor([[4.0], [-4.0]]))
    rvq.layers[1].entries.data.copy_(torch.tensor([[1.0], [-1.0]]))
    z = torch.tensor([[[5.5]]], requires_grad=True)
    rvq(z).loss.backward()
    # mean over two layers of 0.25 * 2 * residual: 1.5 from the first, 0.5 from the second
    first, second = 0.25 * 2 * 1.5 / 2, 0.25 * 2 * 0.5 / 2
    assert z.grad.item() == pytest.approx(first + (second if residual_grad == "all" else 0))


def test_groups_are_independent_and_in_order():
    grvq = GroupResidualVQ(4, n_groups=2, codebook_size=8, n_residual=2)
    z = torch.randn(3, 4, 40)
    grvq(z)
    grvq.eval()
    q = grvq(z)
    assert q.codes.shape == (3, 4, 40) and grvq.n_q == 4 and len(grvq.codebooks) == 4
    assert torch.equal(grvq.groups[1](z[:, 2:]).codes, q.codes[:, 2:])
    assert torch.allclose(grvq.decode(q.codes), q.z_q, atol=1e-6)
    with pytest.raises(ValueError, match="divide"):
        GroupResidualVQ(5, n_groups=2)


def test_ema_moves_entries_to_the_mean_of_their_vectors():
    book = fixed([[0.0], [10.0]], update="ema", decay=0.5, restart_after=0)
    book.sums.copy_(book.entries)
    book(torch.tensor([[1.0], [3.0], [8.0]]))
    # counts .5 * 1 + .5 * [2, 1]; sums .5 * [0, 10] + .5 * [4, 8]
    assert book.counts.tolist() == [1.5, 1.0]
    assert book.entries.flatten().tolist() == pytest.approx([2 / 1.5, 9.0])
    assert not book.entries.requires_grad


def test_kmeans_starts_on_the_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 9.0]])
    x = centres.repeat(50, 1) + 0.01 * torch.randn(150, 2)
    book = Codebook(3, 2, kmeans_steps=20, restart_after=0)
    book(x)
    assert book.started
    distance = torch.cdist(centres, book.entries.detach())
    assert len(book(x).unique()) >= 2 and distance.min(1).values.min() < 0.1


def test_an_unused_entry_is_restarted_after_so_many_steps_and_evaluation_changes_nothing():
    book = fixed([[0.0], [100.0]], restart_after=3)
    x = torch.tensor([[0.5], [-0.5]])
    for _ in range(2):
        book(x)
    assert book.entries[1].item() == 100.0 and book.idle.tolist() == [0, 2]
    book.eval()
    book(x)
    assert book.idle.tolist() == [0, 2]
    book.train()
    book(x)
    assert book.entries[1].item() in (0.5, -0.5) and book.idle.tolist() == [0, 0]


def test_an_entry_used_too_little_in_the_mean_is_restarted():
    book = fixed([[0.0], [100.0]], update="ema", decay=0.5, restart_after=0, restart_below=2)
    book.counts.copy_(torch.tensor([2.0, 6.0]))
    book.sums.copy_(torch.tensor([[0.0], [600.0]]))
    x = torch.tensor([[1.0], [1.0]])
    book(x)  # used 2 and .5 * 6 = 3 times in the mean
    assert book.counts.tolist() == [2.0, 3.0] and book.entries.flatten().tolist() == [0.5, 100.0]
    book(x)  # 1.5 is too little; the entry counts as used twice from here
    assert book.counts.tolist() == [2.0, 2.0] and book.sums.flatten().tolist() == [1.5, 2.0]
    assert book.entries.flatten().tolist() == [0.75, 1.0]
    with pytest.raises(ValueError, match="as ema codebooks do"):
        Codebook(2, 1, restart_below=2)


def test_codes_do_not_change_under_autocast():
    torch.manual_seed(0)
    rvq = ResidualVQ(32, 64).eval()
    z = torch.randn(2, 32, 50)
    with torch.autocast("cpu", torch.bfloat16):
        codes = rvq(z).codes
    assert torch.equal(codes, rvq(z).codes)


def test_a_late_start_lets_the_latents_through_in_training_only():
    rvq = ResidualVQ(4, 8, start=2)
    z = torch.randn(1, 4, 30)
    for _ in range(2):
        assert torch.equal(rvq(z).z_q, z) and not rvq.layers[0].started
        assert not torch.equal(rvq.eval()(z).z_q, z)
        rvq.train()
    assert not torch.equal(rvq(z).z_q, z) and rvq.layers[0].started


def test_options_are_checked():
    with pytest.raises(ValueError, match="grad or ema"):
        Codebook(4, 2, update="adam")
    with pytest.raises(ValueError, match="all or first"):
        ResidualVQ(4, residual_grad="some")
    with pytest.raises(ValueError, match=r"drawn from \[1, 3\]"):
        GroupResidualVQ(4, n_residual=2, drawn=[1, 3])


def test_dropout_decodes_some_items_from_the_first_layers_only_and_only_in_training():
    torch.manual_seed(0)
    vq = GroupResidualVQ(4, codebook_size=8, n_residual=3, dropout=1.0)
    z = torch.randn(16, 4, 5)
    vq.plan = Plan(vq.draw(np.random.default_rng(0), 16))
    out = vq(z)
    depths = [
        next(n for n in (1, 2, 3) if torch.allclose(vq.decode(codes[None, :n])[0], z_q, atol=1e-5))
        for codes, z_q in zip(out.codes, out.z_q, strict=True)
    ]
    assert set(depths) == {1, 2} and depths == vq.plan.drawn["n_q"].tolist()
    vq.eval()
    out = vq(z)
    assert torch.allclose(out.z_q, vq.decode(out.codes), atol=1e-5)


def test_coding_with_fewer_codebooks_takes_the_first_of_each_group_and_cuts_nothing():
    torch.manual_seed(0)
    vq = GroupResidualVQ(4, n_groups=2, codebook_size=8, n_residual=3, kmeans_steps=0).eval()
    z = torch.randn(2, 4, 5)
    every = vq(z).codes
    assert list(vq.n_q_choices) == [2, 4, 6] and vq.n_q == 6 and vq.n_q_trained == [6]
    state = {k: v.clone() for k, v in vq.state_dict().items()}
    vq.n_q = 4
    fewer = vq(z)
    assert vq.n_q == 4 and torch.equal(fewer.codes, every[:, [0, 1, 3, 4]])
    assert torch.allclose(vq.decode(fewer.codes), fewer.z_q, atol=1e-6)
    assert vq.decode(every).shape == z.shape, "codes of more than are in use are decoded, too"
    vq.n_q = None
    assert torch.equal(vq(z).codes, every) and all(torch.equal(state[k], v) for k, v in vq.state_dict().items())
    with pytest.raises(ValueError, match="3 codebooks; it can be 2 4 6"):
        vq.n_q = 3


def test_training_with_fewer_codebooks_teaches_only_those():
    vq = GroupResidualVQ(4, codebook_size=8, n_residual=3, kmeans_steps=0, restart_after=0)
    vq.n_q = 2
    vq(torch.randn(2, 4, 5)).loss.backward()
    assert [book.entries.grad is not None for book in vq.codebooks] == [True, True, False]


def test_finite_scalars_by_hand():
    """Two codes a frame, of three levels (-1, 0, 1) times four (-2, -1, 0, 1)."""
    fsq = FSQ(4, levels=[3, 4], n_groups=2)
    torch.nn.init.eye_(fsq.project_in.weight)
    torch.nn.init.eye_(fsq.project_out.weight)
    torch.nn.init.zeros_(fsq.project_in.bias), torch.nn.init.zeros_(fsq.project_out.bias)
    z = torch.tensor([[[9.0, 0.1], [-9.0, 0.0], [-9.0, 0.0], [9.0, -0.1]]], requires_grad=True)  # [1, 4, 2]
    q = fsq(z)
    # digits: (2, 0) and (0, 3), then (1, 2) twice, the first of them the least
    assert q.codes.tolist() == [[[2, 7], [9, 7]]]
    assert q.z_q[0].tolist() == [[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]]
    assert (fsq.codebook_size, fsq.n_q, fsq.n_groups, q.loss.item()) == (12, 2, 2, 0.0)
    assert torch.equal(fsq.decode(q.codes), q.z_q)
    q.z_q.sum().backward()
    # through the rounding as if it were not there: of 3 levels 1.001 tanh' (0.1), where 9 is at its end
    assert z.grad[0, 0].tolist() == pytest.approx([0.0, 1.001 * (1 - np.tanh(0.1) ** 2)], abs=1e-5)


@pytest.mark.parametrize("levels", [[3], [8, 8, 8], [8, 5, 5, 5], [3, 4]])
def test_all_levels_are_used_and_read_back(levels):
    torch.manual_seed(0)
    fsq = FSQ(6, levels)
    torch.nn.init.eye_(fsq.project_in.weight)
    q = fsq(4 * torch.rand(4, 6, 20000) - 2)
    assert q.codes.shape == (4, 1, 20000) and len(q.codes.unique()) == fsq.codebook_size == np.prod(levels)
    assert q.codes.min() == 0 and q.codes.max() == fsq.codebook_size - 1
    assert torch.allclose(fsq.decode(q.codes), q.z_q, atol=1e-5)
    assert fsq.decode(q.codes[..., :0]).shape == (4, 6, 0)


def test_finite_scalars_are_of_three_levels_at_least():
    for levels in ([], [8, 2]):
        with pytest.raises(ValueError, match="3 at least"):
            FSQ(6, levels)
