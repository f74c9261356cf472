"""Reads a pack from anything that can be read at an offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckstore.errors import Format
from ckstore.pack import format as pack_format
from ckstore.pack.format import FRAME_HEADER_SIZE, FRAME_MAGIC, HEADER_SIZE, ROW_SIZE, TRAILER_SIZE, Row
from ckstore.pack.writer import Sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.pack.format import Trailer

_SEARCHED = 1 << 20


class Source(Protocol):
    """Bytes with a size that can be read anywhere. Reads past the end are short, never an error."""

    @property
    def size_bytes(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class Named(NamedTuple):
    """What a finished pack says of itself."""

    name: bytes
    digest: bytes
    size_bytes: int


def read_table(source: Source) -> tuple[Named, bytes]:
    """A finished pack's name, digest and size, and the bytes of its table. Raises `Format` where any is damaged."""
    named, _, table = _read(source)
    return named, table


def read_sealed(source: Source) -> Sealed:
    """Name, digest, size and rows of a finished pack. Raises `Format` where any of it is damaged."""
    named, end, table = _read(source)
    return Sealed(*named, pack_format.read_table(table, end.table_offset))


def _read(source: Source) -> tuple[Named, Trailer, bytes]:
    size = source.size_bytes
    if size < HEADER_SIZE + TRAILER_SIZE:
        raise Format("a pack is cut short")
    header = source.read_at(0, HEADER_SIZE)
    name = pack_format.read_header(header)
    end = pack_format.read_trailer(source.read_at(size - TRAILER_SIZE, TRAILER_SIZE), size)
    table = source.read_at(end.table_offset, end.rows * ROW_SIZE)
    if len(table) != end.rows * ROW_SIZE or pack_format.digest(header, table) != end.digest:
        raise Format("a pack's table is damaged")
    return Named(name, end.digest, size), end, table


def scan(source: Source) -> Iterator[Row]:
    """Rows read frame by frame from the front, for a pack whose table is lost; ends at the first bad header."""
    pack_format.read_header(source.read_at(0, HEADER_SIZE))
    offset = HEADER_SIZE
    while True:
        try:
            frame, _ = pack_format.read_frame_header(source.read_at(offset, FRAME_HEADER_SIZE))
        except Format:
            return
        end = offset + FRAME_HEADER_SIZE + frame.stored_length
        if end > source.size_bytes:
            return
        yield Row(frame, offset)
        offset = end


def recover(source: Source) -> Iterator[Row]:
    """Rows of all frames whose headers are sound, for a pack of which anything may be damaged, its name too.

    After bad bytes it goes on at the next header. What the frames hold is for the caller to check.
    """
    offset = HEADER_SIZE
    while offset + FRAME_HEADER_SIZE <= source.size_bytes:
        try:
            frame, _ = pack_format.read_frame_header(source.read_at(offset, FRAME_HEADER_SIZE))
        except Format:
            offset = _next(source, offset + 1)
            continue
        end = offset + FRAME_HEADER_SIZE + frame.stored_length
        if end > source.size_bytes:
            offset = _next(source, offset + 1)
            continue
        yield Row(frame, offset)
        offset = end


def _next(source: Source, offset: int) -> int:
    """Where from `offset` on a frame may begin; the end where none does."""
    while offset < source.size_bytes:
        found = source.read_at(offset, _SEARCHED + len(FRAME_MAGIC) - 1).find(FRAME_MAGIC)
        if found >= 0:
            return offset + found
        offset += _SEARCHED
    return source.size_bytes
