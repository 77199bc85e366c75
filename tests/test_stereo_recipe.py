"""EnCodec at 48 kHz walks every stage on stereo made of real voices; EnCodec that is not causal learns and decodes."""

import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import copy_voices
from test_recipe import TINY, run_sh, words

from pscodec import bitstream
from pscodec.data.audio import load_audio

TRAIN = TINY | {"codebook_size": 16, "n_residual": 16, "total_steps": 4, "steps_per_epoch": 2, "ckpt_interval_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory, mini_corpus, campplus_path):
    """A stereo corpus at 44.1 kHz: a voice at the left, and half as loud and a little later at the right."""
    root = tmp_path_factory.mktemp("stereo")
    copy_voices(mini_corpus, root / "mono", 10)
    for path in (root / "mono").rglob("*.wav"):
        wav, _ = load_audio(path, 44100)
        wav = torch.stack([wav[0], 0.5 * wav[0].roll(20)])
        (root / "corpus" / path.parent.name).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "corpus" / path.parent.name / path.name, wav.T.numpy(), 44100)
    (root / "downloads/campplus").mkdir(parents=True)
    shutil.copy(campplus_path, root / "downloads/campplus/campplus_cn_en_common.pt")
    return root


@pytest.mark.parametrize(
    ("config", "rate", "channels", "books", "last"),
    [("encodec_48k", 48000, 2, 16, 7), ("encodec_noncausal", 24000, 1, 32, 5)],
)
def test_the_stages_on_stereo(recipe, place, config, rate, channels, books, last):
    options = {"config": f"conf/{config}.yaml", "exp": place / config, "stop-stage": last}
    options["compare"] = f"{place / config}:4" if last == 7 else ""
    done = run_sh(recipe, place, *words(options), train=TRAIN | {"n_residual": books})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    exp = place / config
    assert (exp / "report/index.html").exists() == (exp / f"compare/{config}_4/scores.tsv").exists() == (last == 7)
    utt, seconds, codes, side, total = (exp / "decode/test/bits.tsv").read_text().splitlines()[1].split("\t")
    path = exp / f"decode/test/psc/{utt}.psc"
    stream, frames = bitstream.read(path), rate // 320
    chunks = math.ceil((stream.n_samples - rate // 100) / (rate * 99 // 100))
    assert len(stream.scales) == chunks >= 3 and all(scale > 0 for scale in stream.scales)
    rest = math.ceil((stream.n_samples - (chunks - 1) * (rate * 99 // 100)) / 320)
    assert stream.codes.shape == (books, (chunks - 1) * frames + rest)
    assert int(codes) == (chunks - 1) * frames * books * 4 // 8 + math.ceil(rest * books * 4 / 8)
    assert int(side) == 0 and path.stat().st_size == int(total)
    wav, rate_hat = soundfile.read(exp / f"decode/test/wav/{utt}.wav", always_2d=True)
    assert rate_hat == rate and wav.shape == (stream.n_samples, channels)
    assert float(seconds) == pytest.approx(len(wav) / rate)
    assert channels == 1 or not np.array_equal(wav[:, 0], wav[:, 1])
