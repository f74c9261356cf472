"""Root, state and segments: there and back, and nothing hostile gets through."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckstore.digest import derived
from ckstore.errors import Format, Integrity
from ckstore.remote import sealed, segment
from ckstore.remote.catalog import Catalog
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.remote.root import RECENT, RemoteRef, SegmentPointer, StatePointer, decode_root, encode_root
from ckstore.remote.segment import MAX_ROWS, fits, head_size, open_segment, size_of, write_segment
from ckstore.remote.segment_cache import FolderCache, NoCache
from ckstore.remote.source import Buffers
from ckstore.remote.state import CondemnedObject, RemoteHole, State, decode_state, encode_state
from tests.sync.made import id_of, pack_of, place_of, root_of, segment_of

if TYPE_CHECKING:
    from collections.abc import Callable

ANY = (Format, Integrity)


def opened(pointer: SegmentPointer, data: bytes) -> segment.Segment:
    return open_segment(pointer.digest, pointer.rows, pointer.packs, lambda start, stop: data[start:stop])


def sealed_again(data: bytes, change: Callable[[list[Any]], None], context: str = "ckstore root v1") -> bytes:
    """A root or state whose payload was changed by somebody who knows how to hash."""
    value = msgspec.msgpack.decode(data[sealed.HEADER_SIZE : -32])
    change(value)
    payload = msgspec.msgpack.encode(value)
    head = data[:12] + len(payload).to_bytes(4, "little") + payload
    return head + derived(context, head)


def test_a_root_comes_back() -> None:
    root = root_of()
    assert decode_root(encode_root(root)) == root


@given(st.data())
def test_a_damaged_root_is_refused(data: st.DataObject) -> None:
    raw = bytearray(encode_root(root_of()))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ANY):
        decode_root(bytes(raw))
    with pytest.raises(ANY):
        decode_root(bytes(encode_root(root_of()))[:place])


@given(st.binary(max_size=300))
def test_no_bytes_are_a_root_or_state(raw: bytes) -> None:
    for context, magic in (("ckstore root v1", b"CKROOT\r\n"), ("ckstore state v1", b"CKSTAT\r\n")):
        for payload in (raw, msgspec.msgpack.encode([1, raw])):
            head = magic + b"\x01\0\0\0" + len(payload).to_bytes(4, "little") + payload
            whole = head + derived(context, head)
            with pytest.raises(ANY):
                decode_root(whole)
            with pytest.raises(ANY):
                decode_state(whole, StatePointer(whole[-32:], len(whole), 0, 0))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.__setitem__(1, b"short"),
        lambda root: root.__setitem__(2, 0),
        lambda root: root.__setitem__(4, "a\nb"),
        lambda root: root[5].reverse(),
        lambda root: root[5].append(["heads/\x00", bytes(32)]),
        lambda root: root[5].append(["zeads/x", bytes(32)]),
        lambda root: root[5].append(["tags/v2", bytes(31)]),
        lambda root: root[6][0].__setitem__(1, 1 << 60),
        lambda root: root[6][0].__setitem__(2, MAX_ROWS + 1),
        lambda root: root[6][0].__setitem__(3, 1 << 40),
        lambda root: root[6][0].__setitem__(4, -1),
        lambda root: root.__setitem__(7, [bytes(32), 1 << 62, 0, 0]),
        lambda root: root.__setitem__(7, [bytes(32), 100, 1 << 40, 0]),
        lambda root: root.__setitem__(8, [bytes(16)] * (RECENT + 1)),
        lambda root: root.append(1),
    ],
)
def test_a_root_that_lies_is_refused(change: Callable[[list[Any]], None]) -> None:
    raw = encode_root(root_of())
    assert sealed_again(raw, lambda root: None) == raw
    with pytest.raises(Format):
        decode_root(sealed_again(raw, change))


def test_a_newer_root_says_so() -> None:
    raw = bytearray(encode_root(root_of()))
    raw[8] = 2
    raw[-32:] = derived("ckstore root v1", raw[:-32])
    with pytest.raises(Format, match="newer"):
        decode_root(bytes(raw))


def test_a_state_comes_back_sorted_and_never_has_the_same_name() -> None:
    holes = (RemoteHole(id_of(2), "model", "shallow"), RemoteHole(id_of(1), "optimizer", "dropped"))
    state = State(b"", holes, (CondemnedObject("packs/b", 1, 2), CondemnedObject("index/a", 1, 2)))
    data, pointer = encode_state(state)
    assert pointer is not None
    back = decode_state(data, pointer)
    assert set(back.holes) == set(holes)
    assert [one.name for one in back.condemned] == ["index/a", "packs/b"]
    again = encode_state(state)[1]
    assert again is not None
    assert again.name != pointer.name
    assert encode_state(State()) == (b"", None)
    with pytest.raises(ANY):
        decode_state(data, again)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state[2].append([bytes(31), "model", "x"]),
        lambda state: state[3].append(["../up", 1, 1]),
        lambda state: state[3].append(["root", 1, 1]),
        lambda state: state[2].reverse(),
    ],
)
def test_a_state_that_lies_is_refused(change: Callable[[list[Any]], None]) -> None:
    holes = (RemoteHole(id_of(2), "model", "shallow"), RemoteHole(id_of(1), "optimizer", "dropped"))
    data, _ = encode_state(State(b"", holes))
    raw = sealed_again(data, change, "ckstore state v1")
    value = msgspec.msgpack.decode(raw[sealed.HEADER_SIZE : -32])
    with pytest.raises(Format):
        decode_state(raw, StatePointer(raw[-32:], len(raw), len(value[2]), len(value[3])))


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1000])
def test_a_segment_finds_what_it_holds_and_nothing_else(rows: int) -> None:
    pointer, data, places = segment_of(range(rows))
    assert len(data) == pointer.size_bytes == size_of(rows, 2)
    found = opened(pointer, data)
    assert list(found.places()) == places
    assert all(found.find(place.frame.id) == place for place in places)
    assert [found.find(id) for id in (bytes(32), b"\xff" * 32, id_of(rows))] == [None] * 3


def test_only_the_blocks_that_are_needed_are_read_neighbours_at_once() -> None:
    pointer, data, places = segment_of(range(4000))
    reads: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> bytes:
        reads.append((start, stop))
        return data[start:stop]

    found = open_segment(pointer.digest, pointer.rows, pointer.packs, read)
    wanted = [places[10], places[300], places[3900]]
    found.prepare(place.frame.id for place in wanted)
    assert [found.find(place.frame.id) for place in wanted] == wanted
    assert len(reads) == 3  # the head, two blocks together, one by itself
    assert sum(stop - start for start, stop in reads) < len(data) / 4


@given(st.data())
def test_a_damaged_segment_is_never_believed(data: st.DataObject) -> None:
    pointer, raw, places = segment_of(range(600))
    damaged = bytearray(raw)
    place = data.draw(st.integers(0, len(raw) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ANY):
        opened(pointer, bytes(damaged)).check()
    if place >= head_size(600, 2):
        found = opened(pointer, bytes(damaged))
        for one in places:
            try:
                assert found.find(one.frame.id) == one
            except Integrity:
                continue
    with pytest.raises(ANY):
        opened(pointer, raw[:place]).check()


def test_a_segment_that_lies_is_refused() -> None:
    packs = [pack_of(1), pack_of(2)]
    good = sorted((place_of(number, packs[0]) for number in range(5)), key=lambda place: place.frame.id)

    def refused(places: list[segment.Place], held: list[segment.RemotePack] = packs) -> None:
        digest, data = write_segment(places, held)
        with pytest.raises(Format):
            list(opened(SegmentPointer(digest, len(data), len(places), len(held), 0), data).places())

    refused(good[::-1])
    refused([good[0], good[0]])
    refused([good[0]._replace(offset=packs[0].size_bytes)])
    refused([good[0]._replace(offset=0)])
    refused([good[0]._replace(frame=good[0].frame._replace(raw_length=1 << 31))])
    refused(good, [packs[0], packs[0]._replace(size_bytes=1 << 50, name=bytes(16))])
    digest, data = write_segment(good, packs)
    for rows, count in ((4, 2), (5, 1), (MAX_ROWS, 2)):
        with pytest.raises(ANY):
            open_segment(digest, rows, count, lambda start, stop: data[start:stop])


def test_a_catalog_takes_the_lowest_version_and_reads_segments_once(tmp_path: Path) -> None:
    remote = MemoryRemote(MemoryPlace("x"))
    made = [segment_of(range(10), version=0), segment_of(range(5, 3000), version=1)]
    for pointer, data, _ in made:
        remote.put(pointer.name, Buffers(data))
    pointers = [pointer for pointer, _, _ in made]
    cache = FolderCache(tmp_path / "cache")
    catalog = Catalog(remote, pointers, cache)
    assert catalog.read_bytes == sum(pointer.size_bytes for pointer in pointers)
    versions = {number: place.frame.version for number in range(3000) if (place := catalog.locate(id_of(number)))}
    assert versions == {number: int(number >= 10) for number in range(3000)}
    assert len(list(catalog.places())) == 3000
    assert Catalog(remote, pointers, cache).read_bytes == 0
    remote.delete([pointer.name for pointer in pointers])
    assert Catalog(remote, pointers, cache).locate(id_of(2999)) == catalog.locate(id_of(2999))


def test_a_damaged_cache_is_read_again(tmp_path: Path) -> None:
    remote = MemoryRemote(MemoryPlace("x"))
    pointer, data, _ = segment_of(range(300))
    remote.put(pointer.name, Buffers(data))
    cache = FolderCache(tmp_path / "cache")
    Catalog(remote, [pointer], cache)
    (path,) = (tmp_path / "cache").iterdir()
    for bad in (b"", data[:-1], data[:-1] + b"x", b"x" + data[1:]):
        path.write_bytes(bad)
        catalog = Catalog(remote, [pointer], cache)
        assert catalog.locate(id_of(7)) is not None
        assert catalog.read_bytes == len(data)


def test_large_segments_are_looked_up_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckstore.remote.catalog.SMALL_BYTES", 1000)
    remote = MemoryRemote(MemoryPlace("x"))
    pointer, data, places = segment_of(range(20_000))
    remote.put(pointer.name, Buffers(data))
    catalog = Catalog(remote, [pointer], NoCache(), whole=False)
    assert catalog.locate(places[77].frame.id) == places[77]
    assert catalog.read_bytes < len(data) / 50


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 250)
    for number in range(5):
        cache.put(id_of(number), bytes(100))
    kept = [cache.get(id_of(number)) is not None for number in range(5)]
    assert kept == [False, False, False, True, True]
    cache.drop(id_of(4))
    assert cache.get(id_of(4)) is None


def test_the_largest_segment_can_be_sent() -> None:
    assert fits(MAX_ROWS, 1000)
    assert not fits(MAX_ROWS, 300_000)
    assert not fits(MAX_ROWS + 1, 1)


def test_refs_of_a_root_are_sorted() -> None:
    with pytest.raises(Format):
        decode_root(encode_root(root_of(refs=(RemoteRef("tags/a", id_of(1)), RemoteRef("heads/a", id_of(1))))))


def test_the_tables_of_the_document_have_the_sizes_of_the_code() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "format.md").read_text()
    for title, size in (
        ("Segment header", segment.SEGMENT_HEADER_SIZE),
        ("Segment pack", segment.PACK_SIZE),
        ("Block head", segment.BLOCK_SIZE),
        ("Segment row", segment.ROW_SIZE),
        ("Header of root and state", sealed.HEADER_SIZE),
    ):
        section = text[text.index(f"\n{title}, {size} bytes") :]
        rows = re.findall(
            r"^\| (\d+) \| (\d+) \|", section[: section.index("\n\n", section.index("|---"))], re.MULTILINE
        )
        ends = [int(offset) + int(length) for offset, length in rows]
        assert [int(offset) for offset, _ in rows] == [0, *ends[:-1]]
        assert ends[-1] == size
