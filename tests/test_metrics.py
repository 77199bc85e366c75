"""Metrics against numbers worked out by hand, and what they refuse."""

import math

import numpy as np
import pytest
import torch

from pscodec.metrics.base import MetricError, pair
from pscodec.metrics.mcd import DB, cepstral_distance, freqt, mcd, mcd_linear, mel_cepstrum
from pscodec.metrics.mel import slaney_bank
from pscodec.metrics.pesq import pesq
from pscodec.metrics.scorer import Scorer, Weights, columns
from pscodec.metrics.secs import secs
from pscodec.metrics.si_snr import si_snr
from pscodec.metrics.stoi import stoi
from pscodec.metrics.summary import codebook_usage, format_mean, mean_ci
from pscodec.metrics.visqol import Visqol
from pscodec.utils.errors import UserError

RATE = 24000


def speech(seconds=2.0, seed=0):
    """Something that PESQ and STOI take for speech: a buzz of 120 Hz under two formants, in syllables."""
    n = int(seconds * RATE)
    time = np.arange(n) / RATE
    rng = np.random.default_rng(seed)
    source = ((np.cumsum(120 + 20 * np.sin(2 * np.pi * 2 * time)) / RATE) % 1.0 < 0.1) + 0.02 * rng.standard_normal(n)
    spectrum = np.fft.rfft(source - source.mean())
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    envelope = sum(np.exp(-(((hertz - f) / w) ** 2)) for f, w in ((600, 200), (1500, 300), (3500, 900)))
    wav = np.fft.irfft(spectrum * envelope, n) * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)
    return 0.5 * wav / np.abs(wav).max()


@pytest.fixture(scope="module")
def wav():
    return speech()


@pytest.fixture(scope="module")
def noisy(wav):
    return wav + 0.02 * np.random.default_rng(1).standard_normal(len(wav))


def test_si_snr_is_the_ratio_of_energies():
    # a sine and a cosine of whole periods are orthogonal and have no mean: amplitude 1 over 0.1 is 20 dB
    phase = 2 * np.pi * np.arange(2400) / 240
    ref, noise = np.sin(phase), 0.1 * np.cos(phase)
    assert si_snr(ref, ref + noise, RATE) == pytest.approx(20.0, abs=1e-9)
    assert si_snr(ref, 7 * (ref + noise), RATE) == pytest.approx(20.0, abs=1e-9)  # the level does not count
    assert si_snr(ref, ref + noise + 0.3, RATE) == pytest.approx(20.0, abs=1e-9)  # nor does the mean
    assert si_snr(torch.from_numpy(ref)[None], torch.from_numpy(ref + ref), RATE) == 100.0  # limited
    assert si_snr(ref, noise, RATE) == -100.0  # orthogonal
    with pytest.raises(MetricError, match="constant"):
        si_snr(ref, np.ones(2400), RATE)


def test_freqt_without_warping_only_cuts():
    assert np.array_equal(freqt(6, 3, 0.0), np.eye(6, 4))


def test_freqt_first_rows():
    # z^-1 = (w + a) / (1 + a w) = a + (1 - a^2) w - a (1 - a^2) w^2 + ...
    a = 0.5
    assert freqt(3, 2, a)[0] == pytest.approx([1, 0, 0])
    assert freqt(3, 2, a)[1] == pytest.approx([0.5, 0.75, -0.375])
    assert freqt(3, 2, a)[2] == pytest.approx([0.25, 0.75, 0.75**2 - 2 * 0.5 * 0.375])


def test_mcd_of_cepstra_by_hand():
    first, second = np.zeros((2, 25)), np.zeros((2, 25))
    second[0, 0] = 5.0  # the level does not count
    second[0, 1], second[0, 24] = 0.3, 0.4  # distance 0.5 in one of two frames
    assert DB == pytest.approx(6.1418, abs=1e-4)
    assert cepstral_distance(first, second) == pytest.approx(DB * 0.5 / 2)


def test_mcd_leaves_the_level_out(wav):
    noise = np.random.default_rng(0).standard_normal(RATE)  # loud: hardly a bin at the floor
    assert mcd(noise, 0.25 * noise, RATE) == pytest.approx(0.0, abs=0.01)
    assert mcd(wav, wav, RATE) == 0.0
    difference = mel_cepstrum(noise, RATE)[:, 0] - mel_cepstrum(0.25 * noise, RATE)[:, 0]
    assert difference.mean() == pytest.approx(math.log(4), abs=1e-3)  # c_0 is a log amplitude


def test_mel_cepstrum_of_a_decay():
    # x[n] = r^n has log amplitude sum_k r^k / k cos(k w): unwarped cepstrum r^k / k; warp that by the matrix
    impulse = np.zeros(4096)
    impulse[2400:2600] = 0.9 ** np.arange(200)
    frame = mel_cepstrum(impulse, RATE)[2400 // 120]  # centred on the onset; the window is near 1 over the decay
    k = np.arange(1, 513)
    wanted = (0.9**k / k) @ freqt(513, 24, 0.466)[1:]
    assert frame[1:] == pytest.approx(wanted[1:], abs=0.03)


def test_mcd_linear_by_hand(wav):
    # twice the signal: the difference of the Mels is the Mel itself
    from pscodec.metrics.mel import slaney_mel

    norm = np.sqrt((slaney_mel(wav, 1024, 128, 512, 128, RATE, 1) ** 2).sum(0)).mean()
    assert mcd_linear(wav, 2 * wav, RATE) == pytest.approx(10 / math.log(10) * math.sqrt(2) * norm)
    assert mcd_linear(wav, wav, RATE) == 0.0


def test_mcd_linear_of_a_unit_impulse():
    # frames that hold the impulse at window position j have |X| = hann(j) in every bin; the bank then sums its rows
    ref, hyp = np.zeros(12800), np.zeros(12800)
    ref[3200] = hyp[3200] = 1.0
    hyp[9600] = 1.0  # 75 * 128: frames 74, 75, 76 see it at the window's 0.5, 1, 0.5 (the hop is a quarter window)
    rows = np.linalg.norm(slaney_bank(1024, 128, RATE).sum(1))
    assert mcd_linear(ref, hyp, RATE) == pytest.approx(DB * rows * (0.5 + 1 + 0.5) / 101)


def test_slaney_bank_has_area_one():
    bank = slaney_bank(8192, 40, 16000)
    assert bank.sum(1) * 16000 / 8192 == pytest.approx(np.ones(40), rel=0.02)
    peaks = bank.argmax(1) * 16000 / 8192  # below 1 kHz the bands are equally far apart, then by a factor
    assert np.diff(peaks)[:8] == pytest.approx(np.full(8, peaks[0]), abs=4)
    assert peaks[30] / peaks[29] == pytest.approx(peaks[35] / peaks[34], rel=0.01)


def test_a_copy_scores_the_most(wav, noisy):
    assert stoi(wav, wav, RATE) == pytest.approx(1.0, abs=1e-6)
    assert pesq(wav, wav, RATE) == pytest.approx(4.6439, abs=1e-3)  # P.862.2's end of the scale
    assert stoi(wav, noisy, RATE) < 1.0
    assert pesq(wav, noisy, RATE) < 4.0


def test_visqol_is_the_packages_own(wav, noisy):
    from visqol import VisqolApi

    plain = VisqolApi()
    plain.create(mode="speech", use_lattice_model=True)
    ref, hyp = pair(wav, noisy, RATE, 16000)
    assert Visqol()(wav, noisy, RATE) == pytest.approx(plain.measure_from_arrays(ref, hyp, 16000).moslqo, abs=1e-5)


def test_secs_is_a_cosine(wav, noisy):
    def embed(fbank):  # two directions at 60 degrees, told apart by the length of the call
        calls.append(fbank.shape)
        return torch.tensor([[1.0, 0.0]]) if len(calls) == 1 else torch.tensor([[0.5, 3**0.5 / 2]])

    calls = []
    assert secs(wav, noisy, RATE, embed) == pytest.approx(0.5)
    assert calls == [(1, 80, 198), (1, 80, 198)]  # 2 s at 16 kHz: 1 + (32000 - 400) // 160 frames


def test_silence_and_short_are_errors(wav):
    nothing = np.zeros_like(wav)
    for metric in (pesq, stoi, si_snr, mcd, mcd_linear):
        with pytest.raises(MetricError, match="the reference is silent"):
            metric(nothing, wav, RATE)
        with pytest.raises(MetricError, match="the reference is silent"):
            metric(wav / 1000, wav, RATE)  # below -60 dBFS
        with pytest.raises(MetricError, match="the decoded signal is silent"):
            metric(wav, nothing, RATE)
        with pytest.raises(MetricError, match="empty"):
            metric(wav[:0], wav[:0], RATE)
        with pytest.raises(MetricError, match="NaN"):
            metric(wav, np.full_like(wav, np.nan), RATE)
        with pytest.raises(ValueError, match="samples"):
            metric(wav, wav[:-1], RATE)
    with pytest.raises(MetricError, match="shorter"):
        pesq(wav[:2000], wav[:2000], RATE)
    with pytest.raises(MetricError, match="30 frames"):
        stoi(wav[2400:7200], wav[2400:7200], RATE)  # 0.2 s
    with pytest.raises(MetricError, match="12345"):
        mcd(wav, wav, 12345)


def test_visqol_and_dnsmos(wav, noisy):
    scorer = Scorer(["visqol", "dnsmos"])
    good, failures, seconds = scorer(wav, wav, RATE)
    bad, _, _ = scorer(wav, noisy, RATE)
    assert not failures and set(seconds) == {"visqol", "dnsmos"}
    assert set(good) == set(columns(["visqol", "dnsmos"]))
    assert 4.0 < good["visqol"] <= 5.0 and bad["visqol"] < good["visqol"]
    assert all(1.0 <= score <= 5.0 for score in good.values())
    _, failures, _ = scorer(np.zeros_like(wav), wav, RATE)
    assert failures == dict.fromkeys(("visqol", "dnsmos"), "the reference is silent")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_utmos_takes_a_torchscript_model(tmp_path, wav):
    class Loudness(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs().amax(1) + x.shape[1]

    torch.jit.save(torch.jit.script(Loudness()), str(tmp_path / "utmos.pt"))
    scores, failures, _ = Scorer(["utmos"], Weights(utmos=tmp_path / "utmos.pt"))(wav, wav, RATE)
    assert scores["utmos"] == pytest.approx(32000.5, abs=0.1)  # 2 s at 16 kHz
    (tmp_path / "no.pt").write_text("no")
    with pytest.raises(UserError, match="TorchScript"):
        Scorer(["utmos"], Weights(utmos=tmp_path / "no.pt"))


def test_mean_and_interval():
    # 1, 2, 3: deviation 1, t(0.975, 2) = 4.3027, so 4.3027 / sqrt(3)
    assert mean_ci([1.0, 2.0, 3.0]) == {"mean": 2.0, "ci95": pytest.approx(2.4841, abs=1e-4), "n": 3}
    assert mean_ci([5.0]) == {"mean": 5.0, "ci95": None, "n": 1}
    assert mean_ci([]) == {"mean": None, "ci95": None, "n": 0}
    # rates of 1 in 1, 1 in 4 and 0 in 4: 2 of 9, with residuals 7/9, 1/9, -8/9 over a mean count of 3
    rates = mean_ci([1.0, 0.25, 0.0], [1, 4, 4])
    assert rates["mean"] == pytest.approx(2 / 9)
    assert rates["ci95"] == pytest.approx(4.3027 / 3 * math.sqrt((49 + 1 + 64) / 81 / 2 / 3), abs=1e-4)
    assert mean_ci([1.0, 2.0, 3.0], [7, 7, 7]) == mean_ci([1.0, 2.0, 3.0])
    assert format_mean(mean_ci([1.0, 2.0, 3.0])) == "2.000 ± 2.484"
    assert format_mean(None) == "-"
    assert format_mean(mean_ci([1.0, 2.0, 3.0]), 3) == "2.000 ± 2.484" and format_mean(mean_ci([]), 3) == "-"
    assert format_mean(mean_ci([1.0, 2.0, 3.0]), 50) == "2.000 ± 2.484 (n 3)"


def test_codebook_usage_by_hand():
    # entries 0, 0, 1, 1 of 4: half of them used, as good as two equally likely ones
    book, other = codebook_usage([(np.array([[0, 0], [3, 3]]), 4), (np.array([[1, 1], [3, 3]]), 4)])
    assert book == {"size": 4, "frames": 4, "used": 2, "usage": 0.5, "perplexity": pytest.approx(2.0)}
    assert (other["used"], other["perplexity"]) == (1, pytest.approx(1.0))
