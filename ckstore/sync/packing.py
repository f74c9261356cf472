"""Packs that are put together while they are sent: frames as they lie here, between a header and a table.

Which frame lies where is known from the frames alone, and a pack's digest covers no payload: so that a pack is never
in memory, nor on the disk once more. What is read on the way is checked.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from ckstore.digest import payload_checksum
from ckstore.pack import format as pack_format
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, NAME_SIZE, ROW_SIZE, TRAILER_SIZE, Frame, Row, Trailer
from ckstore.pack.writer import Sealed
from ckstore.remote.source import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Buffer

PACK_BYTES = 64 << 20
"""A pack on a remote has at most so many bytes, table and all."""

SMALL = 1 << 20
"""Streams with fewer bytes share a pack."""


class Outgoing(NamedTuple):
    """A frame to send; `payload()` gives its payload, checked, as often as it is asked."""

    stream: str
    frame: Frame
    payload: Callable[[], Buffer]

    @property
    def size_bytes(self) -> int:
        """What it takes in a pack, its row counted."""
        return FRAME_HEADER_SIZE + self.frame.stored_length + ROW_SIZE


def runs(frames: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """The frames of a pack each: streams apart, but for those that are small; never more than fit."""
    streams: dict[str, list[Outgoing]] = {}
    sizes: dict[str, int] = {}
    room = PACK_BYTES - HEADER_SIZE - TRAILER_SIZE
    for one in frames:
        run = streams.setdefault(one.stream, [])
        if run and sizes[one.stream] + one.size_bytes > room:
            yield run
            run = streams[one.stream] = []
            sizes[one.stream] = 0
        run.append(one)
        sizes[one.stream] = sizes.get(one.stream, 0) + one.size_bytes
    shared: list[Outgoing] = []
    shared_bytes = 0
    for stream, run in streams.items():
        if sizes[stream] >= SMALL or not stream:
            yield run
        elif shared_bytes + sizes[stream] > room:
            yield shared
            shared, shared_bytes = run, sizes[stream]
        else:
            shared = [*shared, *run]
            shared_bytes += sizes[stream]
    if shared:
        yield shared


class PackSource(Quiet):
    """A pack of some frames under a new name, to be sent; `sealed` says what it is."""

    def __init__(self, frames: list[Outgoing]) -> None:
        name = os.urandom(NAME_SIZE)
        self._frames = frames
        self._header = pack_format.pack_header(name)
        self._starts = [HEADER_SIZE]
        for one in frames:
            self._starts.append(self._starts[-1] + FRAME_HEADER_SIZE + one.frame.stored_length)
        rows = [Row(one.frame, start) for one, start in zip(frames, self._starts, strict=False)]
        rows.sort(key=lambda row: (row.frame.id, row.offset))
        table = pack_format.table(rows)
        digest = pack_format.digest(self._header, table)
        self._end = table + pack_format.trailer(Trailer(self._starts[-1], len(rows), digest))
        self.sealed = Sealed(name, digest, self._starts[-1] + len(self._end), rows)

    @property
    def size_bytes(self) -> int:
        return self.sealed.size_bytes

    def open(self) -> BinaryIO:
        return cast("BinaryIO", _Reader(self))

    def part(self, at: int) -> tuple[int, bytes]:
        """Where the part that holds byte `at` begins, and its bytes: the header, one frame, or the end."""
        number = bisect_right(self._starts, at) - 1
        if number < 0:
            return 0, self._header
        if number == len(self._frames):
            return self._starts[-1], self._end
        frame, payload = self._frames[number].frame, self._frames[number].payload()
        return self._starts[number], pack_format.frame_header(frame, payload_checksum([payload])) + bytes(payload)


class _Reader(io.RawIOBase):
    """A place in a pack; one part of it is in memory."""

    def __init__(self, source: PackSource) -> None:
        super().__init__()
        self._source = source
        self._at = 0
        self._start = 0
        self._part = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size_bytes}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._source.size_bytes - self._at, 0)
        left = left if size is None or size < 0 else min(size, left)
        pieces = []
        while left:
            if not self._start <= self._at < self._start + len(self._part):
                self._start, self._part = self._source.part(self._at)
            begin = self._at - self._start
            piece = self._part[begin : begin + left]
            pieces.append(piece)
            self._at += len(piece)
            left -= len(piece)
        return b"".join(pieces)
