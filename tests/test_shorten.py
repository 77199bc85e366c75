"""Shorten, the compression of LDC's SPHERE files: streams written bit by bit, predictors worked out by hand."""

import importlib

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from pscodec.utils.errors import UserError


@pytest.fixture(autouse=True)
def local(monkeypatch):
    """The recipe's modules, importable by name as its programs import each other."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes/WSJ0Mix/local"))
    return importlib.import_module


def u(value, k):
    return "0" * (value >> k) + "1" + (format(value & ((1 << k) - 1), f"0{k}b") if k else "")


def s(value, k):
    return u(2 * value if value >= 0 else -2 * value - 1, k + 1)


def number(value):
    return u(value.bit_length(), 2) + u(value, value.bit_length())


def stream(*parts, version=2, blocksize=4, max_lpc=0, n_mean=0, kind=5):
    head = "".join(map(number, (kind, 1, blocksize, max_lpc, n_mean, 0)))
    bits = head + "".join(parts) + u(4, 2)
    bits += "0" * (-len(bits) % 8)
    return b"ajkg" + bytes([version]) + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def block(command, residuals, k=1):
    return u(command, 2) + u(k, 3) + "".join(s(r, k) for r in residuals)


def test_shorten_predictors_by_hand(local):
    data = stream(
        u(9, 2) + u(3, 5) + "".join(u(b, 8) for b in b"RIF"),  # verbatim bytes, passed over
        block(1, [10, 2, -1, 0]),
        block(2, [1, 0, -2, 0]),
        block(3, [0, 1, 0, -1]),
        block(0, [5, -3, 0, 7], k=3),
        u(8, 2),
        u(7, 2) + u(1, 3) + u(1, 2) + s(32, 5) + "".join(s(r, 1) for r in (1, 0, 0, -1)),
        u(6, 2) + u(2, 2) + block(1, [1, 1, -1, 0]),
        u(5, 2) + number(2) + block(0, [1, 2]),
        max_lpc=1,
    )
    assert local("shorten").decode(data)[:, 0].tolist() == [
        *(10, 12, 11, 11),  # differences
        *(12, 13, 12, 11),  # 1 + 2 * 11 - 11, 2 * 12 - 11, -2 + 2 * 13 - 12, 2 * 12 - 13
        *(10, 10, 11, 12),  # 3 * 11 - 3 * 12 + 13, 1 + 3 * 10 - 3 * 11 + 12, ...
        *(5, -3, 0, 7),
        *(0, 0, 0, 0),
        *(2, 3, 4, 4),  # coefficient 32 / 32, and version 2 adds 32 / 32
        *(20, 24, 20, 20),  # 5, 6, 5, 5, two bits up
        *(4, 8),
    ]


@pytest.mark.parametrize(
    ("version", "first", "expected"),
    [
        # version 1: means 44 / 4 = 11 and 20 / 4 = 5, offsets 11 / 2 = 5 and 16 / 2 = 8
        (1, [10, 10, 10, 14], [5, 6, 4, 5, 8, 8, 8, 8]),
        # version 2 rounds: (44 + 2) / 4 = 11, (11 + 1) / 2 = 6; (24 + 2) / 4 = 6, (17 + 1) / 2 = 9
        (2, [10, 10, 10, 14], [6, 7, 5, 6, 9, 9, 9, 9]),
        # towards zero: -43 / 4 = -10, -10 / 2 = -5; -20 / 4 = -5, -15 / 2 = -7
        (1, [-10, -10, -10, -13], [-5, -4, -6, -5, -7, -7, -7, -7]),
    ],
)
def test_shorten_means_by_hand(local, version, first, expected):
    data = stream(block(0, first, 3), block(0, [0, 1, -1, 0]), block(0, [0] * 4), version=version, n_mean=2)
    assert local("shorten").decode(data)[:, 0].tolist() == first + expected


def sphere(samples, coding="pcm,embedded-shorten-v2.00", rate=16000, count=None):
    """A SPHERE file, its samples int16 coded in blocks of 256 as second differences."""
    lines = ["NIST_1A", "   1024", f"sample_rate -i {rate}", "channel_count -i 1", "sample_n_bytes -i 2"]
    lines += [f"sample_count -i {count or len(samples)}", "sample_byte_format -s2 01", "sample_sig_bits -i 16"]
    lines += [f"sample_coding -s{len(coding)} {coding}", "end_head", ""]
    head = "\n".join(lines).encode().ljust(1024)
    if "shorten" not in coding:
        return head + samples.astype("<i2").tobytes()
    residuals = np.diff(np.concatenate([[0, 0], samples.astype(int)]), 2)
    parts = []
    for i in range(0, len(residuals), 256):
        chunk = residuals[i : i + 256]
        if len(chunk) < 256:
            parts.append(u(5, 2) + number(len(chunk)))
        parts.append(block(2, chunk.tolist(), k=max(1, int(np.abs(chunk).mean()).bit_length())))
    return head + stream(*parts, blocksize=256)


def speech(corpus, n=1):
    found = [p for p in sorted(corpus.rglob("*.wav")) if 2 < soundfile.info(p).duration < 4]
    return found[:: len(found) // n][:n]


def test_a_sphere_file_of_real_speech_comes_back_exactly(local, mini_corpus, tmp_path):
    samples, rate = soundfile.read(speech(mini_corpus)[0], dtype="int16")
    coded = tmp_path / "x.wv1"
    coded.write_bytes(sphere(samples))
    assert len(coded.read_bytes()) < 0.95 * 2 * len(samples)
    shorten = local("shorten")
    assert shorten.is_shortened(coded) and not shorten.is_shortened(speech(mini_corpus)[0])
    decoded, sample_rate = shorten.read_shortened(coded)
    assert sample_rate == 16000 and np.array_equal(decoded, samples)
    plain = tmp_path / "plain.wv1"
    plain.write_bytes(sphere(samples, coding="pcm"))
    assert not shorten.is_shortened(plain) and np.array_equal(soundfile.read(plain, dtype="int16")[0], samples)


def test_broken_sphere_files_are_one_line(local, tmp_path):
    good = sphere(np.arange(-400, 400, dtype=np.int16))
    path = tmp_path / "x.wv1"
    for data, told in (
        (good[:1100], "end too early"),
        (good[:1024], "no shorten data"),
        (good[:1028] + b"\x07" + good[1029:], "shorten format 7"),
        (good[:1024] + stream(kind=8), "sample type 8"),
        (sphere(np.arange(-400, 400, dtype=np.int16), count=900), "800 samples where its header promises 900"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=told) as error:
            local("shorten").read_shortened(path)
        assert "x.wv1" in str(error.value) and "\n" not in str(error.value)
