"""What was coded before is still decoded: files of what is released, and what came of them then.

Those of pscodec_small_24k's version 2 were made by the program of 21 November 2026, of `tone()`; `wav` holds every
sixteenth sample. That of version 3 is of 24 November 2026: its first and last packets hold codes drawn from the codec's
language model and are entropy coded, the one between them holds random codes and is plain. That of pscodec_small_24k_v2
is of 30 November 2026, of `tone()`, entropy coded; its decoder may become better, its codes stay.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pscodec
from pscodec import bitstream

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def codec():
    return pscodec.load_codec("pscodec_small_24k")


@pytest.fixture(scope="module")
def kept():
    return np.load(DATA / "small_24k_version2.npz")


def tone(seconds=1.3, rate=24000):
    """A gliding buzz with slow changes of level, the same on every machine."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.9 * time)) / rate
    partials = (np.sin(k * phase) / k * (1 + 0.8 * np.sin(2 * np.pi * (1.7 * time + k / 7))) for k in range(1, 24))
    return (0.1 * sum(partials) * (0.55 + 0.45 * np.sin(2 * np.pi * 2.3 * time))).astype(np.float32)


@pytest.mark.parametrize("k", ["", "_k1"])
def test_an_old_file_decodes_to_the_samples_it_did(codec, kept, k):
    stream = bitstream.read(DATA / f"small_24k_version2{k}.psc")
    assert np.array_equal(stream.codes, kept[f"codes{k}"]) and stream.n_samples == 31200
    wav = codec.decode(stream)
    assert np.allclose(wav[0, ::16].numpy(), kept[f"wav{k}"], atol=1e-5)


def test_an_old_file_finds_its_old_profile(codec, kept):
    stream = bitstream.read(DATA / "small_24k_version2_profile.psc")
    wav = codec.decode(stream, DATA / "tone.psp")
    assert np.allclose(wav[0, ::16].numpy(), kept["wav"], atol=1e-5)


@pytest.mark.parametrize("n_q", [2, 1])
def test_speech_is_coded_to_the_integers_it_was(codec, kept, n_q):
    codec.model.quantizer.n_q = n_q
    codes = codec.encode(tone(), 24000).codes
    codec.model.quantizer.n_q = None
    assert np.array_equal(codes, kept["codes" if n_q == 2 else "codes_k1"])


def machines():
    """Environments in which a process computes as on another CPU."""
    path = Path(__file__).parents[1] / "tools/bench/entropy_machines.py"
    spec = importlib.util.spec_from_file_location("entropy_machines", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MACHINES, module.environment


@pytest.mark.parametrize(("machine", "threads"), [("AVX512", 2), ("AVX2", 1), ("SSE41", 1)])
def test_an_entropy_coded_file_holds_the_codes_it_did_on_every_cpu(machine, threads):
    known, environment = machines()
    assert set(known) == {"AVX512", "AVX2", "SSE41"}
    program = "import sys, numpy as np, pscodec; s = pscodec.load_codec('pscodec_small_24k').read(sys.argv[1]); "
    program += "assert not s.lost and s.coded < s.header.sizes(390)['codes'], 'not entropy coded'; "
    program += "assert s.n_samples == 124700 and np.array_equal(s.codes, np.load(sys.argv[2])), 'other codes'"
    files = [str(DATA / f"small_24k_version3.{kind}") for kind in ("psc", "npy")]
    command = [sys.executable, "-c", program, *files]
    done = subprocess.run(command, env=environment(machine, threads), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_second_codec_codes_to_the_integers_it_did():
    codec = pscodec.load_codec("pscodec_small_24k_v2", entropy="auto")
    stream, codes = codec.read(DATA / "small_24k_v2.psc"), np.load(DATA / "small_24k_v2.npy")
    assert codes.shape[0] == 4 and np.array_equal(stream.codes, codes) and stream.n_samples == 31200
    assert np.array_equal(codec.encode(tone(), 24000).codes, codes)
    assert codec.decode(stream).shape == (1, 31200)
