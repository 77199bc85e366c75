"""What the command line waits for before it does something: the packages that each command has imported at its end."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT

PROGRAM = """
import contextlib, io, sys
from pscodec import cli
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    cli.main(sys.argv[1:])
print(" ".join(sys.modules))
"""
# Each takes a tenth of a second or more to import, and none is needed to code speech.
HEAVY = {"torch._dynamo", "torch._inductor", "sympy", "scipy", "speechbrain", "onnx", "onnxruntime", "matplotlib"}


def imported(folder, *args):
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    return set(told.stdout.split())


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A folder with a recording and its .psc file, and what was imported to make it."""
    folder = tmp_path_factory.mktemp("start")
    soundfile.write(folder / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    return folder, imported(folder, "encode", "a.wav", "a.psc")


def test_to_encode_and_to_decode_nothing_heavy_is_imported(coded):
    folder, modules = coded
    assert "torch" in modules and not modules & HEAVY
    assert (folder / "a.psc").is_file()
    modules = imported(folder, "decode", "a.psc", "back.wav")
    assert "torch" in modules and not modules & HEAVY
    assert (folder / "back.wav").is_file()


def test_what_is_in_a_file_is_told_without_torch(coded):
    folder, _ = coded
    modules = imported(folder, "info", "a.psc")
    assert "pscodec.bitstream" in modules and not modules & (HEAVY | {"torch", "torchaudio", "soundfile"})


@pytest.mark.parametrize("args", [["--help"], ["encode", "--help"], ["score", "--help"], ["demo", "--help"]])
def test_help_waits_for_nothing(args, tmp_path):
    assert not imported(tmp_path, *args) & (HEAVY | {"torch", "numpy", "soundfile"})
