"""Streams and long recordings against one pass over the whole: codes, waveform, latency, time and memory."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from pscodec.data.audio import load_audio
from pscodec.layers.push import Held
from pscodec.models.optimise import optimise
from pscodec.streaming import StreamDecoder, StreamEncoder, decode_long, encode_long
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve

CONF = Path(__file__).parents[1] / "recipes/LibriTTS/codec/conf"
MINI = CONF / "presets/mini.yaml"
RATE, HOP = 24000, 320


@pytest.fixture(scope="module")
def speech(mini_corpus):
    """60 s of real speech, `[1, 1, L]`; not whole frames."""
    parts, missing = [], 60 * RATE - 77
    for path in sorted(mini_corpus.rglob("*.wav"))[::9]:
        parts.append(load_audio(path, RATE)[0][:, :missing])
        missing -= parts[-1].shape[1]
        if missing == 0:
            return torch.cat(parts, 1)[None]
    raise AssertionError("less than 60 s of speech")


def codec(speech, *presets, **overrides):
    """A codec with random weights whose codebooks spread over the latents of speech, and a speaker's vectors."""
    torch.manual_seed(0)
    model = build_only(resolve(compose(CONF / "pscodec_base.yaml", presets), overrides), "codec").eval()
    with torch.inference_mode():
        z = model.encoder(model.pad(speech[..., : 7 * RATE]))
        for group, part in zip(model.quantizer.groups, z.chunk(len(model.quantizer.groups), 1), strict=True):
            residual = group.project_in(part.transpose(1, 2)).flatten(0, 1)
            for layer in group.layers:
                layer.entries.data.copy_(residual[torch.randperm(len(residual))[: layer.size]])
                residual = residual - layer.lookup(layer.nearest(residual))
    return model, {"z_vp": torch.randn(1, z.shape[1], 1), "z_mel": torch.randn(1, z.shape[1], 1)}


@pytest.fixture(scope="module")
def mini(speech):
    return codec(speech, MINI, n_residual=2)


@pytest.fixture(scope="module")
def whole(mini, speech):
    """Codes and waveform of one pass over the 60 s."""
    model, side = mini
    codes = model.encode(speech)
    assert len(codes.unique()) > 400  # else equal codes would say little
    return codes, model.decode(codes, side)


@torch.inference_mode()
def assert_equal_but_for_ties(model, wav, codes, others):
    """Codes may differ where the two entries in question are equally far from what they code, by less than 1e-4."""
    assert codes.shape == others.shape
    z = model.encoder(model.pad(wav))
    at = 0
    for group, part in zip(model.quantizer.groups, z.chunk(len(model.quantizer.groups), 1), strict=True):
        residual = group.project_in(part.transpose(1, 2))[0].double()
        for k, layer in enumerate(group.layers):
            mine, other = codes[0, at + k], others[0, at + k]
            same_so_far = (codes[0, at : at + k] == others[0, at : at + k]).all(0)
            differ = (mine != other) & same_so_far
            far = [(residual - layer.entries[c].double()).norm(dim=1) for c in (mine, other)]
            assert (far[0] - far[1]).abs()[differ].max().item() < 1e-4 if differ.any() else True
            residual = residual - layer.entries[mine].double()
        at += len(group.layers)
    differing = (codes != others).any(1).sum().item()
    assert differing <= codes.shape[-1] // 1000 + 1  # a tie is rare
    return differing


def streamed(stream, x, size):
    return torch.cat([*(stream.push(piece) for piece in x.split(size, -1)), stream.finish()], -1)


@pytest.mark.parametrize("seconds", [0.5, 3.21, 20.0])
def test_a_minute_in_chunks_equals_one_pass(mini, whole, speech, seconds):
    (model, side), (codes, wav) = mini, whole
    blocks = speech.split(31111, -1)  # however the recording is read
    chunked = torch.cat(list(encode_long(model, blocks, seconds)), -1)
    assert_equal_but_for_ties(model, speech, codes, chunked)
    decoded = torch.cat(list(decode_long(model, codes.split(97, -1), side, seconds)), -1)
    assert decoded.shape == wav.shape
    torch.testing.assert_close(decoded, wav, atol=1e-4, rtol=0)


@pytest.mark.parametrize("milliseconds", [20, 80, 1000])
def test_pushes_of_a_microphone_equal_one_pass(mini, speech, milliseconds):
    model, side = mini
    speech = speech[..., : 3 * RATE + 123]
    codes = model.encode(speech)
    size = milliseconds * RATE // 1000
    assert_equal_but_for_ties(model, speech, codes, streamed(StreamEncoder(model), speech, size))
    wav = streamed(StreamDecoder(model, side), codes, max(1, size // HOP))
    torch.testing.assert_close(wav, model.decode(codes, side), atol=1e-4, rtol=0)


@pytest.mark.parametrize("overrides", [{}, {"norm": "layer", "n_groups": 2, "codebook_dim": 8}])
def test_the_paper_sized_codec_in_three_chunk_sizes(speech, overrides):
    model, side = codec(speech, **overrides) if not overrides else codec(speech, MINI, **overrides)
    speech = speech[..., 7 * RATE : 8 * RATE + 100]
    codes = model.encode(speech)
    wav = model.decode(codes, side)
    for seconds in (0.2, 0.4, 0.9):
        assert_equal_but_for_ties(model, speech, codes, torch.cat(list(encode_long(model, [speech], seconds)), -1))
        decoded = torch.cat(list(decode_long(model, [codes], side, seconds)), -1)
        torch.testing.assert_close(decoded, wav, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [0, 1, 320, 321, 7485])
def test_streams_of_any_length(mini, speech, length):
    model, side = mini
    wav = speech[..., 30000 : 30000 + length]
    codes = streamed(StreamEncoder(model), wav, 999)
    assert codes.shape == (1, 2, max(1, -(-length // HOP)))
    assert torch.equal(codes, model.encode(wav))
    decoded = streamed(StreamDecoder(model, side), codes, 1)
    torch.testing.assert_close(decoded, model.decode(codes, side), atol=1e-5, rtol=0)


def test_a_batch_is_its_items_and_a_finished_stream_begins_anew(mini, speech):
    model, side = mini
    wavs = speech[..., : 4 * RATE].reshape(2, 1, -1)
    encoder, single = StreamEncoder(model, batch=2), StreamEncoder(model)
    codes = streamed(encoder, wavs, 5000)
    assert torch.equal(codes, torch.cat([streamed(single, wav[None], 9999) for wav in wavs]))
    side = {name: torch.cat([z, -z]) for name, z in side.items()}
    decoder = StreamDecoder(model, side, batch=2)
    wav = streamed(decoder, codes, 30)
    torch.testing.assert_close(wav, model.decode(codes, side), atol=1e-5, rtol=0)
    decoder.push(codes[..., :40])  # a call that was broken off
    decoder.reset()
    assert torch.equal(streamed(decoder, codes, 30), wav)


def test_a_stream_without_a_prompt(mini):
    model, _ = mini
    codes = torch.randint(0, 512, (2, 2, 30))
    wav = streamed(StreamDecoder(model, {}, batch=2), codes, 7)
    torch.testing.assert_close(wav, model.decode(codes, {}), atol=1e-5, rtol=0)


def test_nothing_in_nothing_out(mini):
    model, side = mini
    encoder, decoder = StreamEncoder(model), StreamDecoder(model, side)
    assert encoder.push(torch.zeros(1, 1, 0)).shape == (1, 2, 0)
    codes = encoder.push(torch.zeros(1, 1, 5))
    assert codes.shape == (1, 2, 0) and codes.dtype == torch.int64
    assert decoder.push(codes).shape == decoder.finish().shape == (1, 1, 0)


def test_wrong_shapes_are_told(mini):
    model, side = mini
    with pytest.raises(ValueError, match=r"expected wav \[1, 1, n\], got \[1, 480\]"):
        StreamEncoder(model).push(torch.zeros(1, 480))
    with pytest.raises(ValueError, match=r"expected codes \[1, 2, t\], got \[1, 3, 9\]"):
        StreamDecoder(model, side).push(torch.zeros(1, 3, 9, dtype=torch.long))


# Latency. An output of the mini encoder waits for what the layers behind it reach: counted back from frame 0, the last
# convolution (kernel 3) needs frame 1; residual blocks of kernel 7 and dilations 1 and 3 need 3 + 3 + 9 + 3 = 18 more;
# a strided one (kernel 2s, padding ceil(s / 2)) turns index i into s * i - ceil(s / 2) + 2s - 1:
# 1 + 18 = 19 -> 8 * 19 + 11 = 163, + 18 = 181 -> 5 * 181 + 6 = 911, + 18 -> 4 * 929 + 5 = 3721, + 18 -> 2 * 3739 + 2
# = 7480, and the first convolution (kernel 7) + 3 = 7483: 7484 samples. At the paper's size the blocks (kernel 11,
# dilations 1, 3, 5) need 60: 23,024. The decoder after n frames: n - 3 -> 4 (n - 3) - 2 - 18 = 4 n - 32 ->
# 16 n - 148 -> 64 n - 612 -> 320 n - 3060 - 3 - 18 - 3 = 320 n - 3084; at the paper's size 320 n - 7536.


def test_latency_by_hand(mini):
    model, side = mini
    assert StreamEncoder(model).latency == 7484
    assert StreamDecoder(model, side).latency == 3084
    paper = build_only(resolve(compose(CONF / "pscodec_base.yaml")), "codec").eval()
    assert StreamEncoder(paper).latency == 23024
    assert StreamDecoder(paper, {"z_vp": torch.zeros(1, 512, 1)}).latency == 7536


def test_output_starts_at_the_latency_and_keeps_its_pace(mini, speech):
    model, side = mini
    encoder, decoder = StreamEncoder(model), StreamDecoder(model, side)
    sizes = [encoder.latency - 1, 1, HOP - 1, 1, 3 * HOP - 1, 1]
    sent = [encoder.push(x).shape[-1] for x in speech[..., : sum(sizes)].split(sizes, -1)]
    assert sent == [0, 1, 0, 1, 2, 1]
    codes = torch.randint(0, 512, (1, 2, 30))
    lengths = [decoder.push(x).shape[-1] for x in codes.split(1, -1)]
    # 10 frames are 3,200 samples, 116 more than the latency; then a frame a frame
    assert lengths == [0] * 9 + [116] + [320] * 20


@torch.no_grad()
def test_the_latency_is_what_an_output_depends_on():
    model = build_only(resolve(compose(CONF / "pscodec_base.yaml", [MINI])), "codec").eval()
    # every path from input to output counts one, and nothing else is there
    for layer in [*model.encoder.modules(), *model.decoder.modules()]:
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            if is_parametrized(layer):
                remove_parametrizations(layer, "weight")
            nn.init.constant_(layer.weight, 1 / layer.in_channels)
            nn.init.zeros_(layer.bias)
    last = 20 * HOP + StreamEncoder(model).latency - 1  # the last sample that frame 20 sees
    wav = torch.zeros(3, 1, 60 * HOP)
    wav[0, 0, last] = wav[1, 0, last + 1] = 1
    assert (model.encoder(wav)[:, :, 20] != 0).any(1).tolist() == [True, False, False]
    z_q = torch.zeros(1, 256, 40)
    z_q[..., 25] = 1  # frame 25 first shows in sample 25 * 320 - latency
    assert model.synthesise(z_q, {}).flatten().nonzero()[0].item() == 25 * HOP - StreamDecoder(model, {}).latency


# Constant time and memory


def held(pushed):
    """Bytes that a network in push form keeps between pushes."""
    kept = [value for _, form, _ in pushed.steps for value in vars(form).values()]
    kept = [v for value in kept for v in (value if isinstance(value, list) else [value])]
    kept = [v.x if isinstance(v, Held) else v for v in kept]
    return sum(v.untyped_storage().nbytes() for v in kept if isinstance(v, torch.Tensor))


def test_every_push_costs_the_same(mini, speech):
    model, side = mini
    encoder, decoder = StreamEncoder(model), StreamDecoder(model, side)
    seconds, sizes = [], []
    for _ in range(10):
        started = time.process_time()
        for piece in speech[..., : 10 * RATE].split(RATE, -1):
            decoder.push(encoder.push(piece))
        seconds.append(time.process_time() - started)
        sizes.append((held(encoder.pushed), held(decoder.pushed)))
    assert len(set(sizes)) <= 3 and 0 < sum(sizes[0]) < 2e6  # what one stride leaves over changes from push to push
    assert max(map(sum, sizes)) < 1.05 * min(map(sum, sizes))
    assert min(seconds[-3:]) < 1.5 * min(seconds[:3])


# What cannot be streamed, what can with patience, and precision


def test_casan_streams_a_context_late(speech):
    model = build_only(resolve(compose(CONF / "pscodec_casan.yaml", [MINI]), {"casan_context": 80}), "codec").eval()
    torch.manual_seed(0)
    for weight in model.fusion.parameters():  # it sets out as a plain sum, with some of them zero
        nn.init.normal_(weight, std=0.05)
    codes, side = torch.randint(0, 512, (1, 1, 321)), {"z_vp": torch.randn(1, 256, 1), "z_mel": torch.randn(1, 256, 1)}
    decoder = StreamDecoder(model, side)
    # the first window is full with frame 80; of its 60 frames the layers after it need 10 for a first sample
    assert [decoder.push(x).shape[-1] > 0 for x in codes[..., :80].split([79, 1], -1)] == [False, True]
    assert decoder.latency == 79 * HOP
    decoder.reset()
    torch.testing.assert_close(streamed(decoder, codes, 50), model.decode(codes, side), atol=1e-5, rtol=0)


def test_an_encoder_that_normalises_over_the_clip_is_refused_by_name():
    model = build_only(resolve(compose(CONF / "pscodec_base.yaml", [MINI]), {"norm": "group"}), "codec").eval()
    with pytest.raises(UserError, match=r"^PSCodec .* encoder\.mrfs\.0\.norms\.0 \(GroupNorm\)"):
        StreamEncoder(model)


def test_a_fusion_that_attends_over_the_clip_is_refused_by_name(mini):
    model, side = mini

    class Attend(nn.Module):
        def forward(self, z_q, z_vp=None, z_mel=None):
            return z_q + nn.functional.scaled_dot_product_attention(z_q, z_q, z_q)

    plain, model.fusion = model.fusion, Attend()
    try:
        with pytest.raises(UserError, match=r"PSCodec .* fusion \(scaled_dot_product_attention\)"):
            StreamDecoder(model, side)
    finally:
        model.fusion = plain


def test_bfloat16_streams_are_as_far_from_fp32_as_one_bfloat16_pass(mini, speech):
    model, side = mini
    fast = optimise(codec(speech, MINI, n_residual=2)[0], "bf16")
    speech = speech[..., 7 * RATE : 13 * RATE]  # what no entry was taken from
    codes = model.encode(speech)
    wav = model.decode(codes, side)

    def distance(coded, decoded):
        return (coded != codes).float().mean().item(), ((decoded - wav).pow(2).sum() / wav.pow(2).sum()).item()

    one = distance(fast.encode(speech), fast.decode(codes, side))
    encoder, decoder = StreamEncoder(fast), StreamDecoder(fast, side)
    stream = distance(streamed(encoder, speech, RATE), streamed(decoder, codes, 75))
    print(f"bf16 against fp32 (codes that differ, noise): one pass {one}, streamed {stream}")
    assert 0 < one[0] < 0.5 and 0 < one[1] < 0.1
    assert stream[0] < 1.5 * one[0] + 0.02 and stream[1] < 1.5 * one[1]
