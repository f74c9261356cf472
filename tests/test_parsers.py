"""Arbitrary and damaged bytes into every parser: only ckstore's errors come out, and no memory goes on their word."""

from __future__ import annotations

import random
import struct
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
import zstandard

import ckstore
from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.codec.preset import ARCHIVE, BALANCED
from ckstore.digest import ID_SIZE, NO_ID, Kind, checksum, derived, object_id
from ckstore.errors import Format, Integrity
from ckstore.objects import leaf
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.encoding import decode_commit, decode_page, decode_tree, encode
from ckstore.objects.tree import (
    CHUNK_SIZE,
    MAX_DEPTH,
    Dict,
    Entry,
    List,
    Page,
    PageRef,
    Slab,
    Tensor,
    Tree,
    Whole,
    walk,
)
from ckstore.pack import format as pack_format
from ckstore.pack.format import (
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_RAW,
    NAME_SIZE,
    ROW_SIZE,
    TRAILER_SIZE,
    Frame,
    Row,
    Trailer,
)
from ckstore.pack.reader import read_sealed, scan
from ckstore.pack.writer import PackWriter, ready
from ckstore.storage.journal import Cursor, Diverged, Journal, first_frame
from ckstore.storage.record import PackEntry, Record, Ref, RefMove, Snapshot, Symbolic
from tests import coding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

REFUSALS = (Format, Integrity)


def mangled(samples: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` byte strings: noise, and samples with bits turned, runs moved, cut, joined or blown up."""
    noise = random.Random(seed)
    for number in range(count):
        data = bytearray(noise.choice(samples))
        if number % 20 == 0:
            yield noise.randbytes(noise.randrange(200))
            continue
        for _ in range(noise.choice((1, 1, 1, 2, 5))):
            place = noise.randrange(len(data) + 1)
            act = noise.randrange(7)
            if act < 2 and place < len(data):
                data[place] ^= 1 << noise.randrange(8)
            elif act == 2 and place < len(data):
                data[place] = noise.choice((0, 0x7F, 0x80, 0xC0, 0xC6, 0xDD, 0xDF, 0xFF))
            elif act == 3:
                del data[place : place + noise.randrange(1, 9)]
            elif act == 4:
                data[place:place] = noise.randbytes(noise.randrange(1, 9))
            elif act == 5:
                data[place : place + 4] = struct.pack(">I", noise.choice((1 << 31, (1 << 32) - 1, 1 << 24)))
            else:
                data[place:] = noise.choice(samples)[place:]
        yield bytes(data)


def refused_or_read(parse: Callable[[bytes], object], samples: Sequence[bytes], count: int, seed: int = 1) -> int:
    """Parse what `mangled` makes; how many of it was read."""
    read = 0
    for data in mangled(samples, count, seed):
        try:
            parse(data)
        except REFUSALS:
            continue
        read += 1
    return read


# Trees, pages, commits

ID = bytes(range(32))
ENTRIES = (
    Entry(None, Dict("OrderedDict", 5, None, True)),
    Entry("weight", Tensor("float32", (2, 3), None, 0, Whole(24, ID), 3)),
    Entry(leaf.TupleKey((1, leaf.Float(bytes(8)), "x")), leaf.Bytes(b"abc", False)),
    Entry(1, 1 << 40),
    Entry(-5, leaf.Text(leaf.Chunks(5000, ID))),
    Entry(None, List(2)),
    Entry(None, leaf.NumpyArray("<f4", (2,), False, bytes(8))),
    Entry(None, leaf.FilePath("Path", "a/b")),
    Entry(None, None),
)
TREES = [
    encode(Tree(CHUNK_SIZE, (Slab("float32", 100, ID),), ENTRIES)),
    encode(Tree(CHUNK_SIZE, (), (), (PageRef(ID, 3), PageRef(ID, 400)))),
    encode(Tree(CHUNK_SIZE, (), (Entry(None, 1),))),
]
PAGES = [encode(Page(ENTRIES)), encode(Page(()))]
COMMITS = [
    encode(
        Commit(
            (Component("model", ID), Component("rng", ID)),
            (ID, ID),
            1 << 60,
            -60,
            "me",
            "text",
            (Metric("a", bytes(8)),),
            3,
            4,
        )
    ),
    encode(Commit((), (), 0, 0, "", "", ())),
]


def read_tree_bytes(data: bytes) -> None:
    for node in walk(decode_tree(data).entries):
        assert len(node.keys) <= MAX_DEPTH


def test_trees_pages_and_commits() -> None:
    assert refused_or_read(read_tree_bytes, TREES, 100_000) > 100
    assert refused_or_read(decode_page, PAGES, 40_000) > 100
    assert refused_or_read(decode_commit, COMMITS, 60_000) > 100


def test_one_value_has_one_form() -> None:
    """Whatever is read is written with the same bytes."""
    for samples, decode in ((TREES, decode_tree), (PAGES, decode_page), (COMMITS, decode_commit)):
        for data in mangled(samples, 30_000, 2):
            try:
                value = decode(data)
            except Format:
                continue
            assert encode(value) == data


def test_other_forms_of_a_value_are_refused() -> None:
    data = COMMITS[1]
    assert data[0] == 0x9C  # an array of twelve, which could also be written
    wide = b"\xdc\x00\x0c" + data[1:]
    for other in (wide, data + b"\0", data[:-1], b"", b"\xc0", msgspec.msgpack.encode({})):
        with pytest.raises(Format):
            decode_commit(other)
    with pytest.raises(Format, match="a page of a tree stands where a tree should"):
        decode_tree(PAGES[0])
    with pytest.raises(Format, match="a tree stands where a page"):
        decode_page(TREES[0])


BOMBS = {
    "an endless array": b"\x94\x01\x01\x90\xdd\xff\xff\xff\xff",
    "an array longer than the rest": b"\x92\x02\xdd\x00\x10\x00\x00" + b"\x92\xc0\xc0" * 10,
    "an endless string": b"\x92\x02\x91\x92\xdb\xff\xff\xff\xff",
    "endless bytes": b"\x92\x02\x91\x92\xc6\xff\xff\xff\xff",
    "an endless map": b"\xdf\xff\xff\xff\xff",
    "arrays in arrays": b"\x91" * 2_000_000,
    "keys in keys": b"\x92\x02\x91\x92" + b"\x92\x0d\x91" * 100_000 + b"\xc0\xc0",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
    "no UTF-8": b"\x92\x02\x91\x92\xa2\xff\xff\xc0",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("decode", [decode_tree, decode_page, decode_commit])
def test_bombs(decode: Callable[[bytes], object], data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Format):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < (2 << 20) + 20 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("levels", range(50, 2000, 50))
def test_keys_in_keys(levels: int) -> None:
    data = b"\x92\x02\x91\x92" + b"\x92\x0d\x91" * levels + b"\xc0\xc0"
    try:
        assert encode(decode_page(data)) == data
    except Format:
        assert levels > 100


def test_objects_past_the_limit_are_not_looked_at() -> None:
    with pytest.raises(Format, match="past the limit"):
        decode_tree(bytes((64 << 20) + 1))


# Packs


class Bytes:
    """A Source over bytes in memory, which refuses to be asked for more than a pack may hold."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 <= length <= max(len(self._data), FRAME_HEADER_SIZE)
        return self._data[offset : offset + length]


class Collected:
    """A Sink that keeps what it is given."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            self.data += memoryview(buffer).cast("B")


def frame(number: int) -> Frame:
    id = object_id(Kind.CHUNK, bytes([number]))
    return Frame(Kind(1 + number % 3), number % 2, 1, id, 10 * number, 5 * number, NO_ID, 0, 7 * number)


def packed(count: int) -> bytes:
    sink = Collected()
    writer = PackWriter(sink, bytes(range(NAME_SIZE)))
    for number in range(count):
        writer.add([ready(frame(number), [bytes([number]) * (5 * number)])])
    writer.finish()
    return bytes(sink.data)


def resealed(data: bytes) -> bytes:
    """With a right checksum: the fields themselves are then what is judged."""
    return data[:-8] + checksum(data[:-8])


def test_headers_tables_and_trailers() -> None:
    header, first = pack_format.pack_header(bytes(NAME_SIZE)), pack_format.frame_header(frame(7), b"checksum")
    end = pack_format.trailer(Trailer(HEADER_SIZE, 0, ID))
    size = HEADER_SIZE + TRAILER_SIZE
    table = pack_format.table(
        sorted((Row(frame(n), HEADER_SIZE + 200 * n) for n in range(4)), key=lambda row: row.frame.id)
    )
    for parse, sample in (
        (pack_format.read_header, header),
        (pack_format.read_frame_header, first),
        (lambda data: pack_format.read_trailer(data, size), end),
    ):
        parse(sample)
        assert refused_or_read(parse, [sample], 10_000) < 2_500
        assert refused_or_read(lambda data, parse=parse: parse(resealed(data)), [sample], 20_000) > 0  # type: ignore[misc]
    assert len(pack_format.read_table(table, HEADER_SIZE + 2000)) == 4
    assert refused_or_read(lambda data: pack_format.read_table(data, HEADER_SIZE + 2000), [table], 20_000) > 100


def check_pack(data: bytes) -> None:
    """Whatever is read of a pack lies in it."""
    try:
        sealed = read_sealed(Bytes(data))
        assert sealed.size_bytes == len(data)
        rows = sealed.rows
    except Format:
        rows = list(scan(Bytes(data)))
    for one, offset in rows:
        assert HEADER_SIZE <= offset <= len(data) - FRAME_HEADER_SIZE - one.stored_length
        assert one.raw_length <= MAX_RAW


def test_whole_packs() -> None:
    samples = [packed(0), packed(3), packed(9)]
    assert [len(read_sealed(Bytes(data)).rows) for data in samples] == [0, 3, 9]
    assert [len(list(scan(Bytes(data)))) for data in samples] == [0, 3, 9]
    assert refused_or_read(check_pack, samples, 30_000) > 10_000


def test_no_damage_to_a_pack_gives_another_row() -> None:
    data = packed(5)
    rows = set(read_sealed(Bytes(data)).rows)
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 0x10
        for read in (lambda source: read_sealed(source).rows, scan):
            try:
                assert set(read(Bytes(bytes(spoilt)))) <= rows
            except Format:
                continue


def test_a_pack_that_claims_more_than_it_has() -> None:
    data = packed(2)
    end = len(data) - TRAILER_SIZE
    for offset, count in ((HEADER_SIZE, 1 << 62), (1 << 63, 2), (end - ROW_SIZE, 2), (0, 2), (end, 0)):
        with pytest.raises(Format):
            read_sealed(Bytes(data[:end] + pack_format.trailer(Trailer(offset, count, ID))))
    with pytest.raises(Format, match="cut short"):
        pack_format.read_table(bytes(ROW_SIZE + 1), 1000)


def test_rows_that_no_writer_makes() -> None:
    rows = sorted((Row(frame(n), HEADER_SIZE + 200 * n) for n in range(3)), key=lambda row: row.frame.id)
    assert pack_format.read_table(pack_format.table(rows), 10_000) == rows
    for wrong in (rows[::-1], [rows[0], rows[0]], [rows[1], rows[0], rows[2]]):
        with pytest.raises(Format, match="not sorted"):
            pack_format.read_table(pack_format.table(wrong), 10_000)
    for changes in (
        {"raw_length": MAX_RAW + 1},
        {"stored_length": MAX_RAW + 1},
        {"kind": 0},
        {"kind": 4},
        {"busy": 11},
    ):
        huge = frame(1)._replace(**changes)  # type: ignore[arg-type]
        for read in (
            lambda huge=huge: pack_format.read_table(pack_format.table([Row(huge, HEADER_SIZE)]), 1 << 40),
            lambda huge=huge: pack_format.read_frame_header(pack_format.frame_header(huge, bytes(8))),
        ):
            with pytest.raises(Format, match=r"claims 67108865 bytes|the unknown kind|11 busy bytes"):
                read()
    for offset in (0, HEADER_SIZE - 1, 10_000 - FRAME_HEADER_SIZE, 1 << 63):
        with pytest.raises(Format, match="outside its frames"):
            pack_format.read_table(pack_format.table([Row(frame(1), offset)]), 10_000)


# The journal


class Chain(NamedTuple):
    """A journal of one segment in memory."""

    data: bytes
    ends: list[Cursor]


def sealed_frame(payload: bytes, seq: int, previous: bytes, magic: bytes = b"CKJR", length: int | None = None) -> bytes:
    """A journal frame around any payload, with sound checksums (docs/format.md)."""
    header = struct.pack("<4sIQ32s", magic, len(payload) if length is None else length, seq, previous)
    header += checksum(header)
    payload += bytes(-len(payload) % 8)
    return header + payload + derived("ckstore journal v1", header, payload)


def chain() -> Chain:
    entry = PackEntry(bytes(NAME_SIZE), ID, 1234)
    contents = [
        Snapshot((entry,), (Ref("HEAD", Symbolic("heads/main")), Ref("heads/main", ID))),
        Record(1, "commit", (entry, entry), (RefMove("heads/main", None, ID), RefMove("tags/v1", ID, None))),
        Record(2, "checkout", (), (RefMove("HEAD", Symbolic("heads/main"), Symbolic("heads/side")),)),
        Record(3, "commit", (), (RefMove("heads/main", ID, ID[::-1]),)),
    ]
    data, previous, ends = b"", NO_ID, []
    for seq, content in enumerate(contents):
        raw = sealed_frame(msgspec.msgpack.encode(content, order="deterministic"), seq, previous)
        data, previous = data + raw, raw[-ID_SIZE:]
        ends.append(Cursor(1, len(data), seq, previous))
    return Chain(data, ends)


def test_first_frames() -> None:
    whole, ends = chain()
    frames = [whole[: ends[0].offset], *(whole[before.offset : end.offset] for before, end in pairwise(ends))]
    assert all(first_frame(data) for data in frames)
    assert refused_or_read(first_frame, frames, 30_000) > 100  # cut short, or damaged behind the frame


def test_journal_payloads() -> None:
    """Sound frames around anything at all."""
    payloads = [msgspec.msgpack.encode(Record(1, "x", (PackEntry(ID, ID, 1),), (RefMove("a", None, Symbolic("b")),)))]
    payloads.append(msgspec.msgpack.encode(Snapshot((), (Ref("HEAD", None),))))

    assert refused_or_read(lambda data: first_frame(sealed_frame(data, 1, NO_ID)), payloads, 30_000) > 100
    for bomb in BOMBS.values():
        with pytest.raises(REFUSALS):
            first_frame(sealed_frame(bomb, 1, NO_ID))


def test_journal_headers() -> None:
    assert first_frame(sealed_frame(b"", 1, NO_ID, length=1 << 20)) is None
    for spoilt in (sealed_frame(b"", 1, NO_ID, magic=b"CKXX"), sealed_frame(b"", 1, NO_ID, length=(1 << 32) - 1)):
        with pytest.raises(Integrity, match="no journal record"):
            first_frame(spoilt)


def test_journal_files(tmp_path: Path) -> None:
    """What a damaged segment still gives is a beginning of what was written; acknowledged records are never cut."""
    whole, ends = chain()
    journal = Journal(tmp_path)
    original = journal.read
    journal.path(1).write_bytes(whole)
    frames = original(ends[0]).frames
    assert [one.end for one in frames] == ends[1:]
    for data in mangled([whole], 1_500, 3):
        journal.path(1).write_bytes(data)
        for cursor in (ends[0], ends[2]):
            try:
                tail = original(cursor)
            except (*REFUSALS, Diverged):
                continue
            expected = [one for one in frames if one.end.seq > cursor.seq]
            assert tail.frames == expected[: len(tail.frames)]
            left = data[tail.frames[-1].end.offset if tail.frames else cursor.offset :]
            assert tail.torn_bytes == len(left)
            if len(tail.frames) < len(expected) and tail.torn_bytes:
                full = len(data) >= len(whole)
                assert not full or bytes(8) in left or len(left) < 84


def test_segments_that_do_not_fit(tmp_path: Path) -> None:
    whole, ends = chain()
    journal = Journal(tmp_path)
    with pytest.raises(Integrity, match="no journal segment"):
        journal.newest_snapshot()
    (tmp_path / "zz.journal").write_bytes(b"")
    (tmp_path / ".00000002.journal.part").write_bytes(b"")
    journal.path(1).write_bytes(whole)
    assert journal.segments() == [1]
    journal.path(2).write_bytes(whole[ends[0].offset :])
    with pytest.raises(Integrity, match="does not begin with a snapshot"):
        journal.newest_snapshot()
    journal.path(2).write_bytes(whole)
    with pytest.raises(Diverged):
        journal.read(ends[1])


# Codecs


def frames_of(raw: bytes) -> list[bytes]:
    return [
        zstandard.ZstdCompressor(level=level, write_content_size=size).compress(raw)
        for level in (1, 3)
        for size in (True, False)
    ]


BASE = bytes(range(256)) * 8
NEAR = bytes((byte + (place % 97 == 0)) % 256 for place, byte in enumerate(BASE))
NUMBERS = ["float64", "float32", "bfloat16", "int64", "int16", "uint8", "float8_e5m2", "complex64", "bool"]


def samples_of(codec: Codec, width: int, coder: Coder) -> list[bytes]:
    """Payloads of NEAR, by itself or against BASE."""
    if codec is Codec.ZSTD:
        return frames_of(NEAR)
    base = BASE if codec is Codec.DELTA else None
    made = [coding.encode(coder, NEAR, dtype, base, preset) for dtype in NUMBERS for preset in (BALANCED, ARCHIVE)]
    return [payload for one, payload in made if one.codec is codec and one.width == width]


@pytest.mark.parametrize(
    ("codec", "width"),
    [
        (Codec.RAW, 1),
        (Codec.ZSTD, 1),
        *((Codec.PLANES, width) for width in (2, 4, 8)),
        *((Codec.DELTA, width) for width in (1, 2, 4, 8)),
        (max(Codec) + 1, 4),
        (255, 1),
    ],
)
def test_payloads(codec: int, width: int) -> None:
    coder = Coder()
    known = codec in set(Codec) - {Codec.RAW}
    samples = samples_of(Codec(codec), width, coder) if known else [NEAR]
    read = 0
    for data in mangled(samples, 8_000, 4):
        try:
            coding.decode(coder, codec, width, data, BASE, len(NEAR))
        except Integrity:
            continue
        read += 1
    assert (read > 0) == (codec in set(Codec))
    for sample in samples if known else ():
        assert coding.decode(coder, codec, width, sample, BASE, len(NEAR)) == NEAR  # the contexts are as good as new


def test_elements_of_an_unknown_width() -> None:
    _, payload = coding.encode(Coder(), NEAR, "float32", BASE)
    for width in (0, 3, 16, 255):
        for codec in (Codec.PLANES, Codec.DELTA):
            with pytest.raises(Integrity, match="elements of"):
                coding.decode(Coder(), codec, width, payload, BASE, len(NEAR))


@pytest.mark.parametrize("extra", [-1, 1, -2048, 1 << 20])
def test_a_payload_of_another_length(extra: int) -> None:
    raw = bytes(4096 + extra)
    for payload in (*frames_of(raw), raw):
        codec = Codec.RAW if payload is raw else Codec.ZSTD
        target = bytearray(4096 + 64)
        with pytest.raises(Integrity):
            Coder().decode(codec, 1, memoryview(payload), memoryview(target)[:4096])
        assert target[4096:] == bytes(64)


def test_a_frame_that_declares_a_size_it_does_not_have() -> None:
    """A frame of one block whose header claims 2**62 bytes: nothing is allocated for them."""
    lying = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 62) + b"\x03\x00\x00" + b"\x00" * 2
    huge_window = b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00"
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        for payload in (lying, huge_window, bomb, b""):
            with pytest.raises(Integrity):
                Coder().decode(Codec.ZSTD, 1, memoryview(payload), memoryview(bytearray(1024)))
            plane = struct.pack("<BB", 1, 1) + struct.pack("<BI", 1, len(payload)) + b"\0" + payload
            with pytest.raises(Integrity):
                Coder().decode(Codec.PLANES, 1, memoryview(plane), memoryview(bytearray(1024)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_was_encoded_is_decoded() -> None:
    noise = random.Random(1)
    coder = Coder()
    for length in (1, 2, 3, 7, 9, 63, 64, 65, 1000, 32_768, 32_769, 100_000, 1 << 20):
        for raw in (bytes(length), noise.randbytes(length), (noise.randbytes(7) + b"x") * (length // 8 + 1)):
            base = bytes(byte ^ (noise.random() < 0.01) for byte in raw[:length])
            for dtype, against in ((dtype, against) for dtype in NUMBERS for against in (None, base)):
                assert coding.round_trip(coder, raw[:length], dtype, against).length <= length


# The format file


def test_format_files(tmp_path: Path) -> None:
    ckstore.open(tmp_path).close()
    said = tmp_path / ".ckstore" / "format"
    good = said.read_bytes()
    for data in mangled([good], 300, 5):
        said.write_bytes(data)
        try:
            ckstore.open(tmp_path, create=False).close()
        except REFUSALS:
            continue
    said.write_bytes(good)
    ckstore.open(tmp_path, create=False).close()
