"""Codecs of chunks: how recordings are cut and joined, and stereo through files of any length and rate."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_experiment
from test_encodec import assert_same_codes, random_public

from pscodec import bitstream
from pscodec.chunks import cut, join
from pscodec.discriminators.base import Discriminators
from pscodec.discriminators.msstft import MultiScaleSTFTDiscriminator
from pscodec.downstream.codec import FrozenCodec
from pscodec.files import _wav_head, decode_file, encode_file
from pscodec.inference import Coder, load_codec
from pscodec.layers.seanet import Decoder, Encoder
from pscodec.models.encodec import EnCodec
from pscodec.models.optimise import optimise
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.streaming import StreamDecoder, StreamEncoder
from pscodec.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")  # the package's own


def chunks_of(n, sizes=None):
    wav = torch.arange(float(n))[None]
    return [chunk[0].tolist() for chunk in cut(wav.split(sizes or n, 1), 5, 2)]


def test_chunks_by_hand():
    assert chunks_of(3) == [[0, 1, 2]]
    assert chunks_of(5) == [[0, 1, 2, 3, 4]]  # the two last are not sent again
    assert chunks_of(6) == [[0, 1, 2, 3, 4], [3, 4, 5]]
    assert chunks_of(12) == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10], [9, 10, 11]]
    assert chunks_of(12, 1) == chunks_of(12, 7) == chunks_of(12)


def test_one_chunk_fades_into_the_next():
    chunks = [torch.full((2, 7), 4.0), torch.full((2, 7), 8.0), torch.full((2, 4), 0.0)]
    wav = torch.cat(list(join(chunks, 3)), 1)
    assert wav[0].tolist() == wav[1].tolist() == [4, 4, 4, 4, 5, 6, 7, 8, 6, 4, 2, 0]
    whole = torch.randn(1, 47)
    assert torch.allclose(torch.cat(list(join(cut([whole], 10, 3), 3)), 1), whole)
    assert torch.equal(torch.cat(list(join(cut([whole], 10, 0), 0)), 1), whole)


def test_what_chunks_cannot_be():
    sizes = {"strides": (2, 4), "width": 4, "causal": False, "norm": "time"}
    quantizer = GroupResidualVQ(8, codebook_size=16)
    parts = Encoder(8, **sizes), quantizer, Decoder(8, **sizes)
    for chunk in ({"chunk": 1, "overlap": 0.6}, {"chunk": 0.9999}):
        with pytest.raises(ValueError, match="whole frames of 8 samples"):
            EnCodec(*parts, sample_rate=8000, **chunk)
    with pytest.raises(ValueError, match="1 channels in the encoder, 2 in the decoder"):
        EnCodec(parts[0], quantizer, Decoder(8, channels=2, **sizes))


@pytest.mark.parametrize(("seconds", "kbps"), [(0.5, 6), (1.49, 24), (2.48, 3)])
def test_48_khz_is_what_the_authors_package_computes(seconds, kbps):
    theirs, ours = random_public("encodec_model_48khz"), encodec_48k()
    ours.load_public(theirs.state_dict())
    coder = Coder(ours.eval())
    theirs.set_target_bandwidth(kbps)
    ours.quantizer.n_q = round(kbps / 1.5)
    wav = 0.1 * torch.randn(2, round(48000 * seconds)) * torch.linspace(0.2, 2, round(48000 * seconds))
    with torch.no_grad():
        frames = theirs.encode(wav[None])
        wav_hat = theirs.decode(frames)[0]
    stream = coder.encode(wav, 48000)
    assert len(stream.scales) == len(frames) == (1 if seconds < 1 else 2 if seconds < 2 else 3)
    for i, (codes, scale) in enumerate(frames):
        assert stream.scales[i] == pytest.approx(scale.item(), rel=1e-6)
        chunk = wav[None, :, 47520 * i :][..., :48000] / scale[..., None]
        assert_same_codes(ours, chunk, codes)
    theirs_coded = np.concatenate([codes[0].numpy() for codes, _ in frames], 1)
    stream = dataclasses.replace(stream, codes=theirs_coded)
    assert torch.allclose(coder.decode(stream), wav_hat, atol=1e-5)


def encodec_48k(n_q=16, width=32, latent_dim=128, **options):
    torch.manual_seed(0)
    sizes = {"width": width, "causal": False, "norm": "time", "channels": 2, "mode": "reflect"} | options
    quantizer = GroupResidualVQ(
        latent_dim, codebook_size=1024, n_residual=n_q, update="ema", drawn=(2, 4, 8, 16)[: n_q.bit_length() - 1]
    )
    return EnCodec(Encoder(latent_dim, **sizes), quantizer, Decoder(latent_dim, **sizes), 48000, 1.0, 0.01)


@pytest.fixture(scope="module")
def coder():
    """A small stereo codec with random weights, entries where its latents are."""
    model = encodec_48k(4, 4, 16).eval()
    z = model.encoder(torch.randn(1, 2, 48000))
    for k, book in enumerate(model.quantizer.codebooks):
        torch.nn.init.normal_(book.entries, std=0.7**k * z.std().item())
    return Coder(model, name="stereo")


def stereo(seconds, rate):
    t = torch.arange(round(seconds * rate)) / rate
    return torch.stack([0.3 * torch.sin(2 * torch.pi * 440 * t), 0.1 * torch.sin(2 * torch.pi * 660 * t) * t])


def same_samples(wav, written):
    """Whether a decoded `wav` `[C, L]` is what a file holds, int16 `[L, C]`, clipped, to rounding."""
    return np.abs(wav.clamp(-1, 1).T.numpy() * 32768 - written).max() <= 1.001


@pytest.mark.parametrize(("seconds", "rate"), [(0.001, 48000), (1.0, 48000), (2.987, 44100), (3.4, 16000)])
def test_files_of_any_length_and_rate_keep_both_channels(coder, tmp_path, seconds, rate):
    wav = stereo(seconds, rate)
    soundfile.write(tmp_path / "a.wav", wav.T.numpy(), rate, subtype="FLOAT")
    header, n_samples, _ = encode_file(coder, tmp_path / "a.wav", tmp_path / "a.psc")
    assert (header.version, header.channels, header.scaled) == (3, 2, True)
    assert (header.frames_per_packet, header.samples_per_packet) == (150, 47520)
    assert n_samples == -(-wav.shape[-1] * 48000 // rate)
    _, written, damage = decode_file(coder, tmp_path / "a.psc", tmp_path / "a_hat.wav")
    wav_hat, rate_hat = soundfile.read(tmp_path / "a_hat.wav", dtype="int16")
    assert (rate_hat, wav_hat.shape, written, damage) == (48000, (n_samples, 2), n_samples, [])
    stream = bitstream.read(tmp_path / "a.psc")
    assert len(stream.scales) == max(1, -(-(n_samples - 480) // 47520))
    whole = coder.decode(stream)
    assert whole.shape == (2, n_samples) and not torch.equal(whole[0], whole[1])
    assert same_samples(whole, wav_hat) and (n_samples < 1000 or wav_hat.max() > 100)
    again = coder.encode(wav, rate)
    assert again.scales == pytest.approx(stream.scales, rel=1e-3)
    assert again.codes.shape == stream.codes.shape and (again.codes == stream.codes).mean() > 0.9


def test_a_louder_recording_has_the_same_codes_and_larger_scales(coder):
    wav = stereo(2.2, 48000)
    quiet, loud = coder.encode(wav / 8, 48000), coder.encode(wav, 48000)
    assert np.array_equal(quiet.codes, loud.codes) and np.allclose(8 * np.array(quiet.scales), loud.scales, rtol=1e-5)
    assert torch.allclose(8 * coder.decode(quiet), coder.decode(loud), atol=1e-5)


def test_one_channel_is_repeated_and_three_are_refused(coder, tmp_path):
    mono = stereo(0.7, 48000)[:1]
    assert np.array_equal(coder.encode(mono, 48000).codes, coder.encode(mono.repeat(2, 1), 48000).codes)
    one, two = coder.encode(stereo(0.7, 48000), 48000, channels="split")
    assert np.array_equal(one.codes, coder.encode(mono, 48000).codes) and not np.array_equal(one.codes, two.codes)
    with pytest.raises(UserError, match="3 channels; 1 or 2 were expected"):
        coder.encode(torch.zeros(3, 4800), 48000)
    soundfile.write(tmp_path / "three.wav", np.zeros((4800, 3)), 48000)
    with pytest.raises(UserError, match="three.wav: 3 channels"):
        encode_file(coder, tmp_path / "three.wav", tmp_path / "three.psc")
    assert not (tmp_path / "three.psc").exists()


def test_a_lost_packet_is_silent_and_the_rest_is_where_it_was(coder, tmp_path):
    soundfile.write(tmp_path / "a.wav", stereo(4.0, 48000).T.numpy(), 48000)
    header, n_samples, _ = encode_file(coder, tmp_path / "a.wav", tmp_path / "a.psc")
    good = coder.decode(bitstream.read(tmp_path / "a.psc"))
    data = bytearray((tmp_path / "a.psc").read_bytes())
    head, packet = len(header.pack()), 1 + 2 + 4 + 150 * 4 * 10 // 8 + 4
    data[head + packet + 100] ^= 1
    (tmp_path / "a.psc").write_bytes(data)
    with pytest.warns(UserWarning, match="0.99 to 1.98 s are lost"):
        bad = coder.decode(bitstream.read(tmp_path / "a.psc"))
    assert bad.shape == good.shape
    assert torch.equal(bad[:, :47520], good[:, :47520]) and torch.allclose(bad[:, 95520:], good[:, 95520:], atol=1e-6)
    assert bad[:, 47520 + 961 : 95040 - 961].abs().max() == 0
    decode_file(coder, tmp_path / "a.psc", tmp_path / "a_hat.wav")
    written = soundfile.read(tmp_path / "a_hat.wav", dtype="int16")[0]
    assert same_samples(bad, written)


def test_packets_that_are_not_its_chunks_are_refused(tmp_path):
    exp, options = tmp_path / "exp", {"width": 4, "latent_dim": 8, "n_residual": 2, "codebook_size": 16}
    make_experiment(exp, config="encodec_48k", **options, **{"codec.quantizer.drawn": [1, 2]})
    assert load_codec(exp).header(None).frames_per_packet == 150
    with pytest.raises(UserError, match="its packets are its chunks, one every 0.99 s; none of 2 s"):
        load_codec(exp, packet=2)


def test_streams_refuse_chunks_by_name(coder):
    for make in (lambda: StreamEncoder(coder.model), lambda: StreamDecoder(coder.model, {})):
        with pytest.raises(UserError, match="EnCodec codes chunks of 1 s"):
            make()


def test_headers_of_other_packets_are_refused(coder):
    stream = coder.encode(stereo(0.2, 48000), 48000)
    for change in ({"channels": 1}, {"samples_per_packet": 48000}, {"scaled": False}, {"frames_per_packet": 149}):
        other = dataclasses.replace(stream, header=dataclasses.replace(stream.header, **change))
        with pytest.raises(UserError, match="malformed header"):
            coder.decode(other)


def test_made_for_use_it_computes_the_same(coder):
    wav, plain = stereo(2.2, 48000), encodec_48k(4, 4, 16).eval()
    plain.load_state_dict(coder.model.state_dict())
    fast = Coder(optimise(plain, "fp32"), name="stereo", fingerprint=coder.fingerprint)
    stream = coder.encode(wav, 48000)
    assert (fast.encode(wav, 48000).codes == stream.codes).mean() > 0.99
    wav_hat = coder.decode(stream)
    assert (fast.decode(stream) - wav_hat).norm() < 1e-4 * wav_hat.norm()


def test_raw_samples_and_pipes_have_the_channels_in_turn(coder, tmp_path):
    wav = (stereo(1.3, 48000) * 32768).round() / 32768
    soundfile.write(tmp_path / "a.wav", wav.T.numpy(), 48000, subtype="PCM_16")
    (tmp_path / "a.raw").write_bytes((wav.T.numpy() * 32768).astype("<i2").tobytes())
    for name, rate in (("a.wav", None), ("a.raw", 48000)):
        encode_file(coder, tmp_path / name, tmp_path / f"{name}.psc", raw_rate=rate)
    assert np.array_equal(*(bitstream.read(tmp_path / f"{name}.psc").codes for name in ("a.wav", "a.raw")))
    decode_file(coder, tmp_path / "a.wav.psc", tmp_path / "b.wav")
    decode_file(coder, tmp_path / "a.wav.psc", tmp_path / "b.raw", raw=True)
    written = soundfile.read(tmp_path / "b.wav", dtype="int16")[0]
    assert np.array_equal(np.frombuffer((tmp_path / "b.raw").read_bytes(), "<i2").reshape(-1, 2), written)
    header = bitstream.read(tmp_path / "a.wav.psc").header
    (tmp_path / "piped.wav").write_bytes(_wav_head(header) + (tmp_path / "b.raw").read_bytes())
    piped, rate = soundfile.read(tmp_path / "piped.wav", dtype="int16")
    assert rate == 48000 and np.array_equal(piped, written)


def test_left_and_right_are_judged_by_themselves():
    torch.manual_seed(0)
    judges = Discriminators({"stft": MultiScaleSTFTDiscriminator((64, 128), width=2)})
    wav = torch.randn(3, 2, 1600)
    both, left = judges(wav), judges(wav[:, :1])
    assert len(both.logits) == 2 and all(x.shape[0] == 6 for x in both.logits)
    for mine, theirs in zip(both.logits, left.logits, strict=True):
        assert torch.allclose(mine[::2], theirs, atol=1e-5)
        assert not torch.allclose(mine[1::2], theirs, rtol=0, atol=1e-4)


def test_separation_refuses_it(coder):
    with pytest.raises(UserError, match="separation needs a codec of one channel"):
        FrozenCodec(coder.model, 8000)
