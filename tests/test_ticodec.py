"""TiCodec: what its figure says goes where, and what its loss teaches."""

import numpy as np
import pytest
import torch
from torch import nn

from pscodec import bitstream
from pscodec.bin import invariance
from pscodec.data.audio import save_audio
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.inference import Coder
from pscodec.models import hificodec
from pscodec.models.ticodec import TIRE, Decoder
from pscodec.streaming import decode_long
from pscodec.types import Prompt
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.hparams import build_only, compose, resolve

TINY = {"width": 4, "latent_dim": 16, "decoder_width": 64, "kernels": [3], "dilations": [1], "codebook_size": 32}


def codec_of(recipe, **options):
    torch.manual_seed(0)
    model = build_only(resolve(compose(recipe / "conf/ticodec.yaml"), TINY | options), "codec").eval()
    for book in model.modules():
        if hasattr(book, "entries"):
            nn.init.normal_(book.entries)  # spread out, so that codes differ
    return model


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sizes_are_the_public_configurations(recipe):
    codec = build_only(resolve(compose(recipe / "conf/ticodec.yaml"), {}), "codec")
    # 128 * 64 * 3 + 64 * 64 * 3 + 64 * 128 * 3, 128 * 128 + 128, 2 * 128
    assert sum(p.numel() for p in codec.tire.parameters()) == 24576 + 12288 + 24576 + 16512 + 256
    assert codec.bitrate == 750 and codec.side_sizes == {"time_invariant": 1024}
    assert codec.group_quantizer.n_q == 8  # 80 bits an utterance
    assert codec.group_quantizer.codebooks[0].entries.shape == (1024, 16)


def test_h_is_the_second_blocks_output(recipe):
    encoder = codec_of(recipe).encoder
    seen = []
    encoder.mrfs[1].register_forward_hook(lambda _, __, out: seen.append(out))
    wav = noise(2, 1, 640)
    z, h = encoder.tapped(wav)
    assert h.shape == (2, 16, 640 // 8) and torch.equal(seen[0], h)
    assert torch.equal(z, encoder(wav)) and torch.equal(h, encoder.tap(wav))


def test_m_is_added_to_the_second_blocks_output():
    torch.manual_seed(0)
    options = {"latent_dim": 4, "width": 16, "strides": [8, 5, 4, 2], "kernels": [3], "dilations": [1]}
    ours, plain = Decoder(**options), hificodec.Decoder(**options)
    plain.load_state_dict(ours.state_dict())
    z, m = noise(1, 4, 6), noise(1, 4, 1, seed=1)
    assert torch.equal(ours(z, torch.zeros_like(m)), plain(z))
    plain.mrfs[1].register_forward_hook(lambda _, __, out: out + m)
    assert torch.equal(ours(z, m), plain(z)) and not torch.equal(ours(z, m), ours(z, -m))


def test_m_is_one_vector_whatever_the_length_and_order():
    """Of kernels of one tap alone nothing is left of the order of frames; a mean does not grow with their number."""
    torch.manual_seed(0)
    tire = TIRE(4, 8, 4).eval()
    for layer in tire.convs:
        with torch.no_grad():
            layer.weight[..., ::2] = 0
    h = noise(3, 4, 50)
    assert tire(h).shape == (3, 8, 1)
    assert torch.allclose(tire(h), tire(torch.cat([h.flip(2), h], 2)), atol=1e-6)
    with pytest.raises(ValueError, match="norm is batch or none"):
        TIRE(norm="layer")


def test_consistency_by_hand_and_who_learns_from_it(recipe):
    codec = codec_of(recipe)
    wav, other = noise(2, 1, 640), noise(2, 1, 640, seed=1).requires_grad_()
    output = codec(wav, Prompt(wav=other))
    m, target = (codec.tire(codec.encoder.tap(x)).squeeze(2).detach().double().numpy() for x in (wav, other))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(m, target, strict=True)]
    assert output.losses["consistency"].item() == pytest.approx(1 - np.mean(cosines), abs=1e-5)
    output.losses["consistency"].backward()
    assert other.grad is None  # its stretch is a target
    assert codec.encoder.first.bias.grad.abs().sum() > 0 and codec.encoder.last.bias.grad is None
    assert codec(wav, Prompt(wav=wav)).losses["consistency"].item() == pytest.approx(0, abs=1e-6)


def test_the_tokens_are_the_recordings_and_change_what_is_decoded(recipe, tmp_path):
    coder = Coder(codec_of(recipe), name="ticodec")
    wav = noise(1, 24000).numpy()
    stream = coder.encode(wav, 24000)
    assert stream.header.side["time_invariant"].codes.shape == (8,)
    assert stream.sizes()["side"] == 1 + 15 + 6 + 10  # a count, the name, sizes, 8 tokens of 10 bits
    bitstream.write(tmp_path / "x.psc", stream)
    read = bitstream.read(tmp_path / "x.psc")
    decoded = coder.decode(read)
    tokens = coder.model.side(Prompt(wav=torch.from_numpy(wav)[None]))["time_invariant"]
    codes = torch.from_numpy(read.codes)[None]
    assert torch.allclose(decoded, coder.model.decode(codes, {"time_invariant": tokens})[0], atol=1e-5)
    others = coder.model.decode(codes, {"time_invariant": (tokens + 1) % 1024})[0]
    assert (others - decoded).abs().max() > 1e-3


def test_it_streams_where_its_encoder_has_no_norm_over_time(recipe):
    model = codec_of(recipe, norm="none")
    codes = torch.randint(0, 32, (1, 1, 300))
    side = {"time_invariant": torch.arange(8)[None]}
    pieces = torch.cat(list(decode_long(model, codes.split(70, 2), side, seconds=1)), -1)
    assert torch.allclose(model.decode(codes, side), pieces, atol=1e-5)


def test_figure_2(recipe, tmp_path, capsys, tiny_exp):
    model = codec_of(recipe)
    exp = tmp_path / "ticodec"
    exp.mkdir()
    (exp / "hyperparams.yaml").write_text(resolve(compose(recipe / "conf/ticodec.yaml"), TINY))
    AtomicCheckpointer(exp / "save", {"codec": model}).save_checkpoint({"step": 1, "score": 1.0})
    once = noise(1, 4800)
    for name, wav in (
        ("same", torch.cat([once, once], 1)),
        ("other", torch.cat([once, 30 * noise(1, 4800, seed=1)], 1)),
    ):
        save_audio(tmp_path / f"{name}.wav", wav.clamp(-1, 1), 24000)
    utterances = [Utterance(n, "s", str(tmp_path / f"{n}.wav"), 0.4) for n in ("other", "same")]
    write_data_dir(tmp_path / "data/test", utterances)
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "figure2")]
    invariance.main(["--exp", str(exp), *arguments])
    header, other, same = (line.split("\t") for line in (tmp_path / "figure2.tsv").read_text().splitlines())
    other, same = (dict(zip(header, row, strict=True)) for row in (other, same))
    assert float(same["cosine_first_last"]) == pytest.approx(1, abs=1e-5) and float(same["tokens_first_last"]) == 1
    assert float(other["cosine_first_last"]) < float(same["cosine_first_last"])
    assert (tmp_path / "figure2.dark.png").stat().st_size > 5000 and "| ticodec | 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no time-invariant code"):
        invariance.main(["--exp", str(tiny_exp), *arguments])
