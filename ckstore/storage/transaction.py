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
from ckstore.codec.preset import BALANCED
from ckstore.digest import Kind, object_id
from ckstore.errors import Conflict, InvalidInput
from ckstore.storage.chain import suits
from ckstore.storage.encoder import Buffers, Encoder
from ckstore.storage.follower import NewPack
from ckstore.storage.packer import META, Packer
from ckstore.storage.piece import New, Piece
from ckstore.storage.record import PackEntry, Record, RefMove

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from ckstore.codec.preset import Preset
    from ckstore.pack.format import Frame
    from ckstore.pack.writer import Sealed
    from ckstore.storage.remembered import Remembered
    from ckstore.storage.store import Store
    from ckstore.storage.view import View
    from ckstore.storage.workers import Workers


class Written(NamedTuple):
    """What a save added: bytes of new packs, how many chunks were new or known, and the number of its record.

    The number is None where there was nothing to record.
    """

    pack_bytes: int
    new_objects: int
    known_objects: int
    seq: int | None


class Transaction:
    """A save under way; a context manager. Nothing it did can be seen before `publish` returns.

    `put` may be called by many threads. `remembered` are chunks whose bytes are still in memory, and takes note of
    those that are put; `workers` are the threads to use in place of the store's. Raises `SaveFailed` at once where
    nothing may be written.
    """

    def __init__(
        self,
        store: Store,
        preset: Preset = BALANCED,
        remembered: Remembered | None = None,
        workers: Workers | None = None,
    ) -> None:
        store.check_writable()
        self.workers = store.workers if workers is None else workers
        self._store = store
        self._preset = preset
        self._folder = store.layout.tmp / os.urandom(8).hex()
        self._lock = threading.Lock()
        self._new: set[bytes] = set()
        self._known: dict[bytes, tuple[Kind, Piece]] = {}
        self._commits: dict[bytes, bytes] = {}
        self._scratch = store.scratch_of_writers
        self._seen = store.index.moment()
        self._remembered = remembered

    def __enter__(self) -> Self:
        self._owner = self._store.scratch.open(self._folder)
        self._packer = Packer(self._folder)
        self._encoder = Encoder(self._store.objects, self._preset, self._packer, self._scratch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._packer.discard()
        self._store.scratch.close(self._folder, self._owner, failed=error is not None)

    def put(self, kind: Kind, piece: Piece) -> bytes:
        """Store an object unless it is there already; its id.

        What is new is copied, and hashed as it was copied, so that a state that changes meanwhile is never stored
        under a wrong id. Where something new is to be expected the copy comes first: one hash instead of two. Where it
        does not, a change between hash and copy is seen and refused.
        """
        scratch = self._scratch.get(Buffers)
        raw, remembered = piece.load(), self._remembered
        found = None if remembered is None else remembered.id_of(piece, raw, scratch.coder.same)
        copied = found is None and scratch.expects_new
        if copied:
            raw = scratch.copy(raw, piece.dtype)
        id = found or object_id(kind, raw)
        new = self._claim(kind, id, piece)
        if found is None:
            scratch.expects_new = new
        if new:
            self._encoder.encode(New(kind, id, piece), raw if copied else _copied(scratch, kind, id, piece))
        if remembered is not None:
            remembered.note(id, piece)
        return id

    def put_meta(self, kind: Kind, data: bytes) -> bytes:
        """Store a tree, page or commit; its id."""
        view = memoryview(data)
        id = self.put(kind, Piece(lambda: view, META))
        if kind is Kind.COMMIT:
            self._commits[id] = data
        return id

    def publish(
        self, reason: str, time_ns: int, moves: Sequence[RefMove], check: Callable[[], None] = lambda: None
    ) -> Written:
        """Make it all visible and durable, and move the refs: W2 to W5.

        `check` may refuse under the lock, before anything is recorded. Raises `Conflict` where a ref is not at its
        `old` any more; the packs are then recorded alone, so that a retry finds their objects.
        """
        store = self._store
        while True:
            packs = self._packer.finish(self.workers)
            with store.locked():
                store.catch_up()
                check()
                gone = self._vanished()
                if not gone:
                    written = self._publish_locked(packs, Record(time_ns, reason, refs=tuple(moves)))
                    break
            for new in gone:
                self._put_again(new)
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
        new = [self._new_pack(pack, entry) for pack, entry in zip(packs, entries, strict=True)]
        seq = store.record(record, new) if record.packs or record.refs else None
        if refused:
            raise Conflict(
                f"{refused.name} was moved by another writer",
                why="what this save wrote is kept, so that a retry is cheap",
                hint="read the branch's new tip, then commit again",
            )
        return Written(sum(entry.size_bytes for entry in entries), len(self._new), len(self._known), seq)

    def _new_pack(self, pack: Sealed, entry: PackEntry) -> NewPack:
        commits = {f.id: self._commits[f.id] for f, _ in pack.rows if f.kind is Kind.COMMIT}
        return NewPack(entry, pack.rows, commits)

    def _vanished(self) -> list[New]:
        """What was relied on and has been dropped since (**W3**): known objects, and what deltas were kept against."""
        if self._store.index.moment() == self._seen:
            return []
        with self._store.index.reading() as view:
            lost = [id for id in self._known if not view.can_read(id)]
            baseless = [id for id, (_, frame) in self._encoder.deltas.items() if not _has_base(view, frame)]
        again = [(*self._known.pop(id), id) for id in lost]
        again += [(Kind.CHUNK, self._encoder.deltas.pop(id)[0], id) for id in baseless]
        return [New(kind, id, piece._replace(before=None)) for kind, piece, id in again]

    def _claim(self, kind: Kind, id: bytes, piece: Piece) -> bool:
        """Whether nobody has stored object `id` or is storing it: it is the caller's to store now."""
        if id in self._new or id in self._known:
            return False
        known = self._store.objects.known([id])
        with self._lock:
            if id in self._new or id in self._known:
                return False
            if known:
                self._known[id] = (kind, piece)
            else:
                self._new.add(id)
        return not known

    def _put_again(self, new: New) -> None:
        """Write what was relied on and has gone: by itself, from the state once more."""
        with self._lock:
            self._new.add(new.id)
        self._encoder.encode(new, _copied(self._scratch.get(Buffers), *new))


def _copied(scratch: Buffers, kind: Kind, id: bytes, piece: Piece) -> memoryview:
    """A copy of an object whose id is known. Raises `InvalidInput` where it is another by now."""
    raw = scratch.copy(piece.load(), piece.dtype)
    if object_id(kind, raw) != id:
        raise InvalidInput(
            "the state changed while it was being committed", hint="commit between steps, or commit a copy"
        )
    return raw


def _has_base(view: View, frame: Frame) -> bool:
    """Whether what a delta is kept against is there, in a version that it can be kept against."""
    base = view.locate(frame.base)
    return base is not None and suits(base.frame, frame) and view.can_read(frame.base)


def _refused(view: View, moves: Sequence[RefMove]) -> RefMove | None:
    """The first of `moves` whose ref is not at its `old` any more, or None."""
    for move in moves:
        if view.ref(move.name) != move.old:
            return move
    return None
