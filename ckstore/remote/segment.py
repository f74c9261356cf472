"""Segments: immutable sorted tables that say in which pack, and where, each object of a remote lies.

    segment = header, pack*, block head*, row*
    block   = BLOCK_ROWS rows, the last one fewer; its head holds its first id and its hash

A segment's digest covers all but the rows, and those through the hashes of their blocks: so that a block that is read
by itself is checked as well as a whole segment. Each has a name of its own, whatever is in it.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import ID_SIZE, derived
from ckstore.errors import Format, Integrity
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, Frame, checked, known_kind
from ckstore.remote.interface import MAX_OBJECT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Buffer

VERSION = 1
BLOCK_ROWS = 256
MAX_ROWS = 600_000
"""A segment has no more, so that it is sent in one request."""

_MAGIC = b"CKSEGM\r\n"
_NONCE_SIZE = 16
_SEGMENT = struct.Struct("<8sHHIII16s")
_PACK = struct.Struct("<16s32sQ")
_BLOCK = struct.Struct("<32s32s")
_ROW = struct.Struct("<32s32sIIIIIIBBBB")

SEGMENT_HEADER_SIZE = _SEGMENT.size
PACK_SIZE = _PACK.size
BLOCK_SIZE = _BLOCK.size
ROW_SIZE = _ROW.size


class RemotePack(NamedTuple):
    """A pack of a remote: its name, digest and length."""

    name: bytes
    digest: bytes
    size_bytes: int

    @property
    def object_name(self) -> str:
        """What the object is called."""
        return pack_object(self.name)


class Place(NamedTuple):
    """Where an object lies on a remote: the pack's name, the offset of the frame's header, and the frame."""

    pack: bytes
    offset: int
    frame: Frame

    @property
    def stop(self) -> int:
        """Where the frame ends."""
        return self.offset + FRAME_HEADER_SIZE + self.frame.stored_length


def pack_object(name: bytes) -> str:
    """What the object of a pack is called."""
    return f"packs/{name.hex()}"


def head_size(rows: int, packs: int) -> int:
    """How many bytes come before the rows."""
    return SEGMENT_HEADER_SIZE + packs * PACK_SIZE + -(-rows // BLOCK_ROWS) * BLOCK_SIZE


def size_of(rows: int, packs: int) -> int:
    """How many bytes a segment has."""
    return head_size(rows, packs) + rows * ROW_SIZE


def fits(rows: int, packs: int) -> bool:
    """Whether so much can be one segment."""
    return rows <= MAX_ROWS and size_of(rows, packs) <= MAX_OBJECT_BYTES


def write_segment(places: Iterable[Place], packs: Sequence[RemotePack]) -> tuple[bytes, bytes]:
    """The digest and the bytes of a segment: `places` by id, no two of one object, `packs` as they came."""
    numbers = {pack.name: number for number, pack in enumerate(packs)}
    rows = [_row(place, numbers[place.pack]) for place in places]
    blocks = [b"".join(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
    header = _SEGMENT.pack(_MAGIC, VERSION, 0, len(packs), len(blocks), len(rows), os.urandom(_NONCE_SIZE))
    table = b"".join(_PACK.pack(*pack) for pack in packs)
    heads = b"".join(_BLOCK.pack(block[:ID_SIZE], _hash(block)) for block in blocks)
    head = header + table + heads
    return _digest(head), head + b"".join(blocks)


class Segment:
    """A segment that can be read at any place: `read(start, stop)` gives bytes of it, which are not trusted.

    Made by `open_segment`. Every method raises `Integrity` or `Format` for a damaged block.
    """

    def __init__(
        self,
        rows: int,
        packs: Sequence[RemotePack],
        firsts: Sequence[bytes],
        hashes: Sequence[bytes],
        read: Callable[[int, int], Buffer],
    ) -> None:
        self.rows = rows
        self.packs = packs
        self._firsts = firsts
        self._hashes = hashes
        self._start = head_size(rows, len(packs))
        self._read = read
        self._blocks: dict[int, memoryview] = {}

    def find(self, id: bytes) -> Place | None:
        """Where an object lies, or None."""
        number = self._block_of(id)
        if number < 0:
            return None
        block = self._block(number)
        count = block.nbytes // ROW_SIZE
        at = bisect_left(range(count), id, key=lambda row: bytes(block[row * ROW_SIZE : row * ROW_SIZE + ID_SIZE]))
        if at == count or block[at * ROW_SIZE : at * ROW_SIZE + ID_SIZE] != id:
            return None
        return self._place(block[at * ROW_SIZE : (at + 1) * ROW_SIZE])

    def prepare(self, ids: Iterable[bytes]) -> None:
        """Read the blocks that `find` will need for `ids`, neighbours at once."""
        wanted = sorted({self._block_of(id) for id in ids} - self._blocks.keys() - {-1})
        for first, last in _runs(wanted):
            self._take(first, last)

    def check(self, *, sorting: bool = True) -> None:
        """Read all blocks and check their hashes, and with `sorting` whether all rows are in order."""
        for number in range(len(self._firsts)):
            self._take(number, number, sorting=sorting)

    def places(self) -> Iterator[Place]:
        """All objects by id."""
        for number in range(len(self._firsts)):
            block = self._block(number)
            for start in range(0, block.nbytes, ROW_SIZE):
                yield self._place(block[start : start + ROW_SIZE])

    def _block_of(self, id: bytes) -> int:
        return bisect_right(self._firsts, id) - 1

    def _block(self, number: int) -> memoryview:
        block = self._blocks.get(number)
        return self._take(number, number) if block is None else block

    def _take(self, first: int, last: int, *, sorting: bool = True) -> memoryview:
        """Read blocks, check and keep them; the first."""
        rows = min((last + 1) * BLOCK_ROWS, self.rows) - first * BLOCK_ROWS
        start = self._start + first * BLOCK_ROWS * ROW_SIZE
        data = memoryview(self._read(start, start + rows * ROW_SIZE)).cast("B")
        if data.nbytes != rows * ROW_SIZE:
            raise Integrity("a segment of the remote's index is cut short")
        for number in range(first, last + 1):
            at = (number - first) * BLOCK_ROWS * ROW_SIZE
            block = data[at : at + BLOCK_ROWS * ROW_SIZE]
            if _hash(block) != self._hashes[number]:
                raise Integrity("a segment of the remote's index is damaged")
            if sorting:
                _check_sorted(block, self._firsts[number], self._firsts[number + 1 : number + 2])
            self._blocks[number] = block
        return self._blocks[first]

    def _place(self, row: memoryview) -> Place:
        id, base, pack, offset, raw, stored, version, busy, kind, codec, width, _ = _ROW.unpack(row)
        frame = checked(Frame(known_kind(kind), codec, width, id, raw, stored, base, version, busy))
        if pack >= len(self.packs):
            raise Format("a row of a segment names a pack that is not there")
        holder = self.packs[pack]
        if offset < HEADER_SIZE or offset + FRAME_HEADER_SIZE + stored > holder.size_bytes:
            raise Format("a row of a segment points outside its pack")
        return Place(holder.name, offset, frame)


def open_segment(
    digest: bytes, rows: int, packs: int, read: Callable[[int, int], Buffer], head: bytes | None = None
) -> Segment:
    """The segment of a digest, rows and packs as the root says. `head` are its first bytes, if they are at hand.

    Raises `Integrity` or `Format` for another one, or a damaged one.
    """
    size = head_size(rows, packs)
    head = bytes(memoryview(read(0, size))) if head is None else head[:size]
    if len(head) != size or _digest(head) != digest:
        raise Integrity("a segment of the remote's index is damaged", hint="`ckstore repair --remote` mends it")
    magic, version, flags, pack_count, blocks, row_count, _ = _SEGMENT.unpack_from(head)
    if magic != _MAGIC or version != VERSION or flags:
        raise Format(f"a segment of format {version} (flags {flags})", hint="use a newer ckstore")
    if (row_count, pack_count) != (rows, packs) or blocks != -(-rows // BLOCK_ROWS):
        raise Format("a segment holds another number of rows or packs than the root says")
    middle = SEGMENT_HEADER_SIZE + packs * PACK_SIZE
    table = [RemotePack(*one) for one in _PACK.iter_unpack(head[SEGMENT_HEADER_SIZE:middle])]
    if len({pack.name for pack in table}) != packs or any(pack.size_bytes > MAX_OBJECT_BYTES for pack in table):
        raise Format("the packs of a segment are none")
    heads = list(_BLOCK.iter_unpack(head[middle:]))
    firsts = [first for first, _ in heads]
    if any(one >= two for one, two in pairwise(firsts)):
        raise Format("the blocks of a segment are not sorted")
    return Segment(rows, table, firsts, [hash for _, hash in heads], read)


def _row(place: Place, pack: int) -> bytes:
    f = place.frame
    facts = (f.raw_length, f.stored_length, f.version, f.busy, f.kind, f.codec, f.width, 0)
    return _ROW.pack(f.id, f.base, pack, place.offset, *facts)


def _hash(block: Buffer) -> bytes:
    return derived("ckstore segment block v1", block)


def _digest(head: bytes) -> bytes:
    return derived("ckstore segment v1", head)


def _check_sorted(block: memoryview, first: bytes, after: Sequence[bytes]) -> None:
    ids = [bytes(block[start : start + ID_SIZE]) for start in range(0, block.nbytes, ROW_SIZE)]
    if ids[0] != first or any(one >= two for one, two in zip(ids, [*ids[1:], *after], strict=False)):
        raise Format("a segment is not sorted")


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of numbers that follow each other."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1]
            start = at
