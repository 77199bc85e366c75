"""AudioDec: causal both ways, a vocoder on frozen codes."""

import pytest
import torch

from pscodec.models.audiodec import MultiGroup, Repeat
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.utils.hparams import build_only, compose, resolve

TINY = {"width": 4, "decoder_width": 64, "latent_dim": 16, "codebook_size": 32, "kmeans_steps": 0}


def codec_of(recipe, name, **options):
    torch.manual_seed(0)
    codec = build_only(resolve(compose(recipe / f"conf/{name}.yaml"), TINY | options), "codec").eval()
    for book in codec.quantizer.codebooks:
        torch.nn.init.normal_(book.entries)
    return codec


def test_sizes_are_the_public_configurations(recipe):
    codec = build_only(resolve(compose(recipe / "conf/audiodec.yaml"), {}), "codec")
    assert (codec.hop_length, codec.frame_rate, codec.bitrate) == (300, 80, 6400)
    assert codec.encoder.layers[-2].out_channels == 512 and codec.decoder.layers[0].out_channels == 512


@pytest.mark.parametrize("name", ["audiodec", "audiodec_vocoder"])
def test_a_frame_goes_out_when_it_is_in_and_equals_one_pass(recipe, name):
    codec = codec_of(recipe, name)
    wav = 0.1 * torch.randn(1, 1, 300 * 20)
    codes = codec.encode(wav)
    wav_hat = codec.decode(codes, {})
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, {})
    assert (encoder.latency, decoder.latency) == (300, 0)
    for t, piece in enumerate(wav.split(300, 2)):
        frame = encoder.push(piece)
        assert torch.equal(frame, codes[..., t : t + 1])
        assert torch.allclose(decoder.push(frame), wav_hat[..., 300 * t : 300 * (t + 1)], atol=1e-5)


def test_groups_are_blocks_of_their_own():
    """With the join reading the second copy alone, nothing of the first and third reaches the output."""
    torch.manual_seed(0)
    block = MultiGroup(2, kernel_size=3, dilations=[1, 2], groups=3)
    assert Repeat(3)(torch.tensor([[[1.0], [2.0]]])).flatten().tolist() == [1, 2, 1, 2, 1, 2]
    block.join.parametrizations.weight.original1.data[:, [0, 1, 4, 5]] = 0
    x = torch.randn(1, 2, 8)
    before = block(x)
    for layer in (*block.convs1, *block.convs2):
        layer.bias.data[[0, 1, 4, 5]] += 1
    assert torch.equal(block(x), before)
    block.convs2[0].bias.data[2] += 1
    assert not torch.allclose(block(x), before)


def test_the_vocoder_learns_on_codes_that_stand_still(recipe):
    codec = codec_of(recipe, "audiodec_vocoder")
    codec.freeze(["encoder", "quantizer"])
    output = codec.train()(0.1 * torch.randn(1, 1, 3000))
    output.wav_hat.square().mean().backward()
    assert all(p.grad is None for part in (codec.encoder, codec.quantizer) for p in part.parameters())
    assert all(p.grad is not None for p in codec.decoder.parameters())
