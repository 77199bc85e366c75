"""A larger model that begins as a smaller one: `train.py --grow`."""

import pytest
import torch

from pscodec.models.vocos import Decoder
from pscodec.quantizers.rvq import GroupResidualVQ
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.errors import UserError
from pscodec.utils.weights import grow_weights


class Codec(torch.nn.Module):
    def __init__(self, hidden, n_residual, latent_dim=16):
        super().__init__()
        self.quantizer = GroupResidualVQ(latent_dim, n_residual=n_residual, codebook_size=32)
        self.decoder = Decoder(latent_dim, width=24, n_blocks=2, hidden=hidden)


@pytest.fixture
def small(tmp_path):
    codec = Codec(hidden=40, n_residual=2).eval()
    for layer in codec.quantizer.codebooks:
        torch.nn.init.normal_(layer.entries)
        layer.started.fill_(True)
    AtomicCheckpointer(tmp_path / "save", {"codec": codec}).save_checkpoint(meta={"step": 3, "score": 1.0})
    return codec, tmp_path


def test_what_has_grown_computes_what_it_did(small):
    codec, folder = small
    large = Codec(hidden=64, n_residual=4).eval()
    lines = grow_weights(folder, {"codec": large})
    assert lines == [f"codec.quantizer.groups.0.layers.{i} begins anew" for i in (2, 3)]
    z = torch.randn(1, 16, 9)
    codec.quantizer.n_q = large.quantizer.n_q = 2
    with torch.no_grad():
        one, two = codec.quantizer(z), large.quantizer(z)
        assert torch.equal(one.codes, two.codes)
        assert torch.allclose(codec.decoder(one.z_q), large.decoder(two.z_q), atol=1e-6)
    assert not any(layer.started for layer in large.quantizer.codebooks[2:])


def test_the_new_channels_learn(small):
    _, folder = small
    large = Codec(hidden=64, n_residual=2)
    grow_weights(folder, {"codec": large})
    large.decoder(torch.randn(1, 16, 9)).square().mean().backward()
    assert large.decoder.blocks[0].narrow.weight.grad[:, 40:].abs().max() > 0


def test_what_is_smaller_now_begins_anew_and_what_is_unknown_is_told(small):
    _, folder = small
    smaller = Codec(hidden=32, n_residual=2)
    before = smaller.decoder.last.weight.clone()
    lines = grow_weights(folder, {"codec": smaller, "discriminators": torch.nn.Linear(2, 2)})
    assert "codec.decoder.first begins anew" in lines and lines[-1].startswith("discriminators")
    assert torch.equal(smaller.decoder.last.weight, before)
    with pytest.raises(UserError, match="run stage 3"):
        grow_weights(folder / "other", {"codec": smaller})
