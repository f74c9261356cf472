"""One save, from the first chunk to the acknowledgement: invariants W1 to W5.

W1  packs are written under tmp/, one writer a pack
W2  sealed and fdatasync'ed, still under tmp/
W3  under the repository lock: follow the journal, check that the refs did not move, that every
    deduplicated object is still there; rename into packs/, fsync both folders
W4  ONE journal record, fdatasync: the commit point
W5  apply it to the index in one transaction, unlock, acknowledge
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.codec.room import Room
from ckstore.digest import Kind, object_id
from ckstore.errors import Conflict, Integrity, InvalidInput
from ckstore.storage.chain import Base, base_for
from ckstore.storage.index import NewPack
from ckstore.storage.packer import META, Packer
from ckstore.storage.record import PackEntry, Record, RefMove
from ckstore.storage.workers import PerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from ckstore.pack.writer import Sealed
    from ckstore.storage.index import View
    from ckstore.storage.store import Store


class Piece(NamedTuple):
    """A chunk to store: `load()` gives its raw bytes (again and again the same), `stream` the pack stream.

    `dtype` is the element type of the numbers in it, the codec's hint; `before` names the chunk that had its place
    in an earlier checkpoint.
    """

    load: Callable[[], memoryview]
    stream: str
    dtype: str = "uint8"
    before: bytes | None = None


class _Scratch:
    """A thread's reused buffers."""

    def __init__(self) -> None:
        self.coder = Coder()
        self.older = Room()
        self._copy = Room()

    def copy(self, raw: memoryview) -> memoryview:
        """`raw` as it is now, whatever its owner does to it next."""
        copied = self._copy.take(raw.nbytes)
        copied[:] = raw
        return copied


class Written(NamedTuple):
    """What a save added: bytes of new packs and how many chunks were new or known."""

    pack_bytes: int
    new_objects: int
    known_objects: int


class Transaction:
    """A save under way; a context manager. Nothing it did can be seen before `publish` returns.

    `put` may be called by many threads. Raises `SaveFailed` at once where nothing may be written.
    """

    def __init__(self, store: Store) -> None:
        store.check_writable()
        self._store = store
        self._folder = store.layout.tmp / os.urandom(8).hex()
        self._lock = threading.Lock()
        self._new: set[bytes] = set()
        self._known: dict[bytes, tuple[Kind, Piece]] = {}
        self._deltas: dict[bytes, tuple[Piece, bytes]] = {}
        self._commits: dict[bytes, bytes] = {}
        self._scratch = PerThread()
        cursor = store.index.cursor()
        self._seen_seq = cursor.seq if cursor else -1

    def __enter__(self) -> Self:
        self._owner = self._store.scratch.open(self._folder)
        self._packer = Packer(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._packer.discard()
        self._store.scratch.close(self._folder, self._owner, failed=error is not None)

    def put(self, kind: Kind, pieces: Sequence[Piece]) -> list[bytes]:
        """Store objects that are not there yet; their ids. All raw bytes are held at once: pass a few MiB at a time."""
        raws = [piece.load() for piece in pieces]
        ids = [object_id(kind, raw) for raw in raws]
        with self._lock:
            asked = {id for id in ids if id not in self._new and id not in self._known}
        known = self._store.objects.known(asked)
        for id, raw, piece in zip(ids, raws, pieces, strict=True):
            with self._lock:
                if id in self._new or id in self._known:
                    continue
                if id in known:
                    self._known[id] = (kind, piece)
                    continue
                self._new.add(id)
            self._encode(kind, id, raw, piece)
        return ids

    def put_meta(self, kind: Kind, data: bytes) -> bytes:
        """Store a tree, page or commit; its id."""
        view = memoryview(data)
        (id,) = self.put(kind, [Piece(lambda: view, META)])
        if kind is Kind.COMMIT:
            self._commits[id] = data
        return id

    def publish(self, reason: str, time_ns: int, moves: Sequence[RefMove]) -> Written:
        """Make it all visible and durable, and move the refs: W2 to W5.

        Raises `Conflict` where a ref is not at its `old` any more; the packs are then recorded alone, so that a
        retry finds their objects.
        """
        store = self._store
        while True:
            packs = self._packer.finish()
            with store.locked():
                store.catch_up()
                gone = self._vanished()
                if not gone:
                    written = self._publish_locked(packs, Record(time_ns, reason, refs=tuple(moves)))
                    break
            for kind, id, piece in gone:
                self._new.add(id)
                self._encode(kind, id, piece.load(), piece)
        return written

    def _publish_locked(self, packs: list[Sealed], record: Record) -> Written:
        store = self._store
        with store.index.reading() as view:
            refused = _refused(view, record.refs)
        for pack in packs:
            durable.rename(self._packer.part(pack.name), store.layout.pack(pack.name))
        if packs:
            durable.sync_folder(store.layout.packs)
            durable.sync_folder(self._folder)
        entries = tuple(PackEntry(pack.name, pack.digest, pack.size_bytes) for pack in packs)
        record = Record(record.time_ns, record.reason, entries, () if refused else record.refs)
        if record.packs or record.refs:
            store.record(record, [self._new_pack(pack, entry) for pack, entry in zip(packs, entries, strict=True)])
        if refused:
            raise Conflict(
                f"{refused.name} was moved by another writer",
                why="what this save wrote is kept, so that a retry is cheap",
                hint="read the branch's new tip, then commit again",
            )
        return Written(sum(entry.size_bytes for entry in entries), len(self._new), len(self._known))

    def _new_pack(self, pack: Sealed, entry: PackEntry) -> NewPack:
        commits = {f.id: self._commits[f.id] for f, _ in pack.rows if f.kind is Kind.COMMIT}
        return NewPack(entry, pack.rows, commits)

    def _vanished(self) -> list[tuple[Kind, bytes, Piece]]:
        """What was relied on and has been dropped since (**W3**): known objects, and deltas whose base has gone."""
        cursor = self._store.index.cursor()
        if cursor is not None and cursor.seq == self._seen_seq:
            return []
        with self._store.index.reading() as view:
            lost = [id for id in self._known if view.get("frames", id) is None]
            baseless = [id for id, (_, base) in self._deltas.items() if view.get("frames", base) is None]
        again = [(kind, id, piece) for id in lost for kind, piece in [self._known.pop(id)]]
        again += [(Kind.CHUNK, id, piece) for id in baseless for piece, _ in [self._deltas.pop(id)]]
        return [(kind, id, piece._replace(before=None)) for kind, id, piece in again]

    def _base(self, raw: memoryview, before: bytes) -> Base | None:
        """What `raw` may be kept against, where its earlier version is here and sound."""
        objects = self._store.objects
        try:
            found = objects.locate(before)
            return None if found is None else base_for(found, raw.nbytes, objects.locate)
        except Integrity:
            return None

    def _older(self, base: Base, room: memoryview) -> memoryview | None:
        """The base's bytes; None where they are damaged: the new version is then kept by itself."""
        try:
            self._store.objects.read_into(base.location.frame.id, room)
        except Integrity:
            return None
        return room

    def _encode(self, kind: Kind, id: bytes, raw: memoryview, piece: Piece) -> None:
        scratch = self._scratch.get(_Scratch)
        raw = scratch.copy(raw)
        if object_id(kind, raw) != id:
            raise InvalidInput(
                "the state changed while it was being committed", hint="commit between steps, or commit a copy"
            )
        base = self._base(raw, piece.before) if piece.before is not None else None
        if base is None:
            encoded = scratch.coder.encode(raw, piece.dtype)
        else:
            encoded = scratch.coder.encode(raw, piece.dtype, self._older(base, scratch.older.take(raw.nbytes)))
        if base is not None and encoded.codec is Codec.DELTA:
            with self._lock:
                self._deltas[id] = (piece, base.location.frame.id)
            self._packer.add(piece.stream, kind, id, raw.nbytes, encoded, base.location.frame.id, base.version)
        else:
            self._packer.add(piece.stream, kind, id, raw.nbytes, encoded)


def _refused(view: View, moves: Sequence[RefMove]) -> RefMove | None:
    """The first of `moves` whose ref is not at its `old` any more, or None."""
    for move in moves:
        if view.ref(move.name) != move.old:
            return move
    return None
