"""Keeps the index in step with the journal, and mends whichever of the two fell behind.

Everything here runs under the repository lock, unless the repository is read-only and the index a private one.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import CkstoreWarning, Format, Integrity
from ckstore.storage.environment import IndexDamaged
from ckstore.storage.journal import Cursor, Diverged, Journal, JournalFrame, first_frame
from ckstore.storage.record import Record, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ckstore.storage.follower import PackRows
    from ckstore.storage.index import Index
    from ckstore.storage.layout import Layout


class Recovery:
    """Follows the journal for one index."""

    def __init__(self, layout: Layout, journal: Journal, index: Index, rows: PackRows, *, may_write: bool) -> None:
        self._layout = layout
        self._journal = journal
        self._index = index
        self._rows = rows
        self._may_write = may_write

    def catch_up(self) -> None:
        """Bring the index to the journal's end; set a torn tail aside and cut it. Raises `Integrity`."""
        try:
            cursor = self._index.cursor()
            if cursor is None:
                self.rebuild()
            elif self._journal.moved(cursor):
                try:
                    self._follow(cursor)
                except Diverged:
                    self._reconcile(cursor)
        except IndexDamaged:
            self.rebuild()

    def mend_journal(self, locked: Callable[[], AbstractContextManager[None]]) -> None:
        """Begin a new segment where records that the index followed are damaged in the newest one.

        Looks first, and takes the lock only where there is something to mend.
        """
        if self._is_damaged():
            with locked():
                self.catch_up()
                if self._is_damaged():
                    self._reconcile(self._index.cursor())

    def is_mendable(self) -> bool:
        """Whether the newest segment, whose end is where the index is, cannot be read, while the index holds it all.

        Raises `Integrity` where it cannot be read and the index does not.
        """
        try:
            self._journal.newest()
        except (Integrity, Format):
            cursor, data = self._index.cursor(), self._copy()
            if cursor is None or self._journal.moved(cursor) or len(data) != cursor.offset:
                raise
            return True
        return False

    def restore_segment(self) -> bool:
        """Write the newest segment again as it was, where `is_mendable`, the damaged one aside; whether it had to."""
        if not self.is_mendable():
            return False
        path = self._journal.path(self._journal.segments()[-1])
        durable.put(self._layout.quarantine / f"{path.name}-{time.time_ns()}", path.read_bytes())
        durable.put(path, self._copy())
        return True

    def _copy(self) -> bytes:
        with self._index.reading() as view:
            return b"".join(view.copies())

    def _is_damaged(self) -> bool:
        cursor = self._index.cursor()
        return cursor is not None and self._may_write and self._journal_lost_records(cursor)

    def rebuild(self) -> None:
        """Make the index anew from journal and packs."""
        frames, torn_bytes = self._journal.newest()
        self._index.rebuild(self._settled(frames), self._rows)
        self._cut(frames[-1].end, torn_bytes)

    def _follow(self, cursor: Cursor) -> None:
        tail = self._journal.read(cursor)
        if tail.frames:
            self._index.apply(cursor, self._settled(tail.frames), self._rows)
            cursor = tail.frames[-1].end
        self._cut(cursor, tail.torn_bytes)

    def _settled(self, frames: list[JournalFrame]) -> list[JournalFrame]:
        """`frames`, synced: nothing enters the index that could still vanish from the journal.

        A segment that failed to sync before is not synced again: another begins, with a snapshot that comes last.
        """
        end = frames[-1].end
        if not self._may_write:
            return frames
        if end.segment == self._journal.unsettled:
            return [*frames, self._journal.begin(end.segment + 1, self._journal.fold(end), end.seq, end.hash)]
        self._journal.settle(end.segment)
        if any(isinstance(frame.content, Snapshot) for frame in frames):
            # Who began that segment, or made the repository, may have died before the name was durable.
            durable.sync_folder(self._layout.journal)
            durable.sync_folder(self._layout.root.parent)
        return frames

    def _cut(self, cursor: Cursor, torn_bytes: int) -> None:
        if torn_bytes and self._may_write and cursor.segment != self._journal.unsettled:
            name = f"journal-{cursor.segment:08x}-{cursor.offset}-{time.time_ns()}"
            self._journal.cut(cursor, self._layout.quarantine / name)

    def _reconcile(self, cursor: Cursor | None) -> None:
        """The index is not on the journal's chain: mend a damaged journal from its copies, else rebuild the index."""
        if cursor is None or not (self._may_write and self._journal_lost_records(cursor)):
            self.rebuild()
            return
        warnings.warn(
            f"{self._journal.path(cursor.segment)} was damaged and has been mended from the index", CkstoreWarning, 2
        )
        if self._is_gone(cursor):
            durable.put(self._journal.path(cursor.segment), self._copy())
            return
        with self._index.reading() as view:
            snapshot = view.snapshot()
        frame = self._journal.begin(cursor.segment + 1, snapshot, cursor.seq, cursor.hash)
        self._index.apply(cursor, [frame], self._rows)

    def _is_gone(self, cursor: Cursor) -> bool:
        """Whether the newest segment's file is gone, while the index holds it all, and the one before leads to it."""
        if self._journal.segments()[-1:] != [cursor.segment - 1]:
            return False
        data = self._copy()
        try:
            first = first_frame(data)
            before = self._journal.newest().frames
        except (Integrity, Format):
            return False
        return (
            first is not None
            and len(data) == cursor.offset
            and any((one.end.seq, one.end.hash) == (first.end.seq, first.previous) for one in before)
        )

    def _journal_lost_records(self, cursor: Cursor) -> bool:
        """Whether the newest segment is, up to damage, the one the index followed, and what it lost is all there."""
        segments = self._journal.segments()
        if segments[-1:] == [cursor.segment]:
            data = self._journal.path(cursor.segment).read_bytes()
        elif segments and self._is_gone(cursor):
            data = b""
        else:
            return False
        with self._index.reading() as view:
            copies = view.copies()
        position = same = 0
        while same < len(copies) and data.startswith(copies[same], position):
            position += len(copies[same])
            same += 1
        if same == len(copies) or not (same or not data):
            return False
        try:
            if first_frame(data[position:]) is not None:
                return False  # a sound record that is not ours: another history, which is the truth
        except (Integrity, Format):
            pass
        lost = [first_frame(copy) for copy in copies[same:]]
        with self._index.reading() as view:
            named = {entry.name for entry in view.packs()}
        return all(
            self._layout.pack(entry.name).exists()
            for frame in lost
            if frame is not None and isinstance(frame.content, Record)
            for entry in frame.content.packs
            if entry.name in named  # others have been condemned since
        )
