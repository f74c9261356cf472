"""The index: an LMDB environment that says where each object lies. A cache that follows the journal.

Everything here can be rebuilt from packs and journal, and is never ahead of them. Each row carries a checksum
over its table, key and value; a row that does not match raises `IndexDamaged`, and the index is rebuilt.
The environment is opened once a process; a forked child opens its own.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import lmdb
import msgspec

from ckstore import durable
from ckstore.digest import CHECKSUM_SIZE, ID_SIZE, NO_ID, Kind, checksum
from ckstore.errors import Integrity, SaveFailed, StoreFull
from ckstore.storage.chain import suits
from ckstore.storage.journal import Cursor, JournalFrame
from ckstore.storage.lmdb_file import is_mappable
from ckstore.storage.location import Location, from_row, to_row
from ckstore.storage.record import Condemned, Hole, PackEntry, Record, Ref, Snapshot, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckstore.pack.format import Row

MAP_SIZE = 64 << 30
"""Bytes of address space the environment may grow into; the file is only as long as its content."""

_LOCK_TABLE_SIZE = 36 << 10  # of LMDB's table of 512 readers, which it maps for writing

_TABLES = ("frames", "spares", "commits", "packs", "condemned", "refs", "holes", "journal", "meta")
_PACK = struct.Struct("<Q32sQ")
_CONDEMNED = struct.Struct("<32sQQ")
_OFFSET = struct.Struct(">Q")
_SEQ = struct.Struct(">Q")
_CURSOR = struct.Struct("<QQQ32s")
_TARGET: msgspec.msgpack.Decoder[Target] = msgspec.msgpack.Decoder(Target)
_PACK_COUNT = b"packs"
_CURSOR_KEY = b"cursor"
_REPOSITORY_KEY = b"repository"
_GENERATION_KEY = b"generation"
_LAYOUT = b"1"
"""Changes with what the tables hold; an index of another layout is made anew."""


class IndexDamaged(Integrity):
    """The index cannot be believed; packs and journal can. Rebuild it."""


class NewPack(NamedTuple):
    """A pack to index: its entry, its rows, and the canonical bytes of the commits in it."""

    entry: PackEntry
    rows: Sequence[Row]
    commits: dict[bytes, bytes]


_Waiting = dict[bytes, list[Location]]
"""Frames that cannot be read yet, by the base they lack."""

PackRows = Callable[[PackEntry, bool], NewPack | None]
"""Gives what is in a pack; None where it cannot be read at all, which the flag says to warn of."""


class _Shared:
    """One LMDB environment for all Index objects of this process over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users = 0
        self.pid = os.getpid()
        self.tables: dict[str, lmdb._Database] = {}
        self.environment = self._open()

    def _open(self) -> lmdb.Environment:
        existed = self.folder.exists()
        if not is_mappable(self.folder / "data.mdb"):
            raise IndexDamaged(f"the index in {self.folder} is cut short")
        durable.make_folder(self.folder)
        durable.reserve(self.folder / "lock.mdb", _LOCK_TABLE_SIZE)
        environment = lmdb.open(
            str(self.folder),
            map_size=MAP_SIZE,
            max_dbs=len(_TABLES),
            sync=True,
            writemap=False,
            max_readers=512,
            create=False,  # the folder is there
        )
        environment.reader_check()
        self.tables = {name: environment.open_db(name.encode()) for name in _TABLES}
        if not existed:
            durable.sync_folder(self.folder)
            durable.sync_folder(self.folder.parent)
        return environment

    def current(self) -> lmdb.Environment:
        """The environment of this process; a forked child's is its own."""
        if self.pid != os.getpid():
            with _REGISTRY.lock:
                if self.pid != os.getpid():
                    self.environment.close()
                    self.environment = self._open()
                    self.pid = os.getpid()
        return self.environment

    def reopen(self, broken: lmdb.Environment) -> lmdb.Environment:
        """Replace an environment that LMDB has given up after a failed write of its root."""
        with _REGISTRY.lock:
            if self.environment is broken:
                broken.close()
                self.environment = self._open()
            return self.environment


class _Registry:
    """The environments open in this process, by the folder's real path: LMDB forbids a second one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shared: dict[str, _Shared] = {}


_REGISTRY = _Registry()


def _fresh_lock() -> None:
    _REGISTRY.lock = threading.Lock()


os.register_at_fork(after_in_child=_fresh_lock)


class Index:
    """The index in `folder`, of the repository `repository_id`."""

    def __init__(self, folder: Path, repository_id: str) -> None:
        self._key = os.path.realpath(folder)
        self.id = _LAYOUT + repository_id.encode()
        with _REGISTRY.lock, _lmdb_errors():
            shared = _REGISTRY.shared.get(self._key)
            if shared is None:
                shared = _REGISTRY.shared[self._key] = _Shared(folder)
            shared.users += 1
        self._shared = shared
        self._closed = False

    def close(self) -> None:
        """Let go of the environment; the last user in the process closes it."""
        if self._closed:
            return
        self._closed = True
        with _REGISTRY.lock:
            self._shared.users -= 1
            if not self._shared.users:
                del _REGISTRY.shared[self._key]
                if self._shared.pid == os.getpid():
                    self._shared.environment.close()

    def cursor(self) -> Cursor | None:
        """How far this index has followed the journal; None for an empty one or another repository's."""
        with self.reading() as view:
            return view.cursor(self.id)

    def moment(self) -> tuple[int, bytes | None]:
        """Where in the journal the index is, and what changes when it is made anew: rows go only with one of both."""
        with self.reading() as view:
            return view.moment(self.id)

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A consistent view. Keep it short: LMDB cannot reuse pages meanwhile."""
        with _lmdb_errors():
            transaction = self._begin()
            try:
                yield View(transaction, self._shared.tables)
            finally:
                transaction.abort()

    def apply(self, since: Cursor, frames: Sequence[JournalFrame], packs: PackRows) -> None:
        """Follow the journal over `frames`, which come right after `since`, in one transaction: **W5**.

        Does nothing where the index is not at `since` any more: someone else has followed.
        """
        with _lmdb_errors(), _write_errors(), self._begin(write=True) as transaction:
            writer = _Writer(transaction, self._shared.tables)
            if writer.cursor(self.id) == since:
                writer.follow_all(frames, packs, self.id)

    def rebuild(self, frames: Sequence[JournalFrame], packs: PackRows) -> None:
        """Empty the index and follow `frames`, the first of which is a snapshot, in one transaction."""
        with _lmdb_errors(), _write_errors(), self._begin(write=True) as transaction:
            for table in self._shared.tables.values():
                transaction.drop(table, delete=False)
            writer = _Writer(transaction, self._shared.tables)
            writer.put("meta", _GENERATION_KEY, os.urandom(8))
            writer.follow_all(frames, packs, self.id)

    def _begin(self, *, write: bool = False) -> lmdb.Transaction:
        environment = self._shared.current()
        try:
            return environment.begin(write=write)
        except lmdb.PanicError:
            return self._shared.reopen(environment).begin(write=write)


class View:
    """The index as it was at one moment."""

    def __init__(self, transaction: lmdb.Transaction, tables: dict[str, lmdb._Database]) -> None:
        self._transaction = transaction
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a row, or None. Raises `IndexDamaged`."""
        stored = self._transaction.get(key, db=self._tables[table])
        return None if stored is None else _opened(table, key, bytes(stored))

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table in order of key."""
        for key, stored in self._transaction.cursor(db=self._tables[table]):
            yield bytes(key), _opened(table, bytes(key), bytes(stored))

    def cursor(self, repository_id: bytes) -> Cursor | None:
        """How far the journal of that repository was followed."""
        value = self.get("meta", _CURSOR_KEY)
        if value is None or self.get("meta", _REPOSITORY_KEY) != repository_id:
            return None
        segment, offset, seq, hash = _CURSOR.unpack(value)
        return Cursor(segment, offset, seq, hash)

    def moment(self, repository_id: bytes) -> tuple[int, bytes | None]:
        """Where in the journal the index is, and what changes when it is made anew: rows go only with one of both."""
        cursor = self.cursor(repository_id)
        return cursor.seq if cursor else -1, self.get("meta", _GENERATION_KEY)

    def locate(self, id: bytes) -> Location | None:
        """Where object `id` lies, or None."""
        value = self.get("frames", id)
        return None if value is None else _located(id, value)

    def locations(self) -> Iterator[Location]:
        """Every object's place."""
        for id, value in self.rows("frames"):
            yield _located(id, value)

    def spares(self) -> Iterator[Location]:
        """The frames that no object's row names: other frames of it, or those that cannot be read."""
        for key, value in self.rows("spares"):
            yield _located(key[:ID_SIZE], value)

    def ref(self, name: str) -> Target:
        """Where a ref points; None where it is not there."""
        value = self.get("refs", name.encode())
        return None if value is None else _TARGET.decode(value)

    def refs(self) -> dict[str, Target]:
        """All refs by name."""
        return {name.decode(): _TARGET.decode(value) for name, value in self.rows("refs")}

    def commit(self, id: bytes) -> bytes | None:
        """The canonical bytes of a commit, or None."""
        return self.get("commits", id)

    def commits_beginning(self, prefix: str) -> list[bytes]:
        """Ids of the commits whose hexadecimal form begins with `prefix`."""
        found = []
        cursor = self._transaction.cursor(db=self._tables["commits"])
        if cursor.set_range(bytes.fromhex(prefix[: len(prefix) // 2 * 2])):
            for key in cursor.iternext(values=False):
                if not bytes(key).hex().startswith(prefix):
                    if bytes(key).hex() > prefix:
                        break
                    continue
                found.append(bytes(key))
        return found

    def packs(self) -> list[PackEntry]:
        """All packs in the order they came."""
        found = [(_PACK.unpack(value), name) for name, value in self.rows("packs")]
        return [PackEntry(name, digest, size) for (_, digest, size), name in sorted(found)]

    def order(self, pack: bytes) -> int:
        """The number of a pack in the order they came; of an unknown one a number past all."""
        value = self.get("packs", pack)
        return 1 << 64 if value is None else int(_PACK.unpack(value)[0])

    def condemned(self) -> list[Condemned]:
        """Packs that are not used any more and whose files are still there."""
        found = [(name, _CONDEMNED.unpack(value)) for name, value in self.rows("condemned")]
        return [Condemned(PackEntry(name, digest, size), since_ns) for name, (digest, size, since_ns) in found]

    def hole(self, commit: bytes, component: str) -> str | None:
        """Why the data of a commit's component is absent here; None where it is not known to be."""
        reason = self.get("holes", commit + component.encode())
        return None if reason is None else reason.decode()

    def holes_of(self, commit: bytes) -> dict[str, str]:
        """The absent components of a commit, and why."""
        found = self._beginning("holes", commit)
        return {key[ID_SIZE:].decode(): value.decode() for key, value in found}

    def holes(self) -> list[Hole]:
        """All that is known to be absent here."""
        return [Hole(key[:ID_SIZE], key[ID_SIZE:].decode(), value.decode()) for key, value in self.rows("holes")]

    def snapshot(self) -> Snapshot:
        """What a new journal segment begins with."""
        refs = tuple(Ref(name, target) for name, target in sorted(self.refs().items()))
        return Snapshot(tuple(self.packs()), refs, tuple(self.holes()), tuple(self.condemned()))

    def _beginning(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`."""
        cursor = self._transaction.cursor(db=self._tables[table])
        if cursor.set_range(prefix):
            for key, stored in cursor:
                if not bytes(key).startswith(prefix):
                    return
                yield bytes(key), _opened(table, bytes(key), bytes(stored))

    def copies(self) -> list[bytes]:
        """The journal frames of the newest segment as they were applied, for mending."""
        return [value for _, value in self.rows("journal")]


class _Writer(View):
    """Follows journal frames inside one write transaction.

    Of several frames of one object the row is the one of the lowest version that can be read, of those the first that
    came: so that whatever order packs come and go in, an index that followed equals one made anew, and what is kept
    against an object can be read whichever of its frames has the row. The others are spares.
    """

    def follow_all(self, frames: Sequence[JournalFrame], packs: PackRows, repository_id: bytes) -> None:
        self._passing = _passing([frame.content for frame in frames])
        for frame in frames:
            self._follow(frame, packs)
        self.put("meta", _REPOSITORY_KEY, repository_id)
        self.put("meta", _CURSOR_KEY, _CURSOR.pack(*frames[-1].end))

    def _follow(self, frame: JournalFrame, packs: PackRows) -> None:
        content = frame.content
        known = {entry.name for entry in self.packs()} if isinstance(content, Snapshot) else set()
        if isinstance(content, Snapshot):
            for table in ("journal", "holes", "condemned"):
                self._transaction.drop(self._tables[table], delete=False)
            named = {entry.name for entry in content.packs}
            for entry in [entry for entry in self.packs() if entry.name not in named]:
                self._drop_pack(entry, packs)
            self._add_packs([entry for entry in content.packs if entry.name not in known], packs)
            self._set_refs(content.refs)
        else:
            self._add_packs(content.packs, packs)
            self._move_refs(content)
            for filled in content.filled:
                self._delete("holes", filled.commit + filled.component.encode())
            for name in content.removed:
                self._delete("condemned", name)
        for one in content.condemned:
            if not isinstance(content, Snapshot):
                self._drop_pack(one.pack, packs)
            self.put("condemned", one.pack.name, _CONDEMNED.pack(one.pack.digest, one.pack.size_bytes, one.since_ns))
        for hole in content.holes:
            self.put("holes", hole.commit + hole.component.encode(), hole.reason.encode())
        self.put("journal", _SEQ.pack(frame.end.seq), frame.raw)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value + checksum(table.encode(), key, value), db=self._tables[table])

    def _delete(self, table: str, key: bytes) -> None:
        self._transaction.delete(key, db=self._tables[table])

    def _add_packs(self, entries: Sequence[PackEntry], packs: PackRows) -> None:
        waiting: _Waiting = {}
        for entry in entries:
            order = int.from_bytes(self.get("meta", _PACK_COUNT) or b"", "big")
            self.put("packs", entry.name, _PACK.pack(order, entry.digest, entry.size_bytes))
            self.put("meta", _PACK_COUNT, (order + 1).to_bytes(8, "big"))
            self._delete("condemned", entry.name)
            new = None if entry.name in self._passing else packs(entry, True)
            if new is None:
                continue
            for row in new.rows:
                self._add(Location(entry.name, row.offset, row.frame), waiting)
            for id, data in new.commits.items():
                self.put("commits", id, data)
        for places in waiting.values():
            for place in places:
                self._put_spare(place)

    def _add(self, place: Location, waiting: _Waiting) -> None:
        """Index a frame that can be read and is the best of its object; then those that wait for it."""
        ready = [place]
        while ready:
            place = ready.pop()
            id = place.frame.id
            if not self._is_readable(place):
                waiting.setdefault(place.frame.base, []).append(place)
                continue
            other = self.locate(id)
            if other is not None:
                if self._rank(other) <= self._rank(place):
                    self._put_spare(place)
                    continue
                self._put_spare(other)
            self.put("frames", id, to_row(place))
            ready += waiting.pop(id, [])

    def _is_readable(self, place: Location) -> bool:
        """Whether a frame has no base, or one that has a row and suits."""
        if place.frame.base == NO_ID:
            return True
        base = self.locate(place.frame.base)
        return base is not None and suits(base.frame, place.frame)

    def _rank(self, place: Location) -> tuple[int, int, int]:
        return place.frame.version, self.order(place.pack), place.offset

    def _put_spare(self, place: Location) -> None:
        self.put("spares", _spare_key(place), to_row(place))

    def _drop_pack(self, entry: PackEntry, packs: PackRows) -> None:
        """Forget a pack and its frames; where another pack has a spare of an object, that gets the row."""
        self._delete("packs", entry.name)
        dropped = packs(entry, False)
        if dropped is not None:
            places = [Location(entry.name, row.offset, row.frame) for row in dropped.rows]
        else:
            places = [place for place in self._all() if place.pack == entry.name]
        lost = []
        for place in places:
            self._delete("spares", _spare_key(place))
            row = self.locate(place.frame.id)
            if row is not None and (row.pack, row.offset) == (place.pack, place.offset):
                self._delete("frames", place.frame.id)
                lost.append(place.frame)
        for frame in sorted(lost, key=lambda frame: frame.version):
            self._promote(frame.id)
            if frame.kind is Kind.COMMIT and self.get("frames", frame.id) is None:
                self._delete("commits", frame.id)

    def _all(self) -> Iterator[Location]:
        """Every frame, with a row or spare."""
        yield from list(self.locations())
        yield from list(self.spares())

    def _promote(self, id: bytes) -> None:
        """Give the row of an object to the best of its spares."""
        spares = [_located(id, value) for _, value in self._beginning("spares", id)]
        for place in sorted(spares, key=self._rank):
            if self._is_readable(place):
                self._delete("spares", _spare_key(place))
                self.put("frames", id, to_row(place))
                return

    def _set_refs(self, refs: Sequence[Ref]) -> None:
        names = {ref.name for ref in refs}
        for name in [name for name in self.refs() if name not in names]:
            self._transaction.delete(name.encode(), db=self._tables["refs"])
        for ref in refs:
            self._set_ref(ref.name, ref.target)

    def _move_refs(self, record: Record) -> None:
        for move in record.refs:
            self._set_ref(move.name, move.new)

    def _set_ref(self, name: str, target: Target) -> None:
        if target is None:
            self._transaction.delete(name.encode(), db=self._tables["refs"])
        else:
            self.put("refs", name.encode(), msgspec.msgpack.encode(target))


def _passing(contents: Sequence[Record | Snapshot]) -> set[bytes]:
    """Packs that come and go within some frames: their files need not be there any more."""
    come: set[bytes] = set()
    gone: set[bytes] = set()
    for content in contents:
        names = {entry.name for entry in content.packs}
        come |= names
        gone = (gone - names) | {one.pack.name for one in content.condemned}
    return come & gone


def _spare_key(place: Location) -> bytes:
    return place.frame.id + place.pack + _OFFSET.pack(place.offset)


def _located(id: bytes, value: bytes) -> Location:
    try:
        return from_row(id, value)
    except struct.error:
        raise IndexDamaged(f"the index row frames/{id.hex()[:16]} is of another version") from None


def _opened(table: str, key: bytes, stored: bytes) -> bytes:
    value = stored[:-CHECKSUM_SIZE]
    if checksum(table.encode(), key, value) != stored[-CHECKSUM_SIZE:]:
        raise IndexDamaged(f"the index row {table}/{key.hex()[:16]} is damaged")
    return value


@contextmanager
def _lmdb_errors() -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull(f"the index has reached its {MAP_SIZE >> 30} GiB", hint="run `ckstore gc`") from error
    except lmdb.DiskError as error:
        raise StoreFull(f"cannot write the index: {error}", hint="free some space, then try again") from error
    except lmdb.Error as error:
        raise IndexDamaged(f"the index cannot be used: {error}") from error


@contextmanager
def _write_errors() -> Iterator[None]:
    """What the system says of a write is no damage to the index."""
    try:
        yield
    except lmdb.Error as error:
        if type(error) is not lmdb.Error:
            raise
        if os.strerror(errno.ENOSPC) in str(error):
            raise StoreFull(f"cannot write the index: {error}", hint="free some space, then try again") from error
        raise SaveFailed(
            f"cannot write the index: {error}", hint="check the disk (`dmesg`), then save again"
        ) from error
