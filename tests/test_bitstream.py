"""The .psc file, byte by byte, and what happens to damaged ones."""

import struct
import zlib

import numpy as np
import pytest

from pscodec import bitstream
from pscodec.bitstream import Stream
from pscodec.utils.errors import UserError


def stream(k=1, frames=80, bits=9, **options):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (k, frames))
    return Stream(codes, frames * 320 - 7, 24000, 320, bits, b"12345678", **options)


def test_three_codes_of_nine_bits_by_hand():
    # 1, 256, 511 = 000000001 100000000 111111111, 27 bits and five zeros of padding
    payload = bitstream.pack_codes(np.array([[1, 256, 511]]), 9)
    assert payload == bytes([0b00000000, 0b11000000, 0b00111111, 0b11100000])
    assert bitstream.unpack_codes(payload, 1, 3, 9).tolist() == [[1, 256, 511]]


def test_two_codebooks_go_frame_by_frame():
    assert bitstream.pack_codes(np.array([[1, 2], [3, 4]]), 4) == bytes([0x13, 0x24])


def test_whole_file_by_hand():
    made = Stream(np.array([[5]]), 320, 24000, 320, 9, b"modelkey", {"z": np.array([1.0], np.float16)})
    head = b"PSC1modelkey" + struct.pack("<IHBBHQB", 24000, 320, 1, 9, 75, 320, 1) + b"\x01z\x01\x00\x00\x3c"
    payload = bytes([0b00000010, 0b10000000])
    expected = head + struct.pack("<I", zlib.crc32(head)) + payload + struct.pack("<I", zlib.crc32(payload))
    assert bitstream.pack(made) == expected
    assert made.sizes() == {"codes": 2, "side": 6, "total": len(expected)}


@pytest.mark.parametrize(("k", "frames", "bits"), [(1, 1, 9), (1, 75, 9), (2, 76, 9), (4, 750, 10), (1, 149, 1)])
def test_round_trip_and_sizes(tmp_path, k, frames, bits):
    made = stream(k, frames, bits, side={"z_vp": np.arange(8, dtype=np.float16), "z_mel": np.zeros(3, np.float16)})
    bitstream.write(tmp_path / "x.psc", made)
    read = bitstream.read(tmp_path / "x.psc")
    assert np.array_equal(read.codes, made.codes) and read.codes.dtype == np.int64
    assert read.n_samples == made.n_samples and read.fingerprint == made.fingerprint
    assert list(read.side) == ["z_vp", "z_mel"] and np.array_equal(read.side["z_vp"], made.side["z_vp"])
    assert made.sizes()["total"] == (tmp_path / "x.psc").stat().st_size


def test_ten_seconds_at_675_bits_a_second():
    sizes = stream(frames=750).sizes()
    assert sizes["codes"] == 10 * 85  # 675 bits are 84.4 bytes, padded a packet of one second


def test_a_code_too_large_for_its_bits():
    made = stream()
    made.codes[0, 0] = 512
    with pytest.raises(ValueError, match="outside"):
        bitstream.pack(made)


def test_every_damaged_byte_and_every_truncation_is_told_in_one_line(tmp_path):
    data = bitstream.pack(stream(frames=90, side={"z": np.ones(4, np.float16)}))
    path = tmp_path / "x.psc"
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :])
        with pytest.raises(UserError, match=str(path)) as error:
            bitstream.read(path)
        assert "\n" not in str(error.value)
        path.write_bytes(data[:i])
        with pytest.raises(UserError):
            bitstream.read(path)


def test_a_header_that_promises_much_costs_no_memory(tmp_path):
    head = b"PSC1modelkey" + struct.pack("<IHBBHQB", 24000, 320, 1, 9, 1, 1 << 60, 0)
    with pytest.raises(ValueError, match="promises"):
        bitstream.unpack(head + struct.pack("<I", zlib.crc32(head)))


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        bitstream.read(tmp_path / "none.psc")
    (tmp_path / "wav.psc").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(UserError, match="not a .psc file"):
        bitstream.read(tmp_path / "wav.psc")
