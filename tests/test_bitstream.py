"""The .psc file: its bytes by hand, and what happens to damaged, hostile and foreign ones."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from pscodec import bitstream
from pscodec.bitstream import Header, Reader, Stream, Writer
from pscodec.packets import END, MOST_MISSING, pack_codes, unpack_codes
from pscodec.profile import Vector
from pscodec.utils.errors import UserError


def header(k=1, bits=9, **options):
    return Header(24000, 320, k, bits, b"12345678", "mini", **options)


def stream(k=1, frames=80, bits=9, **options):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (k, frames))
    return Stream(header(k, bits, **options), codes, frames * 320 - 7)


def test_three_codes_of_nine_bits_by_hand():
    # 1, 256, 511 = 000000001 100000000 111111111, 27 bits and five zeros of padding
    payload = pack_codes(np.array([[1, 256, 511]]), 9)
    assert payload == bytes([0b00000000, 0b11000000, 0b00111111, 0b11100000])
    assert unpack_codes(payload, 1, 3, 9).tolist() == [[1, 256, 511]]


def test_two_codebooks_go_frame_by_frame():
    assert pack_codes(np.array([[1, 2], [3, 4]]), 4) == bytes([0x13, 0x24])


def sealed(data, key=0):
    return data + struct.pack("<I", zlib.crc32(data, key))


def test_whole_file_by_hand():
    side = {"z": Vector(np.array([127, -2], np.int8), 0.5)}
    made = Stream(header(side=side, frames_per_packet=2), np.array([[5, 6, 7]]), 700)
    head = b"PSC\x02" + struct.pack("<H", 28 + 5 + 1 + 1 + 2 + 6 + 2 + 4) + b"12345678"
    head += struct.pack("<IHBBHI", 24000, 320, 1, 9, 2, 700) + b"\x04mini" + b"\x01"
    head = sealed(head + b"\x01" + b"\x01z" + struct.pack("<Hf", 2, 0.5) + b"\x7f\xfe")
    key = struct.unpack("<I", head[-4:])[0]
    full = sealed(b"\x00" + bytes([0b00000010, 0b10000001, 0b10000000]), key)
    end = sealed(b"\x81" + struct.pack("<I", 700 - 640) + bytes([0b00000011, 0b10000000]), key)
    assert bitstream.pack(made) == head + full + end
    assert made.sizes() == {"codes": 5, "side": 11, "container": 28 + 5 + 1 + 4 + 5 + 9, "total": 68}
    assert len(bitstream.pack(made)) == 68


@pytest.mark.parametrize(
    ("k", "frames", "bits"), [(1, 1, 9), (1, 75, 9), (2, 76, 9), (4, 750, 10), (1, 149, 1), (3, 0, 5)]
)
def test_round_trip_and_sizes(tmp_path, k, frames, bits):
    made = stream(k, frames, bits, side={"z_vp": Vector.of(np.arange(8)), "z_mel": Vector.of(np.zeros(3))})
    made.n_samples = max(0, made.n_samples)
    bitstream.write(tmp_path / "x.psc", made)
    read = bitstream.read(tmp_path / "x.psc")
    assert np.array_equal(read.codes, made.codes) and read.codes.dtype == np.int64
    assert read.n_samples == read.header.n_samples == made.n_samples and not read.lost and not read.damage
    assert (read.header.fingerprint, read.header.model) == (b"12345678", "mini")
    assert list(read.header.side) == ["z_vp", "z_mel"] and read.header.side["z_vp"].levels[-1] == 127
    assert made.sizes()["total"] == (tmp_path / "x.psc").stat().st_size
    assert sum(made.sizes().values()) == 2 * made.sizes()["total"]


def test_ten_seconds_at_675_bits_a_second():
    sizes = stream(frames=750).sizes()
    assert sizes["codes"] == 10 * 85  # 675 bits are 84.4 bytes, padded a packet of one second
    assert sizes["container"] == 28 + 5 + 1 + 4 + 9 * 5 + 9 and sizes["side"] == 0


def test_codes_that_come_in_pieces_make_the_same_packets():
    made = stream(2, 200, 10)
    whole = bitstream.pack(made)
    writer = Writer(header(2, 10))
    parts = [writer.begin()]
    for start, stop in ((0, 1), (1, 1), (1, 75), (75, 76), (76, 200)):
        parts.append(writer.push(made.codes[:, start:stop]))
    parts.append(writer.finish(made.n_samples))
    assert [len(p) for p in parts[1:5]] == [0, 0, 0, 1 + 188 + 4]  # a full packet leaves with the frame after it
    streamed = b"".join(parts)
    assert len(streamed) == len(whole) and bitstream.unpack(streamed).header.n_samples is None
    assert bitstream.unpack(streamed).n_samples == made.n_samples
    assert np.array_equal(bitstream.unpack(streamed).codes, made.codes)
    with pytest.raises(ValueError, match="1 frames of codes for 640 samples"):
        writer = Writer(header())
        writer.push(np.array([[1]]))
        writer.finish(640)


def test_bytes_that_come_one_by_one_make_the_same_packets():
    made = stream(2, 200, 10)
    reader, codes = Reader(), []
    for byte in bitstream.pack(made):
        codes += [packet.codes for packet in reader.push(bytes([byte]))]
    assert reader.n_samples == made.n_samples and reader.finish() == [] and not reader.damage
    assert [c.shape[1] for c in codes] == [75, 75, 50] and np.array_equal(np.concatenate(codes, 1), made.codes)


def test_a_code_too_large_for_its_bits():
    made = stream()
    made.codes[0, 0] = 512
    with pytest.raises(ValueError, match="outside"):
        bitstream.pack(made)


# ---- damage

SIZE = 1 + 85 + 4  # of a full packet


def ten():
    """Ten full packets and an end packet of 20 frames, and where the packets begin."""
    made = stream(frames=770)
    return made, bitstream.pack(made), len(made.header.pack())


def expect(data, made, lost, n_samples):
    found = bitstream.unpack(data)
    assert found.lost == lost and found.n_samples == n_samples
    good = np.ones(found.codes.shape[1], bool)
    for start, stop in lost:
        good[start:stop] = False
    assert np.array_equal(found.codes[:, good], made.codes[:, : len(good)][:, good])
    assert len(found.damage) == len(lost) + (n_samples != made.n_samples)
    return found


def test_a_damaged_packet_costs_its_second():
    made, data, at = ten()
    for byte in (0, 1, 50, SIZE - 1):
        broken = bytearray(data)
        broken[at + 3 * SIZE + byte] ^= 0x10
        found = expect(broken, made, [(225, 300)], made.n_samples)
        assert found.damage == ["3.00 to 4.00 s are lost"]
    # its first half repeats the frame before, its second half the one after
    assert found.codes[0, 225:300].tolist() == [made.codes[0, 224]] * 37 + [made.codes[0, 300]] * 38


def test_first_last_and_many_damaged_packets():
    made, data, at = ten()
    broken = bytearray(data)
    for packet in (0, 4, 5, 9):
        broken[at + packet * SIZE + 7] ^= 1
    expect(broken, made, [(0, 75), (300, 450), (675, 750)], made.n_samples)
    broken = bytearray(data)
    broken[-9] ^= 1
    found = expect(broken, made, [], 750 * 320)
    assert found.damage == ["the end is missing: it stops after 10.00 of 10.27 s"]
    broken = data[:at] + bytes(len(data) - at)
    assert bitstream.unpack(broken).codes.shape == (1, 0)


def test_missing_and_additional_bytes_move_nothing():
    made, data, at = ten()
    cut = data[: at + 2 * SIZE + 40] + data[at + 2 * SIZE + 47 :]
    expect(cut, made, [(150, 225)], made.n_samples)
    cut = data[: at + 2 * SIZE] + data[at + 6 * SIZE :]  # whole packets
    expect(cut, made, [(150, 450)], made.n_samples)
    more = data[: at + 2 * SIZE + 40] + b"noise" * 9 + data[at + 2 * SIZE + 40 :]
    expect(more, made, [(150, 225)], made.n_samples)
    twice = data[: at + 4 * SIZE] + data[at + 3 * SIZE :]  # a packet comes twice
    expect(twice, made, [], made.n_samples)
    assert bitstream.unpack(data + b"more").damage == ["4 bytes after its end are not of it"]


def test_three_minutes_of_damage_keep_the_place():
    made = stream(frames=75 * 300)
    data, at = bytearray(bitstream.pack(made)), len(made.header.pack())
    data[at + 10 * SIZE : at + 200 * SIZE] = bytes(190 * SIZE)  # more than the 128 that a tag tells apart
    expect(data, made, [(750, 15000)], made.n_samples)


def test_another_streams_packet_does_not_pass():
    made, data, at = ten()
    other = Stream(header(frames_per_packet=75, profile=b"87654321"), made.codes, made.n_samples)
    theirs = bitstream.pack(other)[len(other.header.pack()) :]
    mixed = data[: at + SIZE] + theirs[SIZE : 2 * SIZE] + data[at + 2 * SIZE :]
    expect(mixed, made, [(75, 150)], made.n_samples)


def test_every_truncation_gives_what_is_whole(tmp_path):
    made, data, at = ten()
    for length in range(len(data)):
        if length < at:
            with pytest.raises(ValueError) as error:
                bitstream.unpack(data[:length])
            assert "\n" not in str(error.value)
        else:
            full = (length - at) // SIZE
            expect(data[:length], made, [], min(10, full) * 75 * 320)


def test_every_damaged_byte_of_the_header_is_refused_in_one_line(tmp_path):
    data = bitstream.pack(stream(frames=90, side={"z": Vector.of(np.ones(4))}))
    path = tmp_path / "x.psc"
    for i in range(len(stream(side={"z": Vector.of(np.ones(4))}).header.pack())):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :])
        with pytest.raises(UserError, match=str(path)) as error:
            bitstream.read(path)
        assert "\n" not in str(error.value)


def test_reading_a_damaged_file_warns(tmp_path):
    made, data, at = ten()
    (tmp_path / "x.psc").write_bytes(data[:-1])
    with pytest.warns(UserWarning, match="x.psc: the end is missing"):
        assert bitstream.read(tmp_path / "x.psc").codes.shape == (1, 750)


# ---- hostile files


def resealed(data, change):
    """`data` with a changed header whose checksum is right."""
    size = struct.unpack_from("<H", data, 4)[0]
    head = bytearray(data[: size - 4])
    change(head)
    return sealed(bytes(head)) + data[size:]


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (3, b"\x04", "version 4"),
        (14, bytes(4), "malformed"),
        (18, bytes(2), "malformed"),
        (20, b"\0", "malformed"),
        (21, b"\0", "malformed"),
        (21, b"\x19", "malformed"),
        (22, b"\0\0", "malformed"),
        (22, b"\xff\xff", "more than 16384 bytes of codes"),
        (22, b"\xb1\x04", "more than 16 s"),  # 1201 frames
        (28, b"\xff", "malformed"),
        (29, b"\xff", "utf-8|malformed"),
        (29, b"\n", "malformed"),
        (33, b"\x03", "malformed"),
        (34, b"\xff", "malformed"),
    ],
)
def test_headers_with_right_checksums_that_lie(offset, value, message):
    data = bitstream.pack(stream(side={"z": Vector.of(np.ones(4))}))

    def change(head):
        head[offset : offset + len(value)] = value

    with pytest.raises(ValueError, match=message):
        bitstream.unpack(resealed(data, change))


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_promises_cost_no_memory():
    head = header(n_samples=1 << 31).pack()
    assert peak(lambda: bitstream.unpack(head)) < 1 << 20
    # packets that claim to lie far ahead, over and over
    hostile = Header(24000, 320, 109, 1, b"12345678", frames_per_packet=1200)
    key = struct.unpack("<I", hostile.pack()[-4:])[0]
    jumps = [sealed(bytes([100 * i % END]) + bytes(16350), key) for i in range(1, 30)]
    data = hostile.pack() + b"".join(jumps)
    found = bitstream.unpack(data)
    assert found.codes.shape[1] <= (len(jumps) + 1 + MOST_MISSING) * 1200
    del found
    assert peak(lambda: bitstream.unpack(data)) < 512 << 20  # 20 M codes of 8 bytes, and their join


@pytest.mark.parametrize("seed", range(8))
def test_a_thousand_mutations_never_crash_and_stay_small(seed):
    rng = np.random.default_rng(seed)
    made = stream(int(rng.integers(1, 4)), int(rng.integers(1, 400)), int(rng.integers(1, 12)))
    if seed % 2:
        made.header.side["z"] = Vector.of(rng.normal(size=16))
    data = bitstream.pack(made)
    tracemalloc.start()
    for _ in range(1000):
        mutant = mutate(data, rng)
        if rng.random() < 0.5 and len(mutant) > 40 and mutant[:4] == data[:4]:  # a right checksum over a wrong header
            size = min(max(40, struct.unpack_from("<H", mutant, 4)[0]), len(mutant))
            mutant = sealed(mutant[:4] + struct.pack("<H", size) + mutant[6 : size - 4]) + mutant[size:]
        try:
            found = bitstream.unpack(mutant)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert found.codes.shape[0] == found.header.n_q and found.codes.min(initial=0) >= 0
        assert found.codes.max(initial=0) < 1 << found.header.bits
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert top < 64 << 20


def mutate(data, rng):
    """Flipped, overwritten, cut, doubled and inserted bytes, one to four of them."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, n = int(rng.integers(len(data) + 1)), int(rng.integers(1, 120))
        kind = rng.integers(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + n] = rng.bytes(len(data[at : at + n]))
        elif kind == 2:
            del data[at : at + n]
        elif kind == 3:
            data[at:at] = data[at : at + n]
        elif kind == 4:
            data[at:at] = rng.bytes(n)
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        bitstream.read(tmp_path / "none.psc")
    (tmp_path / "wav.psc").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(UserError, match="not a .psc file"):
        bitstream.read(tmp_path / "wav.psc")
    (tmp_path / "empty.psc").write_bytes(b"")
    with pytest.raises(UserError, match="empty file"):
        bitstream.read(tmp_path / "empty.psc")
    (tmp_path / "old.psc").write_bytes(b"PSC1" + bytes(100))
    with pytest.raises(UserError, match="version 49"):
        bitstream.read(tmp_path / "old.psc")
