"""Active speech level, against signals whose level can be worked out."""

import math

import numpy as np
import pytest
import torch

from pscodec.data.levels import active_level

RATE = 8000


def sine(seconds, frequency=1000.0, amplitude=1.0):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def db(ratio):
    return 10 * math.log10(ratio)


def test_a_steady_sine_is_active_all_the_time_at_half_its_squared_amplitude():
    level, activity = active_level(sine(20, amplitude=0.2), RATE)
    # the hangover and the envelope's decay, together under 0.35 s, count as active: 0.07 dB of 20 s
    assert db(0.02) - 0.1 < db(level) <= db(0.02) + 0.01
    assert activity > 0.98


def test_speech_half_of_the_time_has_an_active_level_3_db_above_its_mean():
    on_and_off = sine(40) * (np.arange(40 * RATE) % (10 * RATE) < 5 * RATE)
    level, activity = active_level(on_and_off, RATE)
    # 5 s of sound hold the level for about 0.3 s more: 10 log10(10 / 5.3) = 2.76 dB
    assert 2.6 < db(level / np.mean(on_and_off**2)) < 3.01
    assert 0.5 < activity < 0.55


def test_pauses_below_the_hangover_count_as_speech():
    gaps = sine(20) * (np.arange(20 * RATE) % (RATE // 4) < RATE // 8)  # 125 ms on, 125 ms off
    level, activity = active_level(gaps, RATE)
    assert db(level / np.mean(gaps**2)) == pytest.approx(0, abs=0.15) and activity > 0.95


@pytest.mark.parametrize("gain", [1e-3, 0.1, 30.0])
def test_level_follows_the_gain_exactly(gain):
    speech = np.random.default_rng(0).standard_normal(3 * RATE) * (np.arange(3 * RATE) % RATE < RATE // 2)
    level, activity = active_level(speech, RATE)
    louder, same = active_level(gain * speech, RATE)
    assert db(louder) - db(level) == pytest.approx(20 * math.log10(gain), abs=0.15)  # thresholds lie 3 dB apart
    assert same == pytest.approx(activity, abs=0.02)


def test_the_input_filter_takes_hum_and_offset_out_and_passes_speech():
    hum = sine(10, 50.0) + 0.5
    assert db(active_level(sine(10, 300.0) + hum, RATE)[0]) == pytest.approx(db(0.5), abs=0.2)
    edge = active_level(sine(20, 200.0), RATE)[0] / active_level(sine(20, 1000.0), RATE)[0]
    assert db(edge) == pytest.approx(-0.25, abs=0.05), "the pass band ends at 200 Hz, 0.25 dB down"
    high = active_level(np.sin(2 * np.pi * 12000 * np.arange(96000) / 48000), 48000)[0]
    assert db(high) < db(0.5) - 40


@pytest.mark.parametrize("wav", [np.zeros(RATE), np.zeros(0), np.zeros(1)])
def test_silence_has_no_level_and_no_nan(wav):
    assert active_level(wav, RATE) == (0.0, 0.0)


def test_short_and_tensor_input():
    level, _ = active_level(torch.ones(1, 5) * torch.tensor([1.0, -1, 1, -1, 1]), RATE)
    assert math.isfinite(level) and level > 0
