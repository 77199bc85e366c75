"""Side information in bytes: quantization, .psp files, and how a stream finds its profile."""

import hashlib
import struct
import zlib

import numpy as np
import pytest

from pscodec.profile import Profile, Vector, find_profile, read_profile, write_profile
from pscodec.utils.errors import UserError


def profile(seed=0):
    values = np.random.default_rng(seed).normal(size=(2, 512))
    return Profile(
        {"z_vp": Vector.of(values[0]), "z_mel": Vector.of(values[1])}, b"12345678", "mini", recordings=3, seconds=7.5
    )


def test_a_vector_by_hand():
    vector = Vector.of([1.27, -0.02, 0.014, 0.0])  # a step of 0.01
    assert vector.levels.tolist() == [127, -2, 1, 0] and vector.step == pytest.approx(0.01)
    assert vector.floats() == pytest.approx([1.27, -0.02, 0.01, 0.0])
    assert Vector.of(np.zeros(3)).floats().tolist() == [0, 0, 0] and len(Vector.of([]).levels) == 0
    again = Vector.of(vector.floats())
    assert again.levels.tolist() == vector.levels.tolist()
    with pytest.raises(ValueError, match="NaN"):
        Vector.of([1.0, float("nan")])


def test_the_error_is_at_most_half_a_step():
    values = np.random.default_rng(0).normal(size=512).astype(np.float32)
    vector = Vector.of(values)
    assert np.abs(vector.floats() - values).max() <= 0.501 * vector.step


def test_whole_file_by_hand(tmp_path):
    made = Profile({"z": Vector(np.array([1, -1], np.int8), 0.5)}, b"12345678", "mini", 2, 1.5)
    write_profile(tmp_path / "x.psp", made)
    data = b"PSP\x01" + struct.pack("<H", 20 + 5 + 1 + 2 + 6 + 2 + 4) + b"12345678" + struct.pack("<Hf", 2, 1.5)
    data += b"\x04mini" + b"\x01" + b"\x01z" + struct.pack("<Hf", 2, 0.5) + b"\x01\xff"
    data += struct.pack("<I", zlib.crc32(data))
    assert (tmp_path / "x.psp").read_bytes() == data
    assert made.hash == hashlib.sha256(data).digest()[:8]


def test_round_trip_and_size(tmp_path):
    write_profile(tmp_path / "x.psp", profile())
    read = read_profile(tmp_path / "x.psp")
    assert (read.fingerprint, read.model, read.recordings, read.seconds) == (b"12345678", "mini", 3, 7.5)
    assert read.hash == profile().hash and np.array_equal(read.side["z_mel"].levels, profile().side["z_mel"].levels)
    assert (tmp_path / "x.psp").stat().st_size == 20 + 5 + 1 + (5 + 6 + 512) + (6 + 6 + 512) + 4


def test_every_damaged_byte_and_every_truncation_is_told_in_one_line(tmp_path):
    data, path = profile().pack(), tmp_path / "x.psp"
    for i in range(0, len(data), 1 if len(data) < 100 else 7):
        for wrong in (data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :], data[:i]):
            path.write_bytes(wrong)
            with pytest.raises(UserError, match="x.psp: ") as error:
                read_profile(path)
            assert "\n" not in str(error.value)
    path.write_bytes(data + b"more")
    with pytest.raises(UserError, match="length"):
        read_profile(path)


def test_mutations_with_right_checksums_never_crash():
    rng, data = np.random.default_rng(0), profile().pack()
    for _ in range(2000):
        mutant = bytearray(data[:-4])
        for _ in range(rng.integers(1, 4)):
            mutant[int(rng.integers(6, 60))] = int(rng.integers(256))
        mutant = bytes(mutant) + struct.pack("<I", zlib.crc32(bytes(mutant)))
        try:
            found = Profile.unpack(mutant)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert all(np.isfinite(v.floats()).all() for v in found.side.values())


def test_a_profile_is_found_by_its_hash(tmp_path):
    for seed in range(3):
        write_profile(tmp_path / f"deep/er/{seed}.psp", profile(seed))
    (tmp_path / "broken.psp").write_bytes(b"PSP")
    wanted = profile(1).hash
    assert find_profile(wanted, [tmp_path]).hash == wanted
    assert find_profile(wanted, [tmp_path / "deep/er/0.psp", tmp_path / "deep/er/1.psp"]).hash == wanted
    with pytest.raises(UserError, match=f"profile {wanted.hex()}, which is not in .*0.psp$"):
        find_profile(wanted, [tmp_path / "deep/er/0.psp"])
    with pytest.raises(UserError, match=f"profile {wanted.hex()}, which was not given"):
        find_profile(wanted, [])
    with pytest.raises(UserError, match="broken.psp: a damaged"):
        find_profile(wanted, [tmp_path / "broken.psp"])
