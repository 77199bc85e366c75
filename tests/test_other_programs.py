"""Metrics beside other people's programs on the same signals."""

import mir_eval
import numpy as np
import pytest
import torch

from pscodec.data.audio import load_audio
from pscodec.metrics.base import MetricError
from pscodec.metrics.dnsmos import Dnsmos
from pscodec.metrics.ge2e import Ge2e, windows
from pscodec.metrics.mcd import ALPHAS, mcd
from pscodec.metrics.sdr import sdr
from pscodec.scoring import How
from pscodec.utils import packages
from pscodec.utils.errors import UserError


@pytest.fixture(scope="module")
def voices(mini_corpus):
    """Recordings `[L]` at 16 kHz, float64, two of each of two voices."""
    names = [f"{voice}/conf-{word}.wav" for voice in ("fr_CA_f_June", "it_IT_m_Carlo") for word in ("full", "noempty")]
    return {name: load_audio(mini_corpus / name, 16000)[0][0].double().numpy() for name in names}


@pytest.fixture(scope="module")
def wav(voices):
    return next(iter(voices.values()))


def worse(wav, level=0.01):
    return np.convolve(wav, [0.6, 0.3, -0.2], "same") + level * np.random.default_rng(0).standard_normal(len(wav))


@pytest.mark.parametrize("rate", [16000, 24000])
def test_mcd_is_that_of_diffsptk(wav, rate):
    import diffsptk

    n_fft = {16000: 512, 24000: 1024}[rate]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    analysis = diffsptk.MelCepstralAnalysis(fft_length=n_fft, cep_order=24, alpha=ALPHAS[rate], dtype=torch.double)

    def cepstra(x):
        x = np.pad(x, n_fft // 2, "reflect")
        frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[:: rate // 200]
        power = np.abs(np.fft.rfft(frames * window) / window.sum()) ** 2
        return analysis(torch.from_numpy(np.maximum(power, 1e-10)))

    theirs = diffsptk.CepstralDistance(full=True, reduction="batchmean")(cepstra(wav), cepstra(worse(wav))).item()
    assert mcd(wav, worse(wav), rate) == pytest.approx(theirs, rel=1e-6) and theirs > 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("level", [0.3, 0.003])
def test_sdr_is_that_of_mir_eval(wav, level):
    hyp = worse(wav, level)
    found, *_ = mir_eval.separation.bss_eval_sources(wav[None], hyp[None], compute_permutation=False)
    assert sdr(wav, hyp, 16000) == pytest.approx(found[0], abs=1e-4)


def test_dnsmos_is_that_of_speechmos(wav):
    from speechmos import dnsmos

    long = np.tile(wav, 6)[: round(10.5 * 16000)]  # two windows
    for hyp in (wav, long):
        theirs, ours = dnsmos.run(hyp, 16000), Dnsmos()(hyp, 16000)
        assert ours == {part: pytest.approx(theirs[f"{part}_mos"], abs=2e-3) for part in ("ovrl", "sig", "bak", "p808")}


def test_ge2e_is_that_of_resemblyzer(voices):
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume

    theirs, ours = VoiceEncoder("cpu", verbose=False), Ge2e()
    for seconds in (0.7, 1.6, 4.1):  # one window, one, and several with a last one that is left out
        x = np.concatenate(list(voices.values()))[: round(16000 * seconds)]
        for level in (0.02, 1.0):  # soft signals are raised, others stay
            loud = normalize_volume((level * x).astype(np.float32), -30, increase_only=True)
            assert ours.embed(level * x).numpy() == pytest.approx(theirs.embed_utterance(loud), abs=1e-5)
        slices, _ = VoiceEncoder.compute_partial_slices(len(x), 1.3, 0.75)
        assert windows(len(x)) == [piece.start // 160 for piece in slices]


def test_ge2e_tells_voices_apart(voices):
    ge2e = Ge2e()
    first, second, other, _ = ([*voices.values()][i][: 2 * 16000] for i in range(4))
    n = min(map(len, (first, second, other)))
    same, different = (ge2e.similarity(first[:n], x[:n], 16000) for x in (second, other))
    assert different + 0.1 < same <= 1 and ge2e.similarity(first, first, 16000) == pytest.approx(1)
    with pytest.raises(MetricError, match="shorter than 0.5 s"):
        ge2e.similarity(first[:7000], first[:7000], 16000)


def test_weights_of_ge2e_are_checked_and_named(monkeypatch):
    from pscodec.metrics import ge2e

    monkeypatch.setattr(ge2e, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="the weights of GE2E in .*resemblyzer are not those that were published"):
        Ge2e()
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert How().missing("secs_ge2e").startswith("Resemblyzer is not installed; pip install --no-deps Resemblyzer")
