"""The local store: journal, index and packs of one repository, wired together."""

from __future__ import annotations

import os
import shutil
import socket
import time
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from ckstore import durable
from ckstore.digest import Kind, derived
from ckstore.errors import CkstoreError, CkstoreWarning, Format, Integrity, Locked, SaveFailed, StoreFull
from ckstore.filesystem import mount_of
from ckstore.lock import FileLock
from ckstore.pack.reader import read_sealed, scan
from ckstore.storage.environment import IndexDamaged
from ckstore.storage.follower import NewPack
from ckstore.storage.index import Index
from ckstore.storage.journal import FIRST, ROTATE_SIZE, Cursor, Diverged, Journal
from ckstore.storage.layout import FOLDER, Layout, new_id, read_format, write_format
from ckstore.storage.location import Location
from ckstore.storage.object_store import ObjectStore
from ckstore.storage.pack_file import PackFiles
from ckstore.storage.record import HEAD, Record, Ref, Snapshot, Symbolic
from ckstore.storage.recovery import Recovery
from ckstore.storage.scratch import Scratch
from ckstore.storage.view import View
from ckstore.storage.workers import PerThread, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckstore.pack.format import Row
    from ckstore.storage.record import PackEntry

T = TypeVar("T")
LOCK_TIMEOUT_S = 60.0
_READER_PATIENCE_S = 5.0
_RESERVE = 64 << 20
_LEAST_RESERVE = 1 << 20
_RESERVE_SHARE = 16
_PLENTY = 8


def _place(root: Path) -> str:
    """Names host and copy of a repository: no two of them may share a cached index."""
    about = root.stat()
    return derived("ckstore cache v1", f"{socket.gethostname()}\n{about.st_dev}\n{about.st_ino}".encode()).hex()[:16]


def create(folder: Path, branch: str, settings: str = "", repository_id: str | None = None) -> Layout:
    """Make an empty repository in `folder`, HEAD at the unborn `branch`; whole or not at all.

    `settings` is the TOML of its settings, `repository_id` that of what it is a clone of. Where one is there already,
    that one is returned.
    """
    layout = Layout(folder / FOLDER)
    if layout.format.exists():
        return layout
    part = Layout(folder / f"{FOLDER}.{os.urandom(8).hex()}.part")
    for path in (part.packs, part.journal, part.tmp, part.quarantine):
        durable.make_folder(path)
    write_format(part, repository_id or new_id())
    if settings:
        durable.put(part.config, settings.encode())
    segment, seq, previous = FIRST
    Journal(part.journal).begin(segment, Snapshot((), (Ref(HEAD, Symbolic(branch)),)), seq, previous)
    durable.sync_folder(part.root)
    try:
        durable.rename(part.root, layout.root)
    except SaveFailed:
        # Another process made it first: a folder cannot be renamed onto one that is not empty.
        shutil.rmtree(part.root, ignore_errors=True)
        if not os.path.exists(layout.format):  # also where a disk that is gone cannot say
            raise
    durable.sync_folder(folder)
    return layout


class Store:
    """An open repository's disk side.

    `cache` is the folder for indexes that must not lie in the repository: those of network mounts and of
    read-only repositories, and all where `index_in_cache` is set.
    """

    def __init__(
        self, layout: Layout, cache: Path, *, index_in_cache: bool = False, threads: int | None = None
    ) -> None:
        self.layout = layout
        self.id = read_format(layout)
        self.may_write = os.access(layout.root, os.W_OK)
        if self.may_write:
            for folder in (layout.packs, layout.tmp, layout.quarantine):
                durable.make_folder(folder)  # copies often leave empty folders out
        mount = mount_of(layout.root)
        mount.check_locks()
        self.lock = FileLock(layout.lock)
        self.journal = Journal(layout.journal)
        self.cache = cache / self.id
        in_cache = index_in_cache or mount.is_network or not self.may_write
        self.index_folder = self.cache / _place(layout.root) if in_cache else layout.index
        self.index = self._open_index(self.index_folder)
        self.workers = Workers(threads)
        self.packs = PackFiles(layout)
        self.objects = ObjectStore(self.ask, self.packs, self.workers, self.refresh)
        self.scratch_of_writers = PerThread()
        self.scratch = Scratch(layout, self.lock, self.named_packs)
        self._recovery = Recovery(layout, self.journal, self.index, self.pack_rows, may_write=self.may_write)
        self._abandoned = -1
        try:
            self.refresh()
            self._mend()
        except BaseException:
            self.close()
            raise

    @property
    def journal_bytes(self) -> int:
        """What the journal takes on the disk."""
        return sum(self.journal.path(number).stat().st_size for number in self.journal.segments())

    @property
    def index_bytes(self) -> int:
        """What the index, a cache, takes on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.index_folder.iterdir())

    def clock_ns(self) -> int:
        """The time now by the file system's clock, where it can be asked; else by this machine's."""
        if not self.may_write:
            return time.time_ns()
        durable.reserve(self.layout.gc_lock, 0)
        return durable.touch_ns(self.layout.gc_lock)

    def keep_reserve(self) -> None:
        """Keep some space for gc on a full disk: a share of what is stored, where there is plenty. Never raises."""
        stored = sum(entry.size_bytes for entry in self.ask(View.packs))
        wanted = min(_RESERVE, stored // _RESERVE_SHARE)
        disk = os.statvfs(self.layout.root)
        if self.may_write and wanted >= _LEAST_RESERVE and disk.f_bavail * disk.f_frsize > _PLENTY * wanted:
            with suppress(CkstoreError):
                if not self.layout.reserve.exists():
                    durable.reserve(self.layout.reserve, wanted)

    def use_reserve(self, *, full: bool = False) -> bool:
        """Give the reserve back to the disk where that is `full`, or nearly so; whether there was one to give."""
        disk = os.statvfs(self.layout.root)
        if not self.layout.reserve.exists() or not (full or disk.f_bavail * disk.f_frsize < _RESERVE):
            return False
        durable.unlink(self.layout.reserve)
        return True

    def close(self) -> None:
        """End the threads, let go of packs and index."""
        self.workers.close()
        self.packs.close()
        self.index.close()

    @contextmanager
    def locked(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the repository lock. Raises `Locked`, or `SaveFailed` where nothing may be written."""
        self.check_writable()
        with self.lock.held(timeout_s):
            yield

    def check_writable(self) -> None:
        """Raise `SaveFailed` where the repository is read-only for this user."""
        if not self.may_write:
            raise SaveFailed(f"{self.layout.root} is read-only", hint="check its permissions and its mount")

    def refresh(self) -> bool:
        """Follow the journal if it may have moved; whether it was followed. Raises `Integrity`.

        Where a writer is stuck with the lock in its hands, readers go on with what the index knows.
        """
        try:
            cursor = self.index.cursor()
        except IndexDamaged:
            cursor = None
        if cursor is not None and not self.journal.moved(cursor):
            return False
        if not self.may_write:
            self._recovery.catch_up()
            return True
        try:
            with self.locked(_READER_PATIENCE_S):
                self._recovery.catch_up()
        except (Locked, StoreFull):
            if cursor is None:
                raise
            return False
        return True

    def _mend(self) -> None:
        try:
            self._recovery.mend_journal(self.locked)
        except IndexDamaged:
            self.rebuild_index()

    def mend_journal(self, *, dry_run: bool = False) -> bool:
        """Write the newest segment anew from the index where it cannot be read; whether it had to (or would have to).

        Raises `Integrity` where the index cannot help.
        """
        if dry_run:
            return self._recovery.is_mendable()
        with self.locked():
            self.catch_up()
            return self._recovery.restore_segment()

    def catch_up(self) -> None:
        """`refresh` for who holds the lock."""
        self._recovery.catch_up()

    def ask(self, question: Callable[[View], T]) -> T:
        """Put a question to the index as it is now; a damaged index is made anew and asked once more."""
        try:
            return self.index.ask(question)
        except IndexDamaged:
            self.rebuild_index()
            return self.index.ask(question)

    def rebuild_index(self) -> None:
        """Make the index anew from journal and packs."""
        if self.may_write:
            with self.locked():
                self._recovery.rebuild()
        else:
            self._recovery.rebuild()

    def record(self, record: Record, packs: Sequence[NewPack]) -> int:
        """Append `record` (**W4**) and apply it (**W5**); its number. The lock is held and the index caught up.

        `packs` are read already, of those that come or go.

        Once the record is durable a failing index is a warning: the next open follows the journal again.
        """
        cursor = self._cursor()
        if cursor.segment in (self._abandoned, self.journal.unsettled) or self._is_long(cursor):
            cursor = self._begin_segment(cursor)
        try:
            frame = self.journal.append(cursor, record)
        except (SaveFailed, StoreFull):
            self._abandon(cursor)
            raise
        new = {pack.entry.name: pack for pack in packs}
        try:
            self.index.apply(cursor, [frame], lambda entry, told: new.get(entry.name) or self.pack_rows(entry, told))
        except CkstoreError as error:
            warnings.warn(f"saved, but the index could not follow yet: {error}", CkstoreWarning, 3)
        return frame.end.seq

    def history(self) -> Iterator[tuple[int, Record]]:
        """The journal's records as of now, the newest first. Raises `Integrity` where older ones cannot be read."""
        self.refresh()
        return self.journal.history(self._cursor())

    def records_since(self, place: Cursor) -> tuple[list[Record], Cursor]:
        """The records after a place that was reached, the newest first, and the end of the last.

        For who holds the lock. Raises `Integrity` where another history stands there now.
        """
        try:
            frames = self.journal.read(place).frames
        except Diverged as error:
            raise Integrity("the journal was made anew meanwhile", hint="try again") from error
        records = [frame.content for frame in reversed(frames) if isinstance(frame.content, Record)]
        return records, frames[-1].end if frames else place

    def pack_rows(self, entry: PackEntry, told: bool) -> NewPack | None:
        """What is in a pack, from its table, or frame by frame where that is damaged; None where the file is gone.

        That is warned of where it should be `told`; else a damaged table is None too.
        """
        try:
            source = self.packs.get(entry.name)
            try:
                sealed = read_sealed(source)
                rows: Sequence[Row] = sealed.rows if (sealed.name, sealed.digest) == (entry.name, entry.digest) else ()
            except Format:
                rows = sorted(scan(source), key=lambda row: (row.frame.id, row.offset)) if told else ()
            if not (rows or told):
                return None  # what was indexed of it may be more than can be found now
            commits = {}
            for frame, offset in rows:
                if frame.kind is Kind.COMMIT:
                    with suppress(Format, Integrity):  # told to whoever asks for that commit; the rest is sound
                        commits[frame.id] = self.objects.read_at(Location(entry.name, offset, frame))
        except (FileNotFoundError, Format) as error:
            if told:
                warnings.warn(f"pack {entry.name.hex()} cannot be read: {error}", CkstoreWarning, 2)
            return None
        except OSError as error:
            # Not the pack's fault: following stops here and goes on at the next try.
            raise SaveFailed(f"cannot read pack {entry.name.hex()}: {error.strerror}", hint="try again") from error
        return NewPack(entry, rows, commits)

    def _open_index(self, folder: Path) -> Index:
        try:
            return Index(folder, self.id)
        except IndexDamaged:
            # Only a cache: what cannot even be opened is made anew.
            shutil.rmtree(folder, ignore_errors=True)
        try:
            return Index(folder, self.id)
        except IndexDamaged as error:
            raise SaveFailed(f"cannot make an index in {folder}: {error}", hint="check the disk (`dmesg`)") from error

    def _cursor(self) -> Cursor:
        cursor = self.index.cursor()
        if cursor is None:
            raise Integrity("the index is empty", hint="open the repository again")
        return cursor

    def _is_long(self, cursor: Cursor) -> bool:
        if cursor.offset < ROTATE_SIZE:
            return False
        return cursor.offset > 4 * self.journal.snapshot_bytes(cursor.segment)

    def _begin_segment(self, cursor: Cursor) -> Cursor:
        frame = self.journal.begin(cursor.segment + 1, self.journal.fold(cursor), cursor.seq, cursor.hash)
        self.index.apply(cursor, [frame], self.pack_rows)
        return frame.end

    def _abandon(self, cursor: Cursor) -> None:
        """After a failed append the segment is not to be synced again: a new one begins, now or at the next save."""
        self._abandoned = cursor.segment
        try:
            self._begin_segment(cursor)
        except (CkstoreError, OSError) as error:  # a disk that is gone cannot be read either
            warnings.warn(f"no new journal segment could be begun yet: {error}", CkstoreWarning, 3)

    def named_packs(self) -> set[str]:
        """File names of packs that records name. A record that failed must not outlive its packs: it is made void."""
        self.catch_up()
        cursor = self._cursor()
        if cursor.segment == self.journal.unsettled:
            self._begin_segment(cursor)
        else:
            self.journal.settle(cursor.segment)
        snapshot = self.journal.fold(self._cursor())
        entries = [*snapshot.packs, *(one.pack for one in snapshot.condemned)]
        return {self.layout.pack(entry.name).name for entry in entries}
