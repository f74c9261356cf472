"""Writes one pack to any sink, frame after frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckstore.digest import payload_checksum
from ckstore.pack import format as pack_format
from ckstore.pack.format import FRAME_HEADER_SIZE, Frame, Row, Trailer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer


class Sink(Protocol):
    """Takes bytes in order, all of them or an error."""

    def write(self, *buffers: Buffer) -> None: ...


class Sealed(NamedTuple):
    """A finished pack: its name, digest, size and rows, sorted by id."""

    name: bytes
    digest: bytes
    size_bytes: int
    rows: list[Row]


class Ready(NamedTuple):
    """A frame as it goes into a pack: what it says, and the bytes of its header and payload one after another."""

    frame: Frame
    buffers: tuple[Buffer, ...]


def ready(frame: Frame, payload: Sequence[Buffer]) -> Ready:
    """A frame with its checksum taken. The pieces of `payload` have `frame.stored_length` bytes."""
    return Ready(frame, (pack_format.frame_header(frame, payload_checksum(payload)), *payload))


class PackWriter:
    """The pack `name` under way. Not for two threads at once."""

    def __init__(self, sink: Sink, name: bytes) -> None:
        self.name = name
        self.size_bytes = 0
        self._sink = sink
        self._header = pack_format.pack_header(name)
        self._rows: list[Row] = []
        self._write(self._header)

    def add(self, frames: Iterable[Ready]) -> None:
        """Append frames, in one write."""
        buffers: list[Buffer] = []
        for frame, pieces in frames:
            self._rows.append(Row(frame, self.size_bytes))
            self.size_bytes += FRAME_HEADER_SIZE + frame.stored_length
            buffers += pieces
        self._sink.write(*buffers)

    def finish(self) -> Sealed:
        """Write table and trailer; nothing can be added afterwards."""
        rows = sorted(self._rows, key=lambda row: (row.frame.id, row.offset))
        table = pack_format.table(rows)
        digest = pack_format.digest(self._header, table)
        end = pack_format.trailer(Trailer(self.size_bytes, len(rows), digest))
        self._write(table, end)
        return Sealed(self.name, digest, self.size_bytes, rows)

    def _write(self, *buffers: bytes) -> None:
        self._sink.write(*buffers)
        self.size_bytes += sum(len(buffer) for buffer in buffers)
