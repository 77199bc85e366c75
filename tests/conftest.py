"""What several test files need. The network is used once: what a test downloads stays for the next run."""

import contextlib
import fcntl
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch

from pscodec.data.audio import save_audio
from pscodec.data.kaldi import Utterance, write_data_dir, write_table
from pscodec.data.mixture import Mixture, Source, write_mixtures
from pscodec.utils.checkpoint import AtomicCheckpointer
from pscodec.utils.hparams import build_only, compose, resolve

ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "recipes/LibriTTS/local"
CAMPPLUS = "campplus/campplus_cn_en_common.pt"
RATE = 8000
MIXING = {"sample_rate": RATE, "n_src": 2, "mode": "min", "min_seconds": 0.0, "one_speaker": []}


BOUND = 100  # seconds in which a run of several processes is over on a machine that is busy otherwise


def pytest_configure():
    """One thread, here and in the programs that tests start: tensors are so small that two are slower, and much slower
    where others want the cores; sums are taken in the same order on any machine."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def recipe():
    """Folder of the codec recipe."""
    return ROOT / "recipes/LibriTTS/codec"


@pytest.fixture(scope="session")
def downloads(recipe):
    """The recipe's downloads, which the tests share and add to."""
    return recipe / "downloads"


@contextlib.contextmanager
def alone(downloads):
    """One of pytest's processes at a time."""
    downloads.mkdir(parents=True, exist_ok=True)
    with open(downloads / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(*command):
    """Run stage 0's Python. A download that fails fails the test: skipped tests would look like passed ones."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=LOCAL, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"stage 0 failed: {done.stderr.strip()[-500:]}"


@pytest.fixture(scope="session")
def campplus_path(downloads):
    """The published CAM++ weights: $PSCODEC_CAMPPLUS, else the recipe's."""
    path = Path(os.environ.get("PSCODEC_CAMPPLUS", downloads / CAMPPLUS))
    with alone(downloads):
        if not path.exists():
            program = "import sys; from campplus_weights import fetch_campplus; fetch_campplus(sys.argv[1])"
            fetch("-c", program, path.parent)
    return path


@pytest.fixture(scope="session")
def mini_corpus(downloads):
    """The mini corpus, real speech: `downloads/mini`, speaker folders of 16 kHz audio."""
    with alone(downloads):
        fetch("download.py", "--corpus", "mini", "--downloads", downloads, "--no-campplus")
    return downloads / "mini"


def copy_voices(mini_corpus, folder, number):
    """`number` recordings of each of two voices of the mini corpus into `folder`, a little over 2.25 s long.

    DNSMOS, most of what scoring costs, repeats what is shorter than 9.01 s: it looks at these once, at 3 s thrice.
    """
    for voice in ("fr_CA_f_June", "it_IT_m_Carlo"):
        (folder / voice).mkdir(parents=True)
        paths = sorted((mini_corpus / voice).rglob("*.wav"))
        for path in [p for p in paths if 2.26 < soundfile.info(p).duration < 2.5][:number]:
            shutil.copy(path, folder / voice / path.name)


@pytest.fixture(scope="session")
def voice(tmp_path_factory):
    """A recording of 2 s like speech: harmonics under formants, in syllables; floats at 24 kHz."""
    t = torch.arange(48000) / 24000
    pitch = 2 * torch.pi * torch.cumsum(120 + 20 * torch.sin(2 * torch.pi * 1.5 * t), 0) / 24000
    formants = ((700, 130), (1220, 170), (2600, 250))
    levels = [sum(math.exp(-(((120 * k - f) / b) ** 2)) for f, b in formants) + 0.02 for k in range(1, 30)]
    wav = sum(level * torch.sin(k * pitch) for k, level in enumerate(levels, 1)) * torch.sin(torch.pi * 3 * t) ** 2
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, (0.5 * wav / wav.abs().max()).numpy(), 24000, subtype="FLOAT")
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory, voice):
    """Headless Chromium, whose microphone hears `voice` and whose downloads go to `browser.downloads`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options, downloads = webdriver.ChromeOptions(), tmp_path_factory.mktemp("downloads")
    options.binary_location = chromium
    quiet = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    microphone = (
        f"use-fake-device-for-media-stream use-fake-ui-for-media-stream use-file-for-fake-audio-capture={voice}"
    )
    for option in f"headless=new disable-sync {quiet} {microphone}".split():
        options.add_argument(f"--{option}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as browser:
        browser.downloads = downloads
        browser.implicitly_wait(5)
        browser.set_script_timeout(BOUND)
        yield browser


TINY = {
    "latent_dim": 32,
    "width": 4,
    "decoder_width": 32,
    "kernels": [3],
    "dilations": [1],
    "melp_width": 32,
    "melp_blocks": 1,
    "codebook_size": 64,
    "quantize_start": 0,
    "kmeans_steps": 0,
}


def make_experiment(folder, seed=0, config="pscodec_base", **options):
    """An experiment folder as training leaves it, of a tiny PSCodec with random weights."""

    conf = ROOT / "recipes/LibriTTS/codec/conf"
    text = resolve(compose(conf / f"{config}.yaml", [conf / "presets/mini.yaml"]), TINY | options)
    torch.manual_seed(seed)
    model = build_only(text, "codec").eval()
    for codebook in model.quantizer.codebooks:
        torch.nn.init.normal_(codebook.entries)  # spread out, so that codes differ and none is nearly another
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(text)
    AtomicCheckpointer(folder / "save", {"codec": model}).save_checkpoint({"step": 1, "score": 1.0})
    return folder


@pytest.fixture(scope="session")
def tiny_exp(tmp_path_factory):
    """An experiment folder whose codec is tiny and untrained."""
    return make_experiment(tmp_path_factory.mktemp("exp") / "tiny")


@pytest.fixture(scope="session")
def codec_exp(tmp_path_factory):
    return make_experiment(
        tmp_path_factory.mktemp("codec") / "untrained", latent_dim=16, decoder_width=16, melp_width=16
    )


def tone(seconds, frequency, amplitude=0.25):
    return amplitude * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


@pytest.fixture
def folder(tmp_path):
    """Talkers a and b with two utterances each, a silent one of c; two mixtures of them."""
    utterances = []
    for utt, seconds, frequency in (("a-1", 2, 200), ("a-2", 1.5, 300), ("b-1", 1, 440), ("b-2", 2.5, 550)):
        save_audio(tmp_path / f"{utt}.wav", tone(seconds, frequency), RATE)
        utterances.append(Utterance(utt, utt[0], str(tmp_path / f"{utt}.wav"), seconds))
    save_audio(tmp_path / "c-1.wav", torch.zeros(RATE), RATE)
    utterances.append(Utterance("c-1", "c", str(tmp_path / "c-1.wav"), 1.0))
    write_data_dir(tmp_path / "clean", utterances)
    mixtures = [
        Mixture("m1", (Source("a-1", 0, 2.0), Source("b-1", 0, 0.5)), RATE),
        Mixture("m2", (Source("a-2", 100, 1.0), Source("b-1", 4000, 1.0)), 9000),
    ]
    write_mixtures(tmp_path / "mix", mixtures, MIXING | {"clean": str(tmp_path / "clean")})
    levels = {u.utt: 0.0 if u.spk == "c" else 0.03125 for u in utterances}
    write_table(tmp_path / "mix/utt2level", levels)
    return tmp_path / "mix"


def until(condition):
    """Wait for what a page does in its own time, and return it; fail where it does not come."""
    end = time.monotonic() + 2 * BOUND
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def start(launch, *program):
    """A module and its options under torchrun, whose own are `launch`."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", *program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], env=environ, **pipes)


def finish(process):
    """`(status, stdout, stderr)` of what `start` gave."""
    out, err = process.communicate(timeout=BOUND)
    return process.returncode, out, err


def torchrun(processes, *program):
    """`(status, stdout, stderr)` of a module run by so many processes."""
    return finish(start(["--standalone", "--nproc_per_node", processes], *program))


def errors(stderr):
    """The lines that tell of errors."""
    return [line for line in stderr.splitlines() if line.startswith("error: ")]
