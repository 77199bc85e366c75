"""Models of text and codes, how codes are drawn from them, and how texts are aligned: small numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from pscodec.downstream.aligner import Aligner, best_path
from pscodec.downstream.sampling import Sampling, nucleus, write_codes
from pscodec.downstream.valle import TOLD, AutoRegressive, FrameUnits, NonAutoRegressive, judged, spread
from pscodec.utils.scaled_adam import ScaledAdam
from pscodec.utils.schedules import Eden

SIZES = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden": 32, "dropout": 0.1}
TEXT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])


def first(aligned=False):
    torch.manual_seed(0)
    return AutoRegressive(10, 12, aligned=aligned, **SIZES).eval()


def second(prefix_mode=1):
    torch.manual_seed(0)
    return NonAutoRegressive(10, 12, 3, prefix_mode=prefix_mode, **SIZES).eval()


def codes(*shape, seed=0):
    return torch.randint(0, 12, shape, generator=torch.Generator().manual_seed(seed))


def test_judged_counts_nats_and_right_ones():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)], [9.0, 0.0]]])
    nats, right, count = judged(logits, torch.tensor([[1, 1, -1]])).tolist()
    assert (nats, right, count) == (pytest.approx(math.log(2) + math.log(4 / 3)), 1, 2)


def test_a_model_without_preference_pays_for_all_codes_and_the_end():
    model, batch = first(), {"text": TEXT, "codes": torch.full((2, 1, 7), -1)}
    batch["codes"][0, 0], batch["codes"][1, 0, :4] = 3, 5
    torch.nn.init.zeros_(model.head.weight), torch.nn.init.zeros_(model.head.bias)
    nats, _, count = model(batch).tolist()
    assert count == 7 + 1 + 4 + 1 and nats == pytest.approx(count * math.log(13), rel=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_codes_look_backwards_and_padding_is_not_seen(aligned):
    model, known, durations = first(aligned), codes(2, 9), torch.tensor([[2, 1, 2, 3, 1], [3, 3, 3, 0, 0]])
    logits, _ = model._told(TEXT, known, durations)
    changed = known.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 12
    other, _ = model._told(TEXT, changed, durations)
    assert torch.equal(logits[:, :6], other[:, :6]) and not torch.allclose(logits[:, 6], other[:, 6])
    alone, _ = model._told(TEXT[1:, :3], known[1:], durations[1:, :3])
    assert torch.allclose(alone, logits[1:], atol=1e-5)


@pytest.mark.parametrize(("aligned", "prompted"), [(False, 0), (False, 4), (True, 0)])
def test_the_cache_computes_what_the_whole_does(aligned, prompted):
    model, text = first(aligned), TEXT[:1]
    with torch.inference_mode():
        begun = model.begin(text, codes(1, prompted), 13)
        frames = begun.frames or 9
        known = torch.cat([codes(1, prompted), codes(1, frames, seed=1)], 1)
        durations = None
        if aligned:
            lasting = model.lasting(model.layers(model.text(text), None))[..., 0]
            durations = lasting.clamp(0, 6).exp().round().long()
            assert int(durations.sum()) == frames
        logits, _ = model._told(text, known, durations)
        assert torch.allclose(begun.logits, logits[:, prompted], atol=1e-5)
        for place in range(prompted, prompted + frames):
            assert torch.allclose(model.step(begun, known[:, place]), logits[:, place + 1], atol=1e-5)


def test_a_full_cache_takes_no_more():
    with torch.inference_mode():
        begun = first().begin(TEXT[:1], codes(1, 3), 4)
        first().step(begun, codes(1))
        with pytest.raises(ValueError, match="a cache of 10 frames cannot hold 11"):
            first().step(begun, codes(1))


def test_units_are_spread_over_their_frames():
    which, before, to_come = spread(torch.tensor([[2, 1], [1, 3]]), 4)
    assert which.tolist() == [[0, 0, 1, 2], [0, 1, 1, 1]]  # 2: none
    assert before.tolist() == [[0, 1, 0, 0], [0, 0, 1, 2]]
    assert to_come.tolist() == [[1, 0, 0, 0], [0, 2, 1, 0]]


def test_frames_are_told_their_units_and_their_places_in_them():
    torch.manual_seed(0)
    frame_units, units = FrameUnits(4), torch.randn(1, 2, 4)
    told = frame_units(units, torch.tensor([[2, TOLD + 3]]), TOLD + 6)[0]
    before, to_come = frame_units.before.weight, frame_units.to_come.weight
    torch.testing.assert_close(told[1], units[0, 0] + before[1] + to_come[0])
    torch.testing.assert_close(told[2], units[0, 1] + before[0] + to_come[TOLD - 1])  # longer than it counts
    torch.testing.assert_close(told[-2], units[0, 1] + before[TOLD - 1] + to_come[0])
    assert not told[-1].any()


@pytest.mark.parametrize("prefix_mode", [0, 1])
def test_a_stage_sees_the_codebooks_before_and_the_prompt(prefix_mode):
    model, known = second(prefix_mode), codes(2, 3, 8)
    logits = model.logits(TEXT, known, 1, 3)
    after = known.clone()
    after[:, 1:, 3:] = 0
    assert torch.equal(logits, model.logits(TEXT, after, 1, 3))  # neither what is asked nor what comes later
    before = known.clone()
    before[:, 2, 0] = (before[:, 2, 0] + 1) % 12
    assert not torch.allclose(logits, model.logits(TEXT, before, 1, 3))
    assert model({"text": TEXT, "codes": known}, 2, 3)[2] == 2 * 5


def test_stages_and_prefixes_are_drawn_by_the_step():
    drawn = [second().draw(torch.Generator().manual_seed(seed), 40) for seed in range(60)]
    assert {d["stage"] for d in drawn} == {1, 2} and {d["prefix"] for d in drawn} <= set(range(10, 20))
    assert max(second().draw(torch.Generator().manual_seed(s), 4000)["prefix"] for s in range(5)) == 225
    assert second(0).draw(torch.Generator(), 40)["prefix"] == 0
    with pytest.raises(ValueError, match="need no second model"):
        NonAutoRegressive(10, 12, 1, **SIZES)


def test_codes_of_the_other_codebooks_are_the_likeliest():
    model, known, prompt = second(), codes(1, 6), codes(1, 3, 4, seed=2)
    with torch.inference_mode():
        found = model.fill(TEXT[:1], known, prompt)
        assert torch.equal(found[:, 0], known)
        for stage in (1, 2):  # decided from what stands before
            logits = model.logits(TEXT[:1], torch.cat([prompt, found], 2), stage, 4)
            assert torch.equal(logits[:, 4:].argmax(2), found[:, stage])


def test_the_nucleus_has_the_likeliest():
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    assert torch.allclose(nucleus(shares, 0.6), torch.tensor([[0, 0.5, 0.3], [0, 0, 0.8]]))
    assert torch.allclose(nucleus(shares, 0.0), torch.tensor([[0, 0.5, 0], [0, 0, 0.8]]))
    assert torch.equal(nucleus(shares, 1.0), shares)


def test_a_code_that_repeats_itself_is_drawn_from_all():
    logits, rng = torch.tensor([[math.log(0.6), math.log(0.4)]]), torch.Generator().manual_seed(0)
    narrow = Sampling(top_p=0.5, window=4, repeated=0.5)
    other, same = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 0, 0, 1]])
    assert {int(narrow.draw(logits, other, rng)) for _ in range(50)} == {0}
    assert {int(narrow.draw(logits, same, rng)) for _ in range(50)} == {0, 1}
    assert {int(Sampling(top_p=0.5, window=0).draw(logits, same, rng)) for _ in range(50)} == {0}
    assert int(Sampling(temperature=0).draw(logits, same, rng)) == 0


def fixed(bias):
    """A first model that always thinks the same: logits `bias`."""
    model = first()
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data[:] = torch.tensor(bias)
    return model


def written(model, sampling, most=8, seed=0):
    prompt = torch.zeros(1, 0, dtype=torch.long)
    return write_codes(model, TEXT[:1], prompt, sampling, torch.Generator().manual_seed(seed), most)


def test_a_text_ends_or_does_not():
    never, at_once = [0.0] * 12 + [-99.0], [0.0] * 12 + [99.0]
    found, ended, worth = written(fixed(never), Sampling())
    assert (len(found), ended, worth) == (8, False, pytest.approx(-math.log(12), rel=1e-4))
    found, ended, worth = written(fixed(at_once), Sampling(temperature=0))
    assert (len(found), ended) == (1, True)  # a frame at least
    assert worth == pytest.approx((-math.log(12) + 0) / 2)


def test_the_likeliest_candidate_that_ends_is_taken():
    bias = [2.0, 0.0] + [-99.0] * 10 + [0.5]
    one = [written(fixed(bias), Sampling(top_p=1, window=0), 30, seed)[2] for seed in range(8)]
    many = [written(fixed(bias), Sampling(top_p=1, window=0, candidates=6), 30, seed) for seed in range(8)]
    assert all(ended for _, ended, _ in many) and np.mean([worth for *_, worth in many]) > np.mean(one) + 0.1
    again = written(fixed(bias), Sampling(top_p=1, window=0, candidates=6), 30, 3)
    assert torch.equal(again[0], many[3][0])


def test_an_aligned_model_writes_as_many_codes_as_it_has_said():
    model = first(aligned=True)
    model.lasting.weight.data.zero_()
    model.lasting.bias.data[:] = math.log(3)
    found, ended, _ = written(model, Sampling(), most=100)
    assert len(found) == 5 * 3 and ended and found.max() < 12
    found, ended, _ = written(model, Sampling(), most=7)
    assert len(found) == 7 and not ended


def test_the_best_path_goes_through_all_units():
    shares = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]
    logs = np.log(np.array(shares))
    assert best_path(logs, [1, 2]) == [(1, 2), (4, 4)]
    (_, last), (again, _), _ = best_path(logs, [1, 1, 2])
    assert again > last + 1  # none between equals
    assert best_path(logs, [1, 2, 1, 2, 1, 2]) is None
    long = np.log(np.full((400, 3), 1 / 3))
    assert len(best_path(long, [1, 2] * 90)) == 180


def test_durations_fill_the_recording():
    torch.manual_seed(0)
    aligner = Aligner(10, 12, 1, dim=16)
    for units, frames in (([3, 1, 4, 1, 5], 40), ([3, 1, 4, 1, 5, 9, 2, 6], 20)):
        durations = aligner.eval().durations(units, codes(1, frames))
        assert len(durations) == len(units) and sum(durations) == frames and min(durations) >= 1
    assert aligner.durations([1] * 30, codes(1, 20)) is None


def test_the_aligner_does_not_hear_padding():
    torch.manual_seed(0)
    aligner, known = Aligner(10, 12, 2, dim=16).eval(), codes(2, 2, 20)
    known[1, :, 12:] = -1
    alone = aligner({"text": TEXT[1:, :3], "codes": known[1:, :, :12]})
    both = aligner({"text": TEXT, "codes": known})
    other = aligner({"text": TEXT[:1], "codes": known[:1]})
    assert torch.allclose(both, alone + other, atol=1e-4) and both[2] == 8


# ---- what trains them


def test_scaled_adam_by_hand():
    # theta (.6, .8): root mean square sqrt(.5). g (2, -1): directions (1, -1); h = 1.2 - .8 > 0: the scale goes down.
    # Then g (0, 2), with betas of a half: m (.5, .75), v (1, 2.25), c = sqrt(.75) / .75: both directions .57735;
    # h = 1.725422, n = .962711, w = 1.528541: .899139.
    p = torch.nn.Parameter(torch.tensor([0.6, 0.8], dtype=torch.float64))
    optimizer = ScaledAdam([p], lr=0.1, betas=(0.5, 0.5), eps=1e-12, scale_lr=0.1)
    p.grad = torch.tensor([2.0, -1.0], dtype=torch.float64)
    optimizer.step()
    root = math.sqrt(0.5)
    assert p.tolist() == pytest.approx([0.6 - 0.1 * root - 0.006, 0.8 + 0.1 * root - 0.008], abs=1e-9)
    p.grad = torch.tensor([0.0, 2.0], dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == pytest.approx([0.4773913, 0.8137614], abs=1e-6)


def scaled(start, gradients, **keys):
    """Where ScaledAdam goes from `start` by a list of gradients."""
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = ScaledAdam([p], **{"lr": 0.1, "eps": 1e-12, **keys})
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return p.detach()


def test_scaled_adam_s_steps_are_relative():
    gradients = [[2.0, -1.0], [0.5, 0.3], [-1.0, 0.2]]
    end = scaled([0.6, 0.8], gradients)
    louder = scaled([0.6, 0.8], [[1000 * g for g in gradient] for gradient in gradients])
    smaller = scaled([0.06, 0.08], gradients)
    assert torch.allclose(louder, end, rtol=1e-6) and torch.allclose(smaller, 0.1 * end, rtol=1e-6)


def test_scaled_adam_s_limits_and_single_numbers():
    assert scaled([[5.0, -5.0]], [[[-1.0, -1.0]]], scale_lr=1.0).abs().sum() < 10  # h = 0: by itself it would stay
    assert scaled([0.0, 0.0], [[1.0, -1.0]]).tolist() == pytest.approx([-1e-6, 1e-6])  # lr times SMALLEST
    assert scaled(2.0, [4.0]).item() == pytest.approx(2 - 0.1 * 0.1)
    with pytest.raises(ValueError, match="betas at least 0 and below 1"):
        ScaledAdam([torch.nn.Parameter(torch.zeros(2))], betas=(0.9, 1.0))


def test_eden_by_hand():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = Eden(optimizer, steps_per_pass=60, steps=40, passes=2, warmup=10)
    rates = []
    for step in (0, 5, 10, 30, 119):
        schedule.set(step, 0.0)
        rates.append(optimizer.param_groups[0]["lr"])
    at_30 = (25 / 16) ** -0.25  # (30 / 40)^2 + 1
    at_119 = (1 + (119 / 40) ** 2) ** -0.25 * 1.25**-0.25  # a pass over, of two
    by_hand = [1.0, 1.5 * (1 + 1 / 64) ** -0.25, 2 * (1 + 1 / 16) ** -0.25, 2 * at_30, 2 * at_119]
    assert rates == pytest.approx(by_hand)


def test_code_dropout_by_what_the_model_would_have_spoken():
    torch.manual_seed(0)
    model = AutoRegressive(5, 16, 8, 1, 1, 16, 0.0, code_dropout=1.0, dropped_for="own")
    with torch.no_grad():  # it thinks of code 7 alone
        model.head.weight.zero_()
        model.head.bias[7] = 50
    text, codes = torch.tensor([[1, 2, 3]]), torch.randint(16, (1, 20))
    assert (model._own(text, codes, None) == 7).all()
    torch.nn.init.normal_(model.head.weight)
    model._own = lambda text, codes, durations: torch.full_like(codes, 7)
    found = model.train()._told(text, codes, None)[0]
    torch.testing.assert_close(found, model.eval()._told(text, torch.full_like(codes, 7), None)[0])
    with pytest.raises(ValueError, match="any or own"):
        AutoRegressive(5, 16, dropped_for="none", **SIZES)


def test_code_dropout_replaces_what_is_shown_and_not_what_is_asked_for():
    torch.manual_seed(0)
    model = AutoRegressive(5, 16, 8, 1, 1, 16, 0.0, code_dropout=1.0)
    batch = {"text": torch.tensor([[1, 2, 3]]), "codes": torch.randint(16, (1, 1, 20))}
    other = batch | {"codes": torch.cat([torch.randint(16, (1, 1, 19)), batch["codes"][..., 19:]], 2)}

    def last(batch):  # the logits of the last code, after all others
        return model._told(batch["text"], batch["codes"][:, 0], None)[0][:, 19]

    model.train()
    torch.manual_seed(1)
    one = last(batch)
    torch.manual_seed(1)
    assert torch.equal(one, last(other))  # nothing of the true codes is seen
    torch.manual_seed(1)
    assert not torch.equal(model(batch), model(batch))  # others every time
    model.eval()
    assert not torch.equal(last(batch), last(other)) and torch.equal(model(batch), model(batch))
