"""The GAN step: what must not change its result, on a tiny codec in float64.

Optimizers are SGD here: its steps are proportional to the gradients, where Adam's first ones are their signs and make
rounding errors of zero gradients as large as everything else. In float32 a gradient can jump by rounding as well: three
steps ask 7 million times on which side of its kink a rectifier is, and the answer differs where its argument is
+1.4e-7 by one order of sums and -2.2e-7 by another (seen on AVX2). In float64 the errors are too small to meet a kink,
and two steps that are the same but for the order of their sums differ by at most TOLERANCE of the largest number of
each tensor, and have moved it by MOVED or more.
"""

import copy
import dataclasses
import functools
import runpy
from pathlib import Path

import pytest
import speechbrain as sb
import torch
from torch.overrides import TorchFunctionMode

from pscodec.brains.codec import CodecBrain
from pscodec.discriminators.base import ByBitrate, Discriminators
from pscodec.discriminators.mpd import MultiPeriodDiscriminator
from pscodec.losses.balancer import Balancer
from pscodec.losses.base import ModelLoss, WeightedSum
from pscodec.types import CodecOutput, Evidence, Prompt
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build, compose, resolve

CONF = Path(__file__).parents[1] / "recipes/LibriTTS/codec/conf"
TOLERANCE, MOVED = 1e-9, 2e-3
TINY = {
    "latent_dim": 16,
    "width": 4,
    "decoder_width": 16,
    "kernels": [3],
    "dilations": [1],
    "melp_width": 16,
    "melp_blocks": 1,
    "melp_hidden": 16,
    "codebook_size": 16,
    "n_residual": 2,
    "mpd_width": 2,
    "msstft_width": 2,
    "adversarial_start": 0,
    "adversarial_segment": 0.1,
    "quantize_start": 0,
    "kmeans_steps": 0,
    "restart_after": 2,
    "batch_size": 4,
    "lambda_quant": 5,
    "log_steps": 10**9,
    "collapse_after": 10**9,
    "seed": 2,  # whose stretches leave no number on the edge of a rectifier, which rounding would push over
}


@pytest.mark.parametrize("option", ["beam", "quantize_start", "channels"])
@pytest.mark.parametrize("config", ["dac", "apcodec"])
def test_an_option_that_no_part_takes_is_refused(tmp_path, config, option):
    main = runpy.run_path(str(CONF.parent / "train.py"))["main"]
    with pytest.raises(SystemExit, match=f"--{option}: no part of .*{config}.yaml takes it"):
        main([str(CONF / f"{config}.yaml"), "--exp", str(tmp_path / "exp"), f"--{option}", "2"])
    assert not (tmp_path / "exp").exists()


def new_brain(folder, lr=3e-3, lr_discriminators=3e-2, **keys):
    """A CodecBrain that has not begun."""
    text = resolve(compose(CONF / "pscodec_base_no_vpp.yaml", [CONF / "presets/mini.yaml"]), TINY | keys)
    torch.manual_seed(0)
    hp = build(text)
    hp["codec_optimizer"] = functools.partial(torch.optim.SGD, lr=lr)
    hp["discriminator_optimizer"] = functools.partial(torch.optim.SGD, lr=lr_discriminators)
    hp["scheduler"] = hp["discriminator_scheduler"] = functools.partial(torch.optim.lr_scheduler.ConstantLR, factor=1)
    for codebook in hp["codec"].quantizer.codebooks:
        torch.nn.init.normal_(codebook.entries)  # spread out, so that codes differ and none is nearly another
    return CodecBrain(
        modules={"codec": hp["codec"], "discriminators": hp["discriminators"]},
        hparams=hp,
        run_opts={"device": "cpu", "precision": "fp32", "noprogressbar": True},
        checkpointer=AtomicCheckpointer(folder / "save", {}),
    )


def training(folder, **keys):
    """A CodecBrain about to take its first step."""
    brain = new_brain(folder, **keys)
    brain.on_fit_start()
    brain.modules.train()
    return brain


def batches(steps, size=4):
    """`steps` batches of noise and a prompt that differs from item to item."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        mel = torch.randn(size, 80, 50, generator=rng)
        yield 0.1 * torch.randn(size, 1, 4800, generator=rng), Prompt(mel=mel)


class InDouble(TorchFunctionMode):
    """What the package takes out of bfloat16 by `.float()` stays in float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (torch.Tensor.double if function is torch.Tensor.float else function)(*args, **(kwargs or {}))


def trained(folder, steps=3, rank=0, world=1, **keys):
    """The state dict, buffers too, that a few steps lead to; of several processes, each takes its share of a batch."""
    brain = training(folder, **keys)
    brain.modules.double(), brain.hparams.losses.double()
    torch.manual_seed(2)
    with InDouble():
        for wav, prompt in batches(steps):
            prompt = Prompt(mel=prompt.mel.double())
            brain.fit_batch((wav.double().chunk(world)[rank], prompt.chunk(world)[rank]))
    return brain.modules.state_dict()


def distance(one, two):
    """The largest difference of two state dicts, beside the largest number of its tensor."""
    assert one.keys() == two.keys()
    pairs = [(a.double(), b.double()) for a, b in zip(one.values(), two.values(), strict=True)]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-3)) for a, b in pairs)


@pytest.mark.parametrize("keys", [{}, {"quantize_start": 9, "kmeans_steps": 10}, {"update": "simultaneous"}])
def test_a_step_in_parts_is_a_step(tmp_path, keys):
    start = {k: v.clone() for k, v in training(tmp_path, **keys).modules.state_dict().items()}
    whole, halves = (trained(tmp_path, accumulation=n, **keys) for n in (1, 2))
    assert distance(whole, halves) < TOLERANCE
    for part in ("codec.encoder", "codec.melp_enc", "codec.decoder", "discriminators"):
        there, here = ({k: v for k, v in state.items() if k.startswith(part)} for state in (start, whole))
        assert distance(here, there) > MOVED, part


def test_a_simultaneous_update_starts_from_one_point(tmp_path):
    def step(**keys):
        return trained(tmp_path, 1, **keys)

    def part(state, name):
        return {k: v for k, v in state.items() if k.startswith(name)}

    both, turns = step(update="simultaneous"), step()
    deaf = step(lr_discriminators=0.0)  # their turn changes nothing
    assert same(part(both, "discriminators"), part(turns, "discriminators"))
    assert distance(part(both, "codec"), part(deaf, "codec")) < TOLERANCE
    assert distance(part(both, "codec"), part(turns, "codec")) > MOVED / 10


def test_discriminators_learn_from_what_the_codecs_turn_will_decode(tmp_path):
    brain = training(tmp_path, n_q_dropout=0.5, codebook_update="ema", accumulation=2)
    ((wav, prompt),) = batches(1)
    # the entries of the step's last pass have moved when they are looked up
    plans = [dataclasses.replace(plan, ends_step=False) for plan in brain.planner.draw(3, 4, 4800).parts(2)]
    parts = list(zip(wav.chunk(2), prompt.chunk(2), plans, strict=True))
    before = copy.deepcopy(brain.modules.codec.state_dict())
    seen = brain._preview(parts)
    assert same(before, brain.modules.codec.state_dict())
    assert all(torch.equal(a, brain._code(*part).wav_hat) for a, part in zip(seen, parts, strict=True))


def same(one, two):
    return all(torch.equal(one[k], two[k]) for k in one)


def test_a_plan_is_a_function_of_seed_and_step(tmp_path):
    keys = {"n_q_dropout": 0.5, "prompt_dropout": 0.5, "discriminator_share": 0.5}
    planner, other = (training(tmp_path, **keys).planner for _ in range(2))
    assert planner.choices() == ["stretch", "learning", "prompted", "n_q"]
    plans = [planner.draw(step, 4, 4800) for step in range(60)]
    for step in (41, 7):  # asked in another order
        again = other.draw(step, 4, 4800)
        assert again.stretch == plans[step].stretch and torch.equal(again.drawn["n_q"], plans[step].drawn["n_q"])
    assert all(plan.stretch.stop - plan.stretch.start == 2400 and plan.stretch.stop <= 4800 for plan in plans)
    assert len({plan.stretch.start for plan in plans}) > 40
    n_q, prompted = (torch.stack([plan.drawn[name] for plan in plans]).float() for name in ("n_q", "prompted"))
    assert set(n_q.unique().tolist()) == {1, 2}
    for share in ((n_q == 1).float().mean(), prompted.mean(), sum(p.discriminators_learn for p in plans) / 60):
        assert 0.3 < share < 0.7
    assert training(tmp_path, adversarial_segment=0).planner.choices() == []
    first, second = plans[0].parts(2)
    assert torch.equal(torch.cat([first.drawn["n_q"], second.drawn["n_q"]]), plans[0].drawn["n_q"])
    assert (first.ends_step, second.ends_step) == (False, True)


def test_choices_of_items_do_not_depend_on_the_parts_a_step_is_taken_in(tmp_path):
    keys = {"n_q_dropout": 0.5, "prompt_dropout": 0.5}
    whole, halves = (trained(tmp_path, accumulation=n, **keys) for n in (1, 2))
    assert distance(whole, halves) < TOLERANCE


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_discriminators_that_do_not_learn_are_heard(tmp_path, update):
    start = {k: v.clone() for k, v in training(tmp_path).modules.discriminators.state_dict().items()}
    brain = training(tmp_path, discriminator_share=0.0, update=update)
    for batch in batches(2):
        brain.fit_batch(batch)
    assert same(start, brain.modules.discriminators.state_dict()) and brain.sums["adv"] > 0 and brain.sums["disc"] == 0


def test_a_number_of_codebooks_is_drawn_for_the_batch_and_counted(tmp_path):
    brain = training(tmp_path)
    brain.modules.codec.quantizer.drawn = (1, 2)
    seen = set()
    for step, batch in enumerate(batches(8)):
        brain.fit_batch(batch)
        seen.add(brain.planner.draw(step, 4, 4800).drawn["n_q"])
    both, first = brain.code_counts[1].sum().item(), brain.code_counts[0].sum().item()
    assert seen == {1, 2} and brain.code_counts.shape == (2, 16) and first == 8 * 4 * 15 and 0 < both < first


@pytest.mark.parametrize("keys", [{}, {"accumulation": 2}, {"update": "simultaneous"}])
def test_a_discriminator_of_each_bitrate_learns_in_its_steps(tmp_path, keys):
    brain = new_brain(tmp_path, **keys)
    brain.modules.codec.quantizer.drawn = (1, 2)
    part = functools.partial(MultiPeriodDiscriminator, (2,), 1)
    brain.modules.discriminators = Discriminators({"each": ByBitrate(part, (1, 2))})
    brain.on_fit_start()
    brain.modules.train()
    for step, batch in enumerate(batches(6)):
        before = copy.deepcopy(brain.modules.discriminators.state_dict())
        brain.fit_batch(batch)
        after = brain.modules.discriminators.state_dict()
        moved = {k.split(".")[2] for k in after if not torch.equal(after[k], before[k])}
        assert moved == {str(brain.planner.draw(step, 4, 4800).drawn["n_q"])}


class Counting(WeightedSum):
    """A loss with a state: how often it was called in training."""

    def __init__(self, terms, weights):
        super().__init__(terms, weights)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, evidence):
        self.calls += self.training
        return super().forward(evidence)


def test_losses_with_a_state_are_checkpointed(tmp_path):
    def with_state(folder):
        brain = new_brain(folder)
        losses = brain.hparams.losses
        brain.hparams.losses = Counting(losses.terms, losses.weights)
        brain.on_fit_start()
        return brain

    brain = with_state(tmp_path)
    for batch in batches(3):
        brain.fit_batch(batch)
    brain.hparams.losses.eval()(Evidence(batch[0], brain.modules.codec(*batch)))
    brain.checkpointer.save_checkpoint({"score": 1.0, **brain.meta()})
    assert with_state(tmp_path).hparams.losses.calls == 3
    brain = training(tmp_path / "stateless")
    brain.checkpointer.save_checkpoint({"score": 1.0})
    assert not list((tmp_path / "stateless").rglob("losses.ckpt"))


def test_a_balanced_run_that_is_resumed_equals_an_unbroken_one(tmp_path):
    def balanced(folder):
        brain = new_brain(folder)
        brain.hparams.losses = Balancer(brain.hparams.losses.terms, brain.hparams.losses.weights)
        brain.checkpointer.add_recoverables(dict(brain.modules.items()))
        brain.on_fit_start()
        brain.modules.train()
        return brain

    given = list(batches(4))
    brain = balanced(tmp_path)
    for batch in given[:2]:
        brain.fit_batch(batch)
    brain.checkpointer.save_checkpoint({"score": 1.0, **brain.meta()})
    for batch in given[2:]:
        brain.fit_batch(batch)
    resumed = balanced(tmp_path)
    assert resumed.optimizer_step == 2
    for batch in given[2:]:
        resumed.fit_batch(batch)
    assert resumed.hparams.losses.counts[0] == pytest.approx(1 - 0.999**4)
    assert same(brain.modules.state_dict(), resumed.modules.state_dict())
    assert same(brain.hparams.losses.state_dict(), resumed.hparams.losses.state_dict())


class Diffusion(torch.nn.Module):
    """A codec whose training gives no waveform, but a loss of its own."""

    def __init__(self, codec):
        super().__init__()
        self.codec = codec
        self.quantizer = codec.quantizer

    def forward(self, wav, prompt):
        output = self.codec(wav, prompt)
        return CodecOutput(losses={"diffusion": output.latents["z_q"].square().mean()})


def test_a_codec_without_a_waveform_trains_on_its_own_loss(tmp_path):
    brain = new_brain(tmp_path)
    brain.modules.codec = Diffusion(brain.modules.codec)
    brain.modules.discriminators = Discriminators()
    brain.hparams.losses = WeightedSum({"diffusion": ModelLoss("diffusion")}, {"diffusion": 1.0})
    brain.on_fit_start()
    before = brain.modules.codec.codec.encoder.last.weight.clone()
    for batch in batches(2):
        brain.fit_batch(batch)
    assert not torch.equal(before, brain.modules.codec.codec.encoder.last.weight)
    brain.on_stage_start(sb.Stage.VALID, 1)
    assert brain.evaluate_batch(batch, sb.Stage.VALID) > 0 and brain.example is None


def test_a_compiled_step_is_a_step(tmp_path):
    from torch._dynamo.utils import counters
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    if not pick_vec_isa():
        pytest.skip("torch's compiler writes C++ that does not compile where it finds no vector instructions")
    few = {"encoder_strides": [8], "decoder_strides": [8], "adversarial_start": 1}  # each layer takes seconds
    before = counters["stats"]["unique_graphs"]
    plain, compiled = (trained(tmp_path, steps=1, torch_compile=c, **few) for c in (False, True))
    assert distance(plain, compiled) < TOLERANCE and counters["stats"]["unique_graphs"] == before + 2


@pytest.mark.parametrize(("size", "world", "accumulation"), [(10, 4, 1), (10, 2, 2), (10, 1, 0)])
def test_a_batch_that_cannot_be_dealt_out_is_refused(recipe, size, world, accumulation):
    loaders = runpy.run_path(str(recipe / "train.py"))["loaders"]
    told = f"batch_size {size} does not divide by {world} processes and accumulation {accumulation}"
    with pytest.raises(UserError, match=told):
        loaders({"batch_size": size, "accumulation": accumulation}, range(20), range(2), world)


@pytest.mark.parametrize(("schedule", "first"), [("own", 1e-3), ("one_cycle", 1e-3 / 25)])
def test_codecs_of_other_papers_may_have_the_schedule_of_this_one(tmp_path, schedule, first):
    keys = {"lr": 1e-3, "total_steps": 100, "schedule": schedule, "n_residual": 2, "codebook_size": 16}
    hp = build(resolve(compose(CONF / "dac.yaml", [CONF / "presets/mini.yaml"]), keys))
    modules = {"codec": hp["codec"], "discriminators": hp["discriminators"]}
    options = {"device": "cpu", "precision": "fp32", "noprogressbar": True}
    brain = CodecBrain(modules, hparams=hp, run_opts=options, checkpointer=AtomicCheckpointer(tmp_path, {}))
    brain.init_optimizers()
    rates = [group["lr"] for optimizer in brain.optimizers_dict.values() for group in optimizer.param_groups]
    assert rates == pytest.approx([first, first])
    brain.hparams.schedule = "another"
    with pytest.raises(UserError, match="schedule is own or one_cycle, not 'another'"):
        brain.init_optimizers()
