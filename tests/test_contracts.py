"""A codec of another kind than PSCodec, through everything that reads what a codec says of itself.

In the manner of TiCodec it sends tokens of the recording itself, and learns that two stretches of it give the same.

Source of the idea: Ren et al., TiCodec (2023).
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pscodec import bitstream
from pscodec.bin import export_onnx
from pscodec.bin.dump_codes import dump
from pscodec.commands.info import show_codec, show_stream
from pscodec.data.audio import save_audio
from pscodec.data.kaldi import Utterance, write_data_dir
from pscodec.files import decode_file, encode_file
from pscodec.inference import Coder
from pscodec.layers.conv import conv
from pscodec.losses.base import ModelLoss, WeightedSum
from pscodec.models.base import Codec
from pscodec.models.hificodec import Decoder, Encoder
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.types import CodecOutput, Evidence, Prompt
from pscodec.utils.errors import UserError

RATE = 24000


class Timbre(Codec):
    """Four tokens of 16 say how a recording sounds; they are added to every frame."""

    sees, side_of, side_sizes = ("wav",), "self", {"timbre": 16}

    def __init__(self, encoder, quantizer, decoder):
        super().__init__(encoder, quantizer, decoder, timbre_enc=conv(1, 8, 16, 8))
        self.book = nn.Parameter(torch.randn(4, 16, 2))

    def forward(self, wav, prompt=None):
        z = self.encoder(wav)
        quantized = self.quantizer(z)
        mine, other = self._vectors(wav), self._vectors(prompt.wav)
        wav_hat = self.synthesise(quantized.z_q, {"timbre": self._tokens(mine)})
        consistency = 1 - F.cosine_similarity(mine.flatten(1), other.flatten(1).detach()).mean()
        losses = {"quant": quantized.loss, "consistency": consistency}
        return CodecOutput(wav_hat, quantized, {"z_q": quantized.z_q}, losses)

    def side(self, prompt):
        return {} if prompt is None else {"timbre": self._tokens(self._vectors(prompt.wav))}

    def synthesise(self, z_q, side):
        vectors = [self.book[group][side["timbre"][:, group]] for group in range(4)]
        return self.decoder(z_q + torch.cat(vectors, 1)[:, :, None])

    def _vectors(self, wav):
        return 50 * self.timbre_enc(wav).abs().mean(2).unflatten(1, (4, 2))

    def _tokens(self, vectors):
        return torch.stack([torch.cdist(vectors[:, g], self.book[g]).argmin(1) for g in range(4)], 1)


@pytest.fixture(scope="module")
def coder():
    torch.manual_seed(0)
    options = {"latent_dim": 8, "kernels": [3], "dilations": [1]}
    quantizer = GroupResidualVQ(8, codebook_size=32, kmeans_steps=0)
    nn.init.normal_(quantizer.codebooks[0].entries)
    model = Timbre(Encoder(width=4, **options), quantizer, Decoder(width=32, **options))
    return Coder(model.eval(), name="timbre")


def speech(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=(1, round(seconds * RATE))).astype(np.float32)


def test_tokens_of_the_recording_itself_go_through_the_file(coder, tmp_path):
    wav = speech(1.2)
    stream = coder.encode(wav, RATE)
    bitstream.write(tmp_path / "x.psc", stream)
    read = bitstream.read(tmp_path / "x.psc")
    assert read.header.version == 3 and stream.sizes()["side"] == 1 + 7 + 6 + 2
    tokens = coder.model.side(Prompt(wav=torch.from_numpy(wav)[None]))["timbre"]
    assert read.header.side["timbre"].codes.tolist() == tokens[0].tolist()
    whole = coder.model.decode(torch.from_numpy(stream.codes)[None], {"timbre": tokens})[0, :, : wav.shape[1]]
    assert torch.allclose(coder.decode(read), whole, atol=1e-5)


def test_no_prompt_of_another_changes_what_is_sent(coder):
    own = coder.encode(speech(1), RATE)
    for prompt in ((speech(1, seed=5) * 3, RATE), None):
        assert coder.encode(speech(1), RATE, prompt).header.side["timbre"].codes.tolist() == (
            own.header.side["timbre"].codes.tolist()
        )
    assert not coder.model.takes_prompt
    with pytest.raises(UserError, match="no speaker profiles"):
        coder.enroll((speech(1), RATE))


def test_tokens_of_a_wrong_shape_are_refused(coder):
    stream = coder.encode(speech(1), RATE)
    stream.header.side["timbre"] = bitstream.Tokens(np.array([1, 2, 3]), 16)
    with pytest.raises(UserError, match="side information that is not that of timbre"):
        coder.decode(stream)


def test_files_and_pieces_carry_it_too(coder, tmp_path, capsys):
    save_audio(tmp_path / "x.wav", torch.from_numpy(speech(3)), RATE)
    encode_file(coder, tmp_path / "x.wav", tmp_path / "x.psc")
    stream = bitstream.read(tmp_path / "x.psc")
    assert len(stream.header.side["timbre"].codes) == 4 and stream.n_samples == 3 * RATE
    assert decode_file(coder, tmp_path / "x.psc", tmp_path / "y.wav")[1] == 3 * RATE
    show_stream(tmp_path / "x.psc")
    assert "timbre 4 tokens of 4 bit" in capsys.readouterr().out


def test_dumped_codes_have_it_beside_them(coder, tmp_path):
    save_audio(tmp_path / "x.wav", torch.from_numpy(speech(1)), RATE)
    write_data_dir(tmp_path / "data", [Utterance("x", "s", str(tmp_path / "x.wav"), 1.0)])
    assert dump(coder, tmp_path / "data", tmp_path / "codes") == {}
    found = np.load(tmp_path / "codes/npz/x.npz")
    assert found["codes"].shape == (1, 75) and found["timbre"].shape == (4,)


def test_onnx_takes_tokens(coder, tmp_path):
    graph = export_onnx.DecoderGraph(coder.model, {"timbre": (4,)}).eval()
    assert export_onnx.export(graph, tmp_path / "decoder.onnx") < 1e-4
    assert graph.inputs == ["codes", "timbre"] and graph.example(7)[1].dtype == torch.int64


def test_its_losses_are_read_by_name(coder):
    wav = torch.from_numpy(speech(0.4))[None]
    output = coder.model(wav, Prompt(wav=torch.from_numpy(speech(0.4, seed=1))[None]))
    losses = WeightedSum(
        {"quant": ModelLoss("quant"), "consistency": ModelLoss("consistency")}, {"quant": 10, "consistency": 5}
    )
    total, terms = losses(Evidence(wav, output))
    assert total.item() == pytest.approx(10 * terms["quant"].item() + 5 * terms["consistency"].item())


def test_info_says_what_is_sent(tiny_exp, capsys):
    show_codec(tiny_exp)
    assert "with speaker prompts; sends z_vp, z_mel of the speaker beside them" in capsys.readouterr().out
