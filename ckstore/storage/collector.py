"""Takes packs away while others save: W6, the write order in reverse.

A record condemns packs, in the same step as it names what replaces them; the index drops their rows; their files go
after the grace time. A save that relies on a condemned pack sees that under the lock (W3) and writes what it needs
again; what was saved since the plan was made is looked at here, under the same lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.digest import Kind
from ckstore.errors import Conflict
from ckstore.lock import LONGEST_NAP_S, FileLock
from ckstore.storage.follower import NewPack
from ckstore.storage.packer import Packer
from ckstore.storage.record import Condemned, PackEntry, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ckstore.pack.format import Row
    from ckstore.storage.journal import Cursor
    from ckstore.storage.layout import Layout
    from ckstore.storage.store import Store

REASON = "gc"
REPAIR = "repair"

Check = Callable[[Sequence[Record]], None]
"""Is given the records since it was last asked, the newest first, under the lock. Raises `Outdated`."""


class Outdated(Conflict):
    """What was planned does not fit any more: something was saved since that relies on what was to go."""


@contextmanager
def collecting(store: Store) -> Iterator[Collector]:
    """One gc or repair at a time. Raises `Locked` where another is under way, `SaveFailed` for a read-only store."""
    store.check_writable()
    with FileLock(store.layout.gc_lock).held(0.0):
        yield Collector(store)


class Collector:
    """Condemns, replaces and removes packs; made by `collecting`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since: Cursor | None = None
        self._check: Check = lambda records: None
        self._rests_until_s = 0.0

    def watch(self, since: Cursor, check: Check) -> None:
        """From now on ask `check` about records after `since` before anything is condemned."""
        self._since = since
        self._check = check

    def replace(
        self,
        record: Record,
        condemned: Sequence[PackEntry],
        rewriting: Rewriting | None = None,
        commits: Mapping[bytes, bytes] | None = None,
    ) -> int | None:
        """Condemn packs in one record, `record` with what replaces them; its number, None where that says nothing.

        `commits` are those among the frames that `rewriting` wrote. Raises `Outdated`; nothing is condemned then.
        Between one and the next the lock is free for as long as the last one had it: whoever waits to save comes first.
        """
        store = self._store
        packs = [] if rewriting is None else rewriting.packer.finish(store.workers)
        known = [pack for entry in condemned if (pack := store.pack_rows(entry, False)) is not None]
        since_ns = durable.touch_ns(store.layout.gc_lock)
        with self._politely_locked():
            store.catch_up()
            end = self._checked()
            if rewriting is not None:
                rewriting.publish()
            entries = [PackEntry(pack.name, pack.digest, pack.size_bytes) for pack in packs]
            new = [
                NewPack(entry, pack.rows, {id: commits[id] for id in _commits(pack.rows)} if commits else {})
                for pack, entry in zip(packs, entries, strict=True)
            ]
            gone = tuple(Condemned(entry, since_ns) for entry in condemned)
            said = Record(
                record.time_ns, record.reason, (*record.packs, *entries), (), record.holes, record.filled, gone
            )
            if not (said.packs or said.holes or said.filled or said.condemned):
                return None
            seq = store.record(said, [*new, *known])
            self._since = end and store.records_since(end)[1]
            return seq

    def restore(self, record: Record) -> int:
        """Write `record`, which names condemned packs whose files are there, or what is back with them; its number."""
        store = self._store
        with store.locked():
            store.catch_up()
            return store.record(record, ())

    def remove(self, time_ns: int, grace_ns: int) -> int:
        """Unlink condemned packs whose grace is over by the file system's clock; the bytes that this frees."""
        store = self._store
        now_ns = durable.touch_ns(store.layout.gc_lock)
        over = [one.pack for one in store.ask(lambda view: view.condemned()) if now_ns - one.since_ns >= grace_ns]
        freed = 0
        for entry in over:
            store.packs.forget(entry.name)
            path = store.layout.pack(entry.name)
            if path.exists():
                freed += entry.size_bytes
                durable.unlink(path)
        if over:
            durable.sync_folder(store.layout.packs)  # before the record forgets them
            with store.locked():
                store.catch_up()
                store.record(Record(time_ns, REASON, removed=tuple(entry.name for entry in over)), ())
        return freed

    def set_aside(self, record: Record, packs: Sequence[bytes]) -> list[str]:
        """Move the files of condemned packs into `quarantine/` as far as they are there; then `record` forgets them.

        The names of the files that were moved.
        """
        store = self._store
        with store.locked():
            store.catch_up()
            moved = [path.name for path in map(store.layout.pack, packs) if path.exists()]
            for name in packs:
                store.packs.forget(name)
            set_aside(store.layout, store.layout.packs, moved)
            if packs:
                store.record(Record(record.time_ns, record.reason, removed=tuple(packs)), ())
        return moved

    def set_aside_strays(self) -> list[str]:
        """Move packs that no record names into `quarantine/`; the names of their files."""
        store = self._store
        with store.locked():
            strays = stray_packs(store)
            set_aside(store.layout, store.layout.packs, strays)
        return strays

    def _checked(self) -> Cursor | None:
        """The journal's end, once all up to it has been checked; None where nobody watches. Raises `Outdated`."""
        if self._since is not None:
            records, end = self._store.records_since(self._since)
            if records:
                self._check(records)
            self._since = end
        return self._since

    @contextmanager
    def _politely_locked(self) -> Iterator[None]:
        """Hold the repository lock once others had time to take it."""
        time.sleep(max(0.0, self._rests_until_s - time.monotonic()))
        with self._store.locked():
            began_s = time.monotonic()
            try:
                yield
            finally:
                now_s = time.monotonic()
                self._rests_until_s = now_s + max(now_s - began_s, LONGEST_NAP_S)


def stray_packs(store: Store) -> list[str]:
    """The files of packs that no record names, for who holds the lock: a save under way has none."""
    named = store.named_packs()
    return sorted(path.name for path in store.layout.packs.glob("*.pack") if path.name not in named)


def set_aside(layout: Layout, folder: Path, names: Sequence[str]) -> None:
    """Move files of `folder` into `quarantine/`, durably."""
    for name in names:
        durable.rename(folder / name, layout.quarantine / name)
    if names:
        durable.sync_folder(layout.quarantine)
        durable.sync_folder(folder)


class Rewriting:
    """Packs on their way, in a folder under `tmp/`; a context manager."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.layout.tmp / os.urandom(8).hex()

    def __enter__(self) -> Self:
        self._owner = self._store.scratch.open(self._folder)
        self.packer = Packer(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.packer.discard()
        self._store.scratch.close(self._folder, self._owner, failed=error is not None)

    def publish(self) -> None:
        """Move the sealed packs to the others (**W3**): the lock is held, and the record follows."""
        packs = self.packer.sealed
        for pack in packs:
            durable.rename(self.packer.part(pack.name), self._store.layout.pack(pack.name))
        if packs:
            durable.sync_folder(self._store.layout.packs)
            durable.sync_folder(self._folder)


def _commits(rows: Sequence[Row]) -> list[bytes]:
    return [row.frame.id for row in rows if row.frame.kind is Kind.COMMIT]
