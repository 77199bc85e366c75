"""Padding that belongs to the convolution, LSTM layers, and SEANet: by hand, and piece by piece."""

import numpy as np
import pytest
import torch
from torch import nn

from pscodec.layers.conv import conv, pad_ends, upsample
from pscodec.layers.lstm import ResidualLSTM
from pscodec.layers.push_graph import Pushed
from pscodec.layers.seanet import Decoder, Encoder
from pscodec.models.base import Codec
from pscodec.models.optimise import optimise
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.streaming import StreamDecoder, StreamEncoder


def ones(layer):
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def signal(*values):
    return torch.tensor([[values]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3, 6, 9, 7]),  # 0 1 2 3 4 0
        ({"mode": "reflect"}, [5, 6, 9, 10]),  # 2 1 2 3 4 3
        ({"pad": "causal"}, [1, 3, 6, 9]),  # 0 0 1 2 3 4
        ({"pad": "causal", "mode": "reflect"}, [6, 5, 6, 9]),  # 3 2 1 2 3 4
        ({"pad": "causal", "dilation": 2}, [1, 2, 4, 6]),  # 0 0 0 0 1 2 3 4
    ],
)
def test_padding_by_hand(options, expected):
    layer = ones(conv(1, 1, 3, weight_norm=False, **options))
    assert layer(signal(1, 2, 3, 4)).flatten().tolist() == expected


def test_strided_and_transposed_padding_by_hand():
    down = ones(conv(1, 1, 4, 2, weight_norm=False, pad="causal"))
    assert down(signal(1, 2, 3, 4)).flatten().tolist() == [3, 10]  # 0 0 1 2 | 1 2 3 4
    up = ones(upsample(1, 1, 2, weight_norm=False, pad="causal"))
    assert up(signal(1, 2, 3)).flatten().tolist() == [
        1,
        1,
        3,
        3,
        5,
        5,
    ]  # each input is added to its frames and the next
    same = ones(upsample(1, 1, 2, weight_norm=False))
    assert same(signal(1, 2, 3)).flatten().tolist() == [1, 3, 3, 5, 5, 3]


def test_what_is_too_short_to_be_mirrored_has_zeros_after_it():
    assert pad_ends(signal(1, 2), (3, 0), "reflect").flatten().tolist() == [0, 0, 2, 1, 2]
    assert pad_ends(signal(1, 2, 3), (2, 1), "reflect").flatten().tolist() == [3, 2, 1, 2, 3, 2]


def test_words_are_checked():
    for options in ({"pad": "full"}, {"mode": "circular"}):
        with pytest.raises(ValueError, match=r"(pad|mode) is .* or .*, not"):
            conv(1, 1, 3, **options)
    with pytest.raises(ValueError, match="shorter than its stride"):
        conv(1, 1, 2, 3, pad="causal")
    with pytest.raises(ValueError, match="looks ahead"):
        Encoder(norm="time")


LAYERS = {
    "causal": lambda: conv(3, 4, 7, pad="causal"),
    "causal, mirrored": lambda: conv(3, 4, 7, pad="causal", mode="reflect"),
    "causal, mirrored, dilated": lambda: conv(3, 4, 3, dilation=4, pad="causal", mode="reflect"),
    "causal, strided": lambda: conv(3, 4, 8, 4, pad="causal", mode="reflect"),
    "mirrored": lambda: conv(3, 4, 7, mode="reflect"),
    "mirrored, strided": lambda: conv(3, 4, 10, 5, mode="reflect"),
    "mirrored, dilated": lambda: conv(3, 4, 3, dilation=2, mode="reflect"),
    "causal, upwards": lambda: upsample(3, 4, 5, pad="causal"),
    "LSTM": lambda: ResidualLSTM(3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("length", [20, 60])
def test_pieces_of_any_size_equal_the_whole(name, length):
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    x, rng = torch.randn(2, 3, length), np.random.default_rng(1)
    with torch.no_grad():
        whole, pushed = layer(x), Pushed(layer, layer)
        for _ in range(8):
            cuts = np.sort(rng.integers(0, length + 1, rng.integers(0, 12)))
            parts, n, out = [], 0, 0
            for piece in np.split(np.arange(length), cuts):
                parts.append(pushed.push(x[..., piece]))
                n, out = n + len(piece), out + parts[-1].shape[-1]
                assert out == pushed.ready(n)
            parts.append(pushed.push(x[..., :0], last=True))
            pushed.reset()
            assert torch.allclose(torch.cat(parts, -1), whole, atol=1e-5)


def test_a_signal_shorter_than_its_mirror_image_is_pushed_as_it_is_passed():
    torch.manual_seed(0)
    layer, x = conv(3, 4, 7, pad="causal", mode="reflect").eval(), torch.randn(1, 3, 4)
    with torch.no_grad():
        pushed = Pushed(layer, layer)
        assert pushed.push(x[..., :3]).shape[-1] == 0
        assert torch.allclose(pushed.push(x[..., 3:], last=True), layer(x), atol=1e-6)


def seanet(**options):
    torch.manual_seed(0)
    quantizer = GroupResidualVQ(16, codebook_size=32, n_residual=2, kmeans_steps=0)
    for book in quantizer.codebooks:
        nn.init.normal_(book.entries)
    options = {"latent_dim": 16, "width": 4} | options
    return Codec(Encoder(**options), quantizer, Decoder(**options)).eval()


def test_sizes_are_the_papers():
    millions = sum(p.numel() for part in (Encoder(), Decoder()) for p in part.parameters()) / 1e6
    assert millions == pytest.approx(14.85, rel=0.002)
    wav = torch.randn(2, 2, 3200)
    z = Encoder(channels=2, causal=False, norm="time")(wav)
    assert z.shape == (2, 128, 10) and Decoder(channels=2, causal=False, norm="time")(z).shape == wav.shape


def test_a_causal_network_sees_no_future_and_another_does():
    later = torch.randn(1, 1, 9600)
    wav = torch.cat([later[..., :6400], torch.zeros(1, 1, 3200)], -1)
    for causal in (True, False):
        codec = seanet(causal=causal)
        with torch.no_grad():
            one, two = codec.encoder(wav), codec.encoder(later)
            wav_one, wav_two = codec.decoder(one), codec.decoder(two)
        assert torch.allclose(one[..., :20], two[..., :20], atol=1e-5) is causal
        assert torch.allclose(wav_one[..., :6400], wav_two[..., :6400], atol=1e-5) is causal


def test_it_streams_without_delay_and_equals_one_pass():
    codec, wav = seanet(), 0.3 * torch.randn(1, 1, 8000)
    codes = codec.encode(wav)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, {})
    plain = seanet(mode="zeros")
    assert (StreamEncoder(plain).latency, StreamDecoder(plain, {}).latency) == (320, 0)
    assert (encoder.latency, decoder.latency) == (7 * 320, 6 * 320)  # the beginning must be there to be mirrored
    pieces = [encoder.push(piece) for piece in wav.split(320, -1)]
    assert [p.shape[-1] for p in pieces[7:]] == [1] * (len(pieces) - 7), "then 320 samples for 320"
    found = torch.cat([*pieces, encoder.finish()], -1)
    assert torch.equal(found, codes)
    with torch.no_grad():
        wav_hat = codec.decode(codes, {})
        pieces = [decoder.push(frame) for frame in codes.split(1, -1)]
        assert [p.shape[-1] for p in pieces[8:]] == [320] * (len(pieces) - 8)
        assert torch.allclose(torch.cat([*pieces, decoder.finish()], -1), wav_hat, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"causal": False, "norm": "time"}])
def test_packed_it_computes_the_same(options):
    codec, wav = seanet(**options), 0.3 * torch.randn(1, 1, 6400)
    with torch.no_grad():
        z = codec.encoder(wav)
        wav_hat = codec.decoder(z)
        optimise(codec, "fp32")
        assert torch.allclose(codec.encoder(wav), z, atol=1e-4)
        assert torch.allclose(codec.decoder(z), wav_hat, atol=1e-4)
