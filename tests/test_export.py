"""Exported codecs compute in onnxruntime what they compute in torch."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from pscodec.bin import export_onnx
from pscodec.inference import load_codec
from pscodec.utils.errors import UserError
from pscodec.utils.weights import codec_weights


@pytest.fixture(scope="module")
def exported(tiny_exp, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx")
    export_onnx.main(["--exp", str(tiny_exp), "--out", str(out), "--safetensors"])
    return out


def run(path, **inputs):
    return onnxruntime.InferenceSession(path).run(None, inputs)[0]


def test_codes_and_waveform_of_any_length_are_those_of_torch(exported, tiny_exp):
    coder = load_codec(tiny_exp)
    facts = json.loads((exported / "codec.json").read_text())
    assert facts["hop_length"] == 320 and facts["side"] == {"z_vp": 32, "z_mel": 32}
    assert facts["fingerprint"] == coder.fingerprint.hex()
    rng = np.random.default_rng(0)
    side = {name: rng.normal(size=(1, size, 1)).astype(np.float32) for name, size in facts["side"].items()}
    for frames in (1, 13, 150):
        wav = (0.1 * rng.normal(size=(1, 1, frames * facts["hop_length"]))).astype(np.float32)
        codes = run(exported / "encoder.onnx", wav=wav)
        assert codes.shape == (1, 1, frames) and codes.dtype == np.int64
        assert (codes != coder.model.encode(torch.from_numpy(wav)).numpy()).mean() <= 0.02
        wav_hat = run(exported / "decoder.onnx", codes=codes, **side)
        expected = coder.model.decode(torch.from_numpy(codes), {k: torch.from_numpy(v) for k, v in side.items()})
        assert np.abs(wav_hat - expected.numpy()).max() < 1e-4 and np.abs(wav_hat).max() > 1e-3


def test_safetensors_hold_every_weight(exported, tiny_exp):
    path, _ = codec_weights(tiny_exp)
    saved, expected = load_file(exported / "codec.safetensors"), torch.load(path, weights_only=True)
    assert saved.keys() == expected.keys() and all(torch.equal(saved[k], expected[k]) for k in saved)


def test_a_graph_that_computes_something_else_is_not_kept(tiny_exp, tmp_path):
    class Random(export_onnx.EncoderGraph):
        def forward(self, wav):
            return super().forward(wav + 0.3 * torch.rand_like(wav))

    graph = Random(export_onnx.build_only((tiny_exp / "hyperparams.yaml").read_text(), "codec").eval())
    with pytest.raises(UserError, match="onnxruntime computes other codes"):
        export_onnx.export(graph.eval(), tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_experiments_are_one_line(tiny_exp, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: .*not an experiment"):
        export_onnx.main(["--exp", str(tmp_path), "--out", str(tmp_path / "out")])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit, match=r'error: .*pip install "pscodec\[onnx\]"'):
        export_onnx.main(["--exp", str(tiny_exp), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
