"""What several test files need. The network is used once: what a test downloads stays for the next run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "recipes/LibriTTS/local"
CAMPPLUS = "campplus/campplus_cn_en_common.pt"


def pytest_configure():
    torch.set_num_threads(2)  # the same arithmetic, and no fighting over cores, on any machine


@pytest.fixture(scope="session")
def recipe():
    """Folder of the codec recipe."""
    return ROOT / "recipes/LibriTTS/codec"


@pytest.fixture(scope="session")
def downloads(recipe):
    """The recipe's downloads, which the tests share and add to."""
    return recipe / "downloads"


def fetch(*command):
    """Run stage 0's Python. A download that fails fails the test: skipped tests would look like passed ones."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=LOCAL, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"stage 0 failed: {done.stderr.strip()[-500:]}"


@pytest.fixture(scope="session")
def campplus_path(downloads):
    """The published CAM++ weights: $PSCODEC_CAMPPLUS, else the recipe's."""
    path = Path(os.environ.get("PSCODEC_CAMPPLUS", downloads / CAMPPLUS))
    if not path.exists():
        program = "import sys; from campplus_weights import fetch_campplus; fetch_campplus(sys.argv[1])"
        fetch("-c", program, path.parent)
    return path


@pytest.fixture(scope="session")
def mini_corpus(downloads):
    """The mini corpus, real speech: `downloads/mini`, speaker folders of 16 kHz audio."""
    fetch("download.py", "--corpus", "mini", "--downloads", downloads, "--no-campplus")
    return downloads / "mini"
