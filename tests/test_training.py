"""The GAN step: what must not change its result, on a tiny codec in float64.

Optimizers are SGD here: its steps are proportional to the gradients, where Adam's first ones are their signs and make
rounding errors of zero gradients as large as everything else. In float32 a gradient can jump by rounding as well: three
steps ask 7 million times on which side of its kink a rectifier is, and the answer differs where its argument is
+1.4e-7 by one order of sums and -2.2e-7 by another (seen on AVX2). In float64 the errors are too small to meet a kink,
and two steps that are the same but for the order of their sums differ by at most TOLERANCE of the largest number of
each tensor, and have moved it by MOVED or more.
"""

import copy
import functools
import runpy
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from pscodec.brains.codec import CodecBrain
from pscodec.types import Prompt
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
    "voiceprint": "none",
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
}


def new_brain(folder, lr=3e-3, lr_discriminators=3e-2, **keys):
    """A CodecBrain that has not begun."""
    text = resolve(compose(CONF / "pscodec_base_no_vpp.yaml", [CONF / "presets/mini.yaml"]), TINY | keys)
    torch.manual_seed(0)
    hp = build(text)
    hp["codec_optimizer"] = functools.partial(torch.optim.SGD, lr=lr)
    hp["discriminator_optimizer"] = functools.partial(torch.optim.SGD, lr=lr_discriminators)
    hp["scheduler"] = functools.partial(torch.optim.lr_scheduler.ConstantLR, factor=1)
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
    brain = training(tmp_path, residual_dropout=0.5, codebook_update="ema", accumulation=2)
    parts = list(*([(wav[:2], prompt.chunk(2)[0]), (wav[2:], prompt.chunk(2)[1])] for wav, prompt in batches(1)))
    before = [copy.deepcopy(module.state_dict()) for module in brain.counting_steps]
    seen = brain._preview(parts)
    assert all(same(a, b.state_dict()) for a, b in zip(before, brain.counting_steps, strict=True))
    assert all(torch.equal(a, brain._code(*part, False).wav_hat) for a, part in zip(seen, parts, strict=True))


def same(one, two):
    return all(torch.equal(one[k], two[k]) for k in one)


def test_a_compiled_step_is_a_step(tmp_path):
    from torch._dynamo.utils import counters

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
