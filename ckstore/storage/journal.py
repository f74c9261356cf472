"""The journal: an append-only, hash-chained file of records. Its fdatasync is the commit point (W4).

A segment is a file of frames, named by a number that grows; it begins with a snapshot, so that the newest
segment alone is enough. A frame is a header with a checksum of its own, a payload filled up with zeros to a
multiple of eight bytes, and the chain hash over the header (which holds the previous frame's hash) and payload.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckstore import durable
from ckstore.digest import CHECKSUM_SIZE, ID_SIZE, NO_ID, checksum, derived
from ckstore.errors import CkstoreError, Format, Integrity, SaveFailed
from ckstore.storage.record import Record, Snapshot, fold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_MAGIC = b"CKJR"
_HEADER = struct.Struct("<4sIQ32s")
_HEADER_SIZE = _HEADER.size + CHECKSUM_SIZE
_CONTEXT = "ckstore journal v1"
_SUFFIX = ".journal"
_SECTOR = 512
_ALIGNMENT = 8  # of frames, so that every sector holds this much of a record or nothing: fewer zeros may be chance
MAX_PAYLOAD = 256 << 20
ROTATE_SIZE = 4 << 20
"""A segment longer than this, and than four times its own snapshot, is followed by a new one."""

_DAMAGED_HINT = "restore the journal from a backup, or let `ckstore repair --rebuild-journal` make one of what is there"
_DECODER: msgspec.msgpack.Decoder[Record | Snapshot] = msgspec.msgpack.Decoder(Record | Snapshot)
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


class Cursor(NamedTuple):
    """A place in the journal: after frame `seq`, whose hash is `hash`, at `offset` of segment `segment`."""

    segment: int
    offset: int
    seq: int
    hash: bytes


class JournalFrame(NamedTuple):
    """A frame read or written: its content, its bytes, and the place after it."""

    content: Record | Snapshot
    raw: bytes
    end: Cursor

    @property
    def previous(self) -> bytes:
        """The hash of the frame before it."""
        return _previous(self.raw)


class Tail(NamedTuple):
    """What follows a cursor: whole frames, and how many bytes of a torn last one."""

    frames: list[JournalFrame]
    torn_bytes: int


class Diverged(Exception):
    """The cursor is not on this journal's chain, or the journal ends before it."""


class Journal:
    """The journal in `folder`. Appending and cutting are for whoever holds the repository lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unsettled = -1
        """The segment that failed to sync: it is not synced again, and may yet hold what was cut from it."""

    def segments(self) -> list[int]:
        """Numbers of the segments, ascending."""
        found = []
        try:
            names = list(self.folder.iterdir())
        except OSError as error:
            raise _unreadable(self.folder, error, "restore it from a backup") from error
        for path in names:
            if path.name.endswith(_SUFFIX) and not path.name.startswith("."):
                try:
                    found.append(int(path.name.removesuffix(_SUFFIX), 16))
                except ValueError:
                    continue
        return sorted(found)

    def path(self, segment: int) -> Path:
        return self.folder / f"{segment:08x}{_SUFFIX}"

    def moved(self, cursor: Cursor) -> bool:
        """Whether anything may have come after `cursor`, or another history stands here. One small read, one listing.

        The file is opened, not only looked at: that is what makes a network file system ask its server.
        """
        try:
            with self.path(cursor.segment).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                before = os.pread(file.fileno(), ID_SIZE, cursor.offset - ID_SIZE)
        except OSError:
            return True
        return (size, before) != (cursor.offset, cursor.hash) or self.segments()[-1:] != [cursor.segment]

    def begin(self, segment: int, snapshot: Snapshot, seq: int, previous: bytes) -> JournalFrame:
        """Write segment `segment`, durable before it can be seen: a snapshot that stands for all up to `seq`."""
        frame = _frame(snapshot, seq, previous, segment, 0)
        durable.put(self.path(segment), frame.raw)
        return frame

    def append(self, cursor: Cursor, record: Record) -> JournalFrame:
        """Append `record` after `cursor`, the end of the newest segment, and sync it: **W4**.

        On failure the segment is cut back to `cursor` and must not be appended to again by anyone: the
        caller begins a new one.
        """
        frame = _frame(record, cursor.seq + 1, cursor.hash, cursor.segment, cursor.offset)
        with durable.append(self.path(cursor.segment)) as file:
            if file.size_bytes != cursor.offset:
                raise Integrity(f"{file.path} is {file.size_bytes} bytes long where {cursor.offset} were expected")
            try:
                file.write(frame.raw)
                self._sync(file, cursor.segment)
            except CkstoreError:
                file.truncate(cursor.offset)
                raise
        return frame

    def settle(self, segment: int) -> None:
        """Sync what someone else appended, so that nothing derived from it can outlive it."""
        with durable.append(self.path(segment)) as file:
            self._sync(file, segment)

    def cut(self, cursor: Cursor, aside: Path) -> None:
        """Copy what follows `cursor` to the file `aside`, then cut the segment there. For a torn tail only."""
        path = self.path(cursor.segment)
        with path.open("rb") as source:
            source.seek(cursor.offset)
            durable.put(aside, source.read())
        with durable.append(path) as file:
            file.truncate(cursor.offset)
            self._sync(file, cursor.segment)

    def _sync(self, file: durable.DurableFile, segment: int) -> None:
        self.unsettled = segment
        file.sync()
        self.unsettled = -1

    def fold(self, cursor: Cursor) -> Snapshot:
        """What the newest segment amounts to up to `cursor`, its end. Raises `Integrity`."""
        frames = self.newest().frames
        if (frames[-1].end.seq, frames[-1].end.hash) != (cursor.seq, cursor.hash):
            raise Integrity("the index is not at the journal's end", hint="try again")
        return fold([frame.content for frame in frames])

    def newest(self) -> Tail:
        """The newest segment from its first byte: the snapshot and what follows it. Raises `Integrity`."""
        first = self.newest_snapshot()
        try:
            tail = self.read(first.end)
        except Diverged as error:
            raise Integrity("the journal changed while it was read", hint="try again") from error
        return Tail([first, *tail.frames], tail.torn_bytes)

    def newest_snapshot(self) -> JournalFrame:
        """The snapshot that begins the newest segment. Raises `Integrity` where there is none."""
        segments = self.segments()
        if not segments:
            raise Integrity(f"{self.folder} holds no journal segment", hint=_DAMAGED_HINT)
        return self._snapshot(segments[-1])

    def snapshot_bytes(self, segment: int) -> int:
        """How long the frame is that a segment begins with, by its header alone. Raises `Integrity`."""
        with self._opened(segment) as file:
            return _places(file, segment, 0)[0][1]

    def read(self, cursor: Cursor) -> Tail:
        """Whole frames after `cursor` up to the end of the newest segment, in order.

        Raises `Diverged` where the cursor is not on the chain, `Integrity` where the journal is damaged.
        """
        segments = self.segments()
        if not segments or cursor.segment not in segments:
            raise Diverged
        frames: list[JournalFrame] = []
        for segment in segments[segments.index(cursor.segment) :]:
            if segment != cursor.segment:
                cursor = self._cross(segment, cursor, frames)
            with self.path(segment).open("rb") as file:
                file.seek(cursor.offset - ID_SIZE)
                before, data = file.read(ID_SIZE), file.read()
            if before != cursor.hash:
                raise Diverged
            found, torn = _read_frames(data, cursor)
            frames += found
            if found:
                cursor = found[-1].end
        return Tail(frames, torn)

    def history(self, end: Cursor) -> Iterator[tuple[int, Record]]:
        """Records with their numbers, from `end`, a place that was reached, back over all segments: the newest first.

        One frame at a time is in memory. Each is checked against the hash that the one after it holds. Raises
        `Integrity` or `Format` where what is older cannot be read.
        """
        segment, seq, hash = end.segment, end.seq, end.hash
        while hash != NO_ID:
            with self._opened(segment) as file:
                for offset, size_bytes in reversed(_places(file, segment, seq)):
                    frame = _frame_at(file, segment, offset, size_bytes)
                    if (frame.end.seq, frame.end.hash) != (seq, hash):
                        raise Integrity(f"journal segment {segment:08x} does not hold record {seq}", hint=_DAMAGED_HINT)
                    hash = _previous(frame.raw)
                    if isinstance(frame.content, Record):
                        yield seq, frame.content
                        seq -= 1
            segment -= 1

    @contextmanager
    def _opened(self, segment: int) -> Iterator[BinaryIO]:
        path = self.path(segment)
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise _unreadable(path, error, _DAMAGED_HINT) from error

    def _snapshot(self, segment: int) -> JournalFrame:
        frame = _read_frame(self.path(segment).read_bytes(), 0, Cursor(segment, 0, 0, b""))
        if frame is None or not isinstance(frame.content, Snapshot):
            raise Integrity(f"{self.path(segment)} does not begin with a snapshot", hint=_DAMAGED_HINT)
        return frame

    def _cross(self, segment: int, cursor: Cursor, frames: list[JournalFrame]) -> Cursor:
        """Step from one segment to the next, whose snapshot voids whatever the old one holds beyond it."""
        frame = self._snapshot(segment)
        stands_for = frame.end.seq
        while frames and frames[-1].end.seq > stands_for:
            frames.pop()
        last = frames[-1].end if frames else cursor
        if last.seq != stands_for or last.hash != _previous(frame.raw):
            raise Diverged
        frames.append(frame)
        return frame.end


def _unreadable(path: Path, error: OSError, hint: str) -> CkstoreError:
    what = f"cannot read {path}: {error.strerror}"
    if error.errno in durable.TOO_MANY_OPEN:
        return SaveFailed(what, hint="allow more open files (`ulimit -n`)")
    return Integrity(what, hint=hint)


def first_frame(data: bytes) -> JournalFrame | None:
    """The frame `data` begins with, wherever it came from; None where it is cut short. Raises `Integrity`."""
    return _read_frame(data, 0, Cursor(0, 0, 0, b""))


def _places(file: BinaryIO, segment: int, last: int) -> list[tuple[int, int]]:
    """Offset and size of a segment's frames up to record `last`; what follows that one is void. Reads headers only."""
    places: list[tuple[int, int]] = []
    offset, seq = 0, -1
    while seq < last:
        file.seek(offset)
        header = file.read(_HEADER_SIZE)
        if len(header) < _HEADER_SIZE or checksum(header[:-CHECKSUM_SIZE]) != header[-CHECKSUM_SIZE:]:
            raise Integrity(_damaged(segment, offset), hint=_DAMAGED_HINT)
        magic, length, seq, _ = _HEADER.unpack_from(header)
        if magic != _MAGIC or length > MAX_PAYLOAD:
            raise Integrity(_damaged(segment, offset), hint=_DAMAGED_HINT)
        size_bytes = _HEADER_SIZE + length + -length % _ALIGNMENT + ID_SIZE
        places.append((offset, size_bytes))
        offset += size_bytes
    return places


def _frame_at(file: BinaryIO, segment: int, offset: int, size_bytes: int) -> JournalFrame:
    file.seek(offset)
    frame = _read_frame(file.read(size_bytes), 0, Cursor(segment, offset, 0, b""))
    if frame is None:
        raise Integrity(_damaged(segment, offset), hint=_DAMAGED_HINT)
    return frame


def _damaged(segment: int, offset: int) -> str:
    return f"journal segment {segment:08x}, byte {offset}: a journal record is damaged"


def _previous(raw: bytes) -> bytes:
    return bytes(_HEADER.unpack_from(raw)[3])


def _frame(content: Record | Snapshot, seq: int, previous: bytes, segment: int, offset: int) -> JournalFrame:
    payload = _ENCODER.encode(content)
    header = _HEADER.pack(_MAGIC, len(payload), seq, previous)
    header += checksum(header)
    payload += bytes(-len(payload) % _ALIGNMENT)
    chain = derived(_CONTEXT, header, payload)
    raw = header + payload + chain
    return JournalFrame(content, raw, Cursor(segment, offset + len(raw), seq, chain))


def _read_frames(data: bytes, cursor: Cursor) -> tuple[list[JournalFrame], int]:
    """The frames in `data`, which begins at `cursor`, and the length of a torn tail."""
    frames: list[JournalFrame] = []
    position = 0
    while position < len(data):
        frame = _read_frame(data, position, cursor)
        if frame is None:
            return frames, len(data) - position
        if frame.end.seq != cursor.seq + 1:
            raise Integrity(f"journal record {frame.end.seq} follows record {cursor.seq}")
        frames.append(frame)
        position += len(frame.raw)
        cursor = frame.end
    return frames, 0


def _read_frame(data: bytes, position: int, before: Cursor) -> JournalFrame | None:
    """The frame at `position` of `data`, which is `before` in the journal (an empty hash: nothing is known before it).

    None for a torn tail: short, or zero-filled, and the last. Raises `Integrity`.
    """
    header = data[position : position + _HEADER_SIZE]
    if len(header) < _HEADER_SIZE:
        return None
    where = f"journal segment {before.segment:08x}, byte {before.offset}"
    if checksum(header[:-CHECKSUM_SIZE]) != header[-CHECKSUM_SIZE:]:
        _check_torn(data, position, before.offset, len(data), where)
        return None
    magic, length, seq, previous = _HEADER.unpack_from(header)
    if magic != _MAGIC or length > MAX_PAYLOAD:
        raise Integrity(f"{where}: no journal record")
    end = position + _HEADER_SIZE + length + -length % _ALIGNMENT + ID_SIZE
    if end > len(data):
        return None
    raw = data[position:end]
    if derived(_CONTEXT, raw[:-ID_SIZE]) != raw[-ID_SIZE:]:
        _check_torn(data, position, before.offset, end, where)
        return None
    if before.hash and previous != before.hash:
        raise Integrity(f"{where}: the record does not follow the one before it")
    try:
        content = _DECODER.decode(raw[_HEADER_SIZE : _HEADER_SIZE + length])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Format(f"{where}: {error}", hint="use a newer ckstore") from error
    return JournalFrame(content, raw, Cursor(before.segment, before.offset + len(raw), seq, raw[-ID_SIZE:]))


def _check_torn(data: bytes, position: int, offset: int, end: int, where: str) -> None:
    """Return where the last record has a sector that was never written; `Integrity` for all other damage.

    `offset` is where `position` lies in the file: sectors are counted from the file's first byte.
    """
    if end == len(data):
        start = position
        while start < end:
            stop = min(start + _SECTOR - (offset + start - position) % _SECTOR, end)
            if not any(data[start:stop]):
                return
            start = stop
    raise Integrity(f"{where}: a journal record is damaged", hint=_DAMAGED_HINT)


FIRST = (1, 0, NO_ID)
"""Segment, sequence number and previous hash of a repository's first snapshot."""
