"""`.psc` version 3, by hand: channels, overlapping chunks with a scale, tokens, packets that say their own size."""

import struct
import zlib

import numpy as np
import pytest

from pscodec import bitstream
from pscodec.bitstream import Header, Stream
from pscodec.packets import CODED
from pscodec.profile import Fields, Profile, Tokens, Vector, pack_side

NAME = b"language"  # the fingerprint of a language model


def header(k=1, bits=9, **options):
    return Header(24000, 320, k, bits, b"12345678", "mini", **options)


def sealed(data, key=0):
    return data + struct.pack("<I", zlib.crc32(data, key))


class Runs:
    """An entropy coder: a packet of one code throughout is that code, two bytes."""

    def encode(self, codes):
        return codes[:1, :1].astype("<u2").tobytes() if np.ptp(codes) == 0 else bytes(1000)

    def decode(self, data, frames):
        return np.full((1, frames), np.frombuffer(data, "<u2")[0], np.int64)


def test_what_version_2_can_say_is_said_in_it():
    assert header().version == header(side={"z": Vector.of(np.ones(3))}).version == 2
    for more in ({"channels": 2}, {"samples_per_packet": 300}, {"scaled": True}, {"entropy": NAME}):
        assert header(**more).version == 3
    assert header(side={"g": Tokens(np.array([1]), 2)}).version == 3


def test_whole_file_by_hand():
    side = {"g": Tokens(np.array([5, 1023]), 1024)}
    made = Stream(
        header(side=side, frames_per_packet=2, channels=2, samples_per_packet=600, scaled=True, entropy=NAME),
        np.array([[7, 7, 5, 6]]),
        600 + 500,
        scales=[0.5, 2.0],
    )
    head = b"PSC\x03" + struct.pack("<H", 28 + 6 + 5 + 1 + 1 + 2 + 6 + 3 + 8 + 4) + b"12345678"
    head += struct.pack("<IHBBHI", 24000, 320, 1, 9, 2, 1100) + struct.pack("<BIB", 2, 600, 3) + b"\x04mini\x01"
    tokens = bytes([0b00000001, 0b01111111, 0b11110000])  # 5 and 1023, ten bits each
    head = sealed(head + b"\x01\x01g" + struct.pack("<HI", 0x8000 | 2, 1024) + tokens + NAME)
    key = struct.unpack("<I", head[-4:])[0]
    full = sealed(b"\x00" + struct.pack("<Hf", CODED | 2, 0.5) + b"\x07\x00", key)
    codes = bytes([0b00000010, 0b10000001, 0b10000000])  # 5 and 6, nine bits each: not made smaller
    end = sealed(b"\x81" + struct.pack("<IHf", 500, 3, 2.0) + codes, key)
    assert bitstream.pack(made, Runs()) == head + full + end
    read = bitstream.unpack(head + full + end, lambda h: Runs() if h.entropy == NAME else None)
    assert np.array_equal(read.codes, made.codes) and (read.n_samples, read.scales) == (1100, [0.5, 2.0])
    assert read.header.channels == 2 and read.header.samples_per_packet == 600 and read.header.entropy == NAME
    assert read.header.side["g"].codes.tolist() == [5, 1023] and not read.damage
    sizes = read.sizes()
    assert sizes["codes"] == 5 and sizes["side"] == len(pack_side(side))
    assert sizes["total"] == len(head + full + end)


def test_an_absent_language_model_is_told_before_anything_is_read():
    data = bitstream.pack(Stream(header(entropy=NAME), np.zeros((1, 75), np.int64), 24000), Runs())
    with pytest.raises(ValueError, match=f"language model {NAME.hex()}, which is not here"):
        bitstream.unpack(data)
    with pytest.raises(ValueError, match="need each other"):
        bitstream.pack(Stream(header(), np.zeros((1, 75), np.int64), 24000), Runs())


def coded(packets, coder=None):
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(0, 512, packets), 75)[None]  # a code a packet
    options = {"entropy": NAME} if coder else {"channels": 2}
    return Stream(header(**options), codes, packets * 24000)


@pytest.mark.parametrize("entropy", [(), (lambda h: Runs(),)], ids=["plain", "entropy coded"])
def test_a_damaged_packet_costs_what_is_in_it(entropy):
    made = coded(9, entropy)
    data = bytearray(bitstream.pack(made, Runs() if entropy else None))
    size = (len(data) - len(made.header.pack())) // 9  # nearly: the end packet's samples
    data[len(made.header.pack()) + 4 * size + 3] ^= 255
    read = bitstream.unpack(bytes(data), *entropy)
    assert read.lost == [(300, 375)] and read.n_samples == made.n_samples
    there = np.r_[:300, 375:675]
    assert np.array_equal(read.codes[:, there], made.codes[:, there])
    with pytest.raises(ValueError, match="need each other"):
        bitstream.pack(made, None if entropy else Runs())


def test_hours_of_small_packets_are_read_to_the_end():
    made = coded(2000, True)
    read = bitstream.unpack(bitstream.pack(made, Runs()), lambda h: Runs())
    assert np.array_equal(read.codes, made.codes) and not read.lost and not read.damage


@pytest.mark.parametrize("step", [1, 7, 4000])
def test_bytes_may_come_in_any_pieces(step):
    made = coded(5, True)
    data, reader, packets = bitstream.pack(made, Runs()), bitstream.Reader(lambda h: Runs()), []
    for at in range(0, len(data), step):
        packets += reader.push(data[at : at + step])
    packets += reader.finish()
    assert np.array_equal(np.concatenate([p.codes for p in packets], 1), made.codes) and not reader.damage


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((0, 24000, 0), "channels"),
        ((1, 0, 0), "channels, or samples a packet"),
        ((1, 24001, 0), "samples a packet"),
        ((1, 24000, 4), "malformed header"),
    ],
)
def test_headers_with_right_checksums_that_lie(more, message):
    head = header(channels=2).pack()[:-4]
    with pytest.raises(ValueError, match=message):
        bitstream.unpack(sealed(head[:28] + struct.pack("<BIB", *more) + head[34:]))


def test_tokens_are_checked_and_make_a_profile_of_version_2():
    for codes, entries in (([4], 4), ([-1], 4), ([0], 0)):
        with pytest.raises(ValueError, match="token"):
            Tokens(np.array(codes), entries)
    packed = pack_side({"g": Tokens(np.array([2, 2]), 3)})  # two bits each
    assert Fields(packed).unpack_side()["g"].codes.tolist() == [2, 2]
    with pytest.raises(ValueError, match="token"):
        Fields(packed[:-1] + b"\xf0").unpack_side()
    profile = Profile({"g": Tokens(np.array([2, 0]), 3)}, b"12345678")
    data = profile.pack()
    assert data[3] == 2 and Profile.unpack(data).side["g"].codes.tolist() == [2, 0]
    assert Profile({"z": Vector.of(np.ones(2))}, b"12345678").pack()[3] == 1
