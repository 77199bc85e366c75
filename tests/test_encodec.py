"""EnCodec: its sizes, and its authors' package (PyPI's encodec 0.1.1) beside it on the same random weights."""

import pytest
import torch
from encodec import EncodecModel

from pscodec.layers.seanet import Decoder, Encoder
from pscodec.models.encodec import EnCodec
from pscodec.models.optimise import optimise
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.utils.hparams import build_only, compose, resolve

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")  # the package's own


def encodec(n_q=32, update="ema", **options):
    """The paper's codec at its 24 kHz, or as `options` of its encoder and decoder say."""
    options = {"mode": "reflect"} | options
    quantizer = GroupResidualVQ(128, codebook_size=1024, n_residual=n_q, update=update, drawn=(2, 4, 8, 16))
    return EnCodec(Encoder(**options), quantizer, Decoder(**options))


def test_one_model_has_the_bitrates_of_the_paper():
    codec = encodec()
    assert sum(p.numel() for p in codec.parameters() if p.requires_grad) == pytest.approx(14.85e6, rel=0.002)
    assert codec.frame_rate == 75 and codec.bitrate == 24000
    rates = []
    for codec.quantizer.n_q in (2, 4, 8, 16, 32):
        rates.append(codec.bitrate)
    assert rates == [1500, 3000, 6000, 12000, 24000]


def random_public(name):
    """One of the package's networks with random weights, entries as far apart as its latents are."""
    torch.manual_seed(0)
    model = getattr(EncodecModel, name)(pretrained=False).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 1 and "_codebook" not in key:  # biases and norms do not begin by chance
                value.add_(0.1 * torch.randn_like(value))
        z = model.encoder(0.1 * torch.randn(1, model.channels, 48000))[0]
        for k, layer in enumerate(model.quantizer.vq.layers):
            entries = 0.8**k * z.std(1) * torch.randn(1024, 128) + (z.mean(1) if k == 0 else 0)
            layer._codebook.embed.copy_(entries)
            layer._codebook.inited.fill_(1)
    return model


def assert_same_codes(codec, wav, codes):
    """`codec` codes `wav` to `codes` `[B, K, T]`, but where two entries are equally near, to rounding: there kernels of
    other processors may take the other one, and a frame's later codebooks then code another residual."""
    ours, whole = codec.encode(wav)[..., : codes.shape[-1]], codes.shape[-1]
    residual = codec.encoder(codec.pad(wav))[..., :whole].transpose(1, 2).double()
    same = torch.ones(residual.shape[:2], dtype=torch.bool)
    for layer, mine, theirs in zip(codec.quantizer.groups[0].layers, ours.unbind(1), codes.unbind(1), strict=False):
        near, other = ((residual - layer.entries[k]).square().sum(-1) for k in (mine, theirs))
        differ = same & (mine != theirs)
        assert ((near - other).abs()[differ] < 1e-5 * near[differ]).all()
        same &= ~differ
        residual = residual - layer.entries[mine]
    assert ours.shape == codes.shape and same.float().mean() > 0.98


@pytest.mark.parametrize(("kbps", "length"), [(1.5, 24000), (6, 24000), (24, 24000), (24, 23700)])
def test_24_khz_is_what_the_authors_package_computes(kbps, length):
    theirs, ours = random_public("encodec_model_24khz"), encodec()
    ours.load_public(theirs.state_dict())
    wav = 0.1 * torch.randn(2, 1, length)
    theirs.set_target_bandwidth(kbps)
    ours.eval().quantizer.n_q = round(kbps / 0.75)
    with torch.no_grad():
        ((codes, scale),) = theirs.encode(wav)
        # the end of a last frame that is not full is mirrored by every layer there, silence here
        whole = length // 320
        assert_same_codes(ours, wav, codes[..., :whole])
        assert scale is None
        assert all(len(book.unique()) > 5 for book in codes.unbind(1))
        wav_hat = theirs.decode([(codes, None)])
        assert torch.allclose(ours.decode(codes, {}), wav_hat, atol=1e-6)


def test_weights_that_do_not_fit_are_refused():
    state = random_public("encodec_model_24khz").state_dict()
    for options, message in (
        ({"mode": "zeros"}, "mirrors signals at their ends"),
        ({"width": 16}, r"encoder.layers.0.bias is \[32\], \[16\] here"),
        ({"n_q": 16}, "quantizer.groups.0.layers.16.started is too much"),
        ({"update": "grad"}, "quantizer.groups.0.layers.0.counts is too much"),
        ({"causal": False, "norm": "time"}, "encoder.layers.0.0.weight is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            encodec(**options).load_public(state)


@pytest.mark.parametrize("kbps", [1.5, 24])
def test_320_samples_go_out_for_320_and_equal_one_pass(recipe, kbps):
    torch.manual_seed(0)
    codec = build_only(resolve(compose(recipe / "conf/encodec.yaml"), {"width": 4}), "codec").eval()
    wav = 0.1 * torch.randn(1, 1, 320 * 40)
    with torch.no_grad():
        z = codec.encoder(wav)
        for k, book in enumerate(codec.quantizer.codebooks):  # entries where the latents are
            book.entries.copy_(0.7**k * z.std() * torch.randn_like(book.entries))
    codec.quantizer.n_q = round(kbps / 0.75)
    codes = codec.encode(wav)
    wav_hat = codec.decode(codes, {})
    assert codes.shape == (1, codec.n_q, 40) and len(codes.unique()) > 50
    for model in (codec, optimise(codec, "fp32")):
        encoder, decoder = StreamEncoder(model), StreamDecoder(model, {})
        assert (encoder.latency, decoder.latency) == (320, 0)
        for t, piece in enumerate(wav.split(320, -1)):
            frame = encoder.push(piece)
            assert torch.equal(frame, codes[..., t : t + 1])
            now = decoder.push(frame)
            assert torch.allclose(now, wav_hat[..., 320 * t : 320 * (t + 1)], atol=1e-5) and now.shape[-1] == 320
        assert encoder.finish().shape[-1] == 0 and decoder.finish().shape[-1] == 0
