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
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.codec.choice import Coder
from ckstore.codec.chunker import parts
from ckstore.codec.element import element
from ckstore.codec.preset import BALANCED
from ckstore.codec.room import Room
from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import Conflict, Integrity, InvalidInput
from ckstore.pack.format import Frame
from ckstore.storage.chain import base_for, within
from ckstore.storage.index import NewPack
from ckstore.storage.packer import META, Packer
from ckstore.storage.record import PackEntry, Record, RefMove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from ckstore.codec.encoded import Encoded
    from ckstore.codec.preset import Preset
    from ckstore.pack.writer import Sealed
    from ckstore.storage.chain import Base
    from ckstore.storage.index import View
    from ckstore.storage.store import Store

_Tensor = tuple[str, int]
"""A tensor's stream and its number there."""

_POOR = 0.8
"""A delta of so much of its chunk has gained nothing that planes alone would not."""

_BATCH = 4
"""Chunks of a tensor that are encoded together: with fewer, threads meet over the interpreter; more spill caches."""


class Piece(NamedTuple):
    """A chunk to store: `load()` gives its raw bytes (again and again the same), `stream` the pack stream.

    `dtype` is the element type of the numbers in it, the codec's hint; `before` names the chunk that had its place
    in an earlier checkpoint. Pieces of one `tensor` (a number within its stream) that follow each other are encoded
    together.
    """

    load: Callable[[], memoryview]
    stream: str
    dtype: str = "uint8"
    before: bytes | None = None
    tensor: int = -1


class _Scratch:
    """A thread's reused buffers, as long as the store is open.

    `alone` encodes single chunks while payloads of `coder` are still in its buffers. `expects_new`: what the thread saw
    last was not stored yet.
    """

    def __init__(self) -> None:
        self.coder = Coder()
        self.alone = Coder()
        self.expects_new = False
        self._older = Room()
        self._copy = Room()

    def copy(self, raws: Sequence[memoryview], dtype: str) -> memoryview:
        """`raws` one after another as they are now, whatever happens to them next. They may lie here already."""
        lengths = [raw.nbytes for raw in raws]
        whole = self._copy.take(sum(lengths))
        self.coder.copy(raws, parts(whole, lengths), dtype)
        return whole

    def older(self, length: int) -> memoryview:
        """Room for the bases of some chunks."""
        return self._older.take(length)


class Written(NamedTuple):
    """What a save added: bytes of new packs and how many chunks were new or known."""

    pack_bytes: int
    new_objects: int
    known_objects: int


class Transaction:
    """A save under way; a context manager. Nothing it did can be seen before `publish` returns.

    `put` may be called by many threads. Raises `SaveFailed` at once where nothing may be written.
    """

    def __init__(self, store: Store, preset: Preset = BALANCED) -> None:
        store.check_writable()
        self._store = store
        self._preset = preset
        self._folder = store.layout.tmp / os.urandom(8).hex()
        self._lock = threading.Lock()
        self._new: set[bytes] = set()
        self._known: dict[bytes, tuple[Kind, Piece]] = {}
        self._deltas: dict[bytes, tuple[Piece, bytes]] = {}
        self._commits: dict[bytes, bytes] = {}
        self._scratch = store.scratch_of_writers
        self._seen = self._moment()

    def __enter__(self) -> Self:
        self._owner = self._store.scratch.open(self._folder)
        self._packer = Packer(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._packer.discard()
        self._store.scratch.close(self._folder, self._owner, failed=error is not None)

    def put(self, kind: Kind, pieces: Sequence[Piece]) -> list[bytes]:
        """Store objects that are not there yet; their ids."""
        ids: list[bytes] = []
        gains: dict[_Tensor, bool] = {}
        for batch in _batches(pieces):
            ids += self._put_batch(kind, batch, gains)
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

    def _vanished(self) -> list[_New]:
        """What was relied on and has been dropped since (**W3**): known objects, and deltas whose base has gone."""
        if self._moment() == self._seen:
            return []
        with self._store.index.reading() as view:
            lost = [id for id in self._known if view.get("frames", id) is None]
            baseless = [id for id, (_, base) in self._deltas.items() if view.get("frames", base) is None]
        again = [(*self._known.pop(id), id) for id in lost]
        again += [(Kind.CHUNK, self._deltas.pop(id)[0], id) for id in baseless]
        return [_New(kind, id, piece._replace(before=None), 0) for kind, piece, id in again]

    def _moment(self) -> tuple[int, int]:
        """Where in the journal the index is, and how often it was made anew: rows go only when one of both changes."""
        cursor = self._store.index.cursor()
        return cursor.seq if cursor else -1, self._store.index.rebuilds

    def _put_batch(self, kind: Kind, pieces: Sequence[Piece], gains: dict[_Tensor, bool]) -> list[bytes]:
        """Store what is new of some chunks of one tensor.

        What is new is copied, and hashed as it was copied, so that a state that changes meanwhile is never stored
        under a wrong id. Where new chunks are to be expected the copy comes first: one hash instead of two. Where it
        does not, a change between hash and copy is seen and refused.
        """
        scratch = self._scratch.get(_Scratch)
        raws = [piece.load() for piece in pieces]
        lengths = [raw.nbytes for raw in raws]
        copied = scratch.expects_new
        if copied:
            whole = scratch.copy(raws, pieces[0].dtype)
            raws = parts(whole, lengths)
        ids = [object_id(kind, raw) for raw in raws]
        places = self._claim(kind, ids, pieces)
        scratch.expects_new = bool(places)
        if places:
            new = [_New(kind, ids[place], pieces[place], lengths[place]) for place in places]
            if not copied or len(new) < len(raws):
                whole = scratch.copy([raws[place] for place in places], pieces[0].dtype)
            if not copied:
                _check_unchanged(new, whole)
            self._encode(new, whole, gains)
        return ids

    def _claim(self, kind: Kind, ids: Sequence[bytes], pieces: Sequence[Piece]) -> list[int]:
        """Which of `ids` nobody has stored or is storing: they are the caller's to store now."""
        with self._lock:
            asked = {id for id in ids if id not in self._new and id not in self._known}
        known = self._store.objects.known(asked) if asked else set()
        new = []
        with self._lock:
            for number, (id, piece) in enumerate(zip(ids, pieces, strict=True)):
                if id in self._new or id in self._known:
                    continue
                if id in known:
                    self._known[id] = (kind, piece)
                else:
                    self._new.add(id)
                    new.append(number)
        return new

    def _put_again(self, new: _New) -> None:
        """Write what was relied on and has gone: by itself, from the state once more."""
        whole = self._scratch.get(_Scratch).copy([new.piece.load()], new.piece.dtype)
        new = new._replace(length=whole.nbytes)
        _check_unchanged([new], whole)
        with self._lock:
            self._new.add(new.id)
        self._encode([new], whole, {})

    def _encode(self, new: Sequence[_New], whole: memoryview, gains: dict[_Tensor, bool]) -> None:
        """Encode new chunks of one tensor, which lie in `whole` one after another; those with a base apart."""
        coder = self._scratch.get(_Scratch).coder
        older, bases = self._bases(new, whole, gains)
        start = begin = 0
        for has_base, run in groupby(bases, key=lambda base: base is not None):
            stop = start + len(list(run))
            lengths = [one.length for one in new[start:stop]]
            end = begin + sum(lengths)
            base = older[begin:end] if has_base else None
            encoded = coder.encode(whole[begin:end], lengths, new[start].piece.dtype, self._preset, base)
            raws = parts(whole[begin:end], lengths)
            for one, raw, found, kept in zip(new[start:stop], raws, encoded, bases[start:stop], strict=True):
                self._add(one, raw, found, kept)
            start, begin = stop, end

    def _add(self, new: _New, raw: memoryview, encoded: Encoded, base: Base | None) -> None:
        """Append a frame. A delta that gained little, or ends too long a chain, is encoded anew, by itself."""
        if base is not None:
            frame = _frame(new, encoded)._replace(base=base.location.frame.id, version=base.version)
            if encoded.length < _POOR * new.length and within(base, frame, self._preset):
                with self._lock:
                    self._deltas[new.id] = (new.piece, frame.base)
                self._packer.add(new.piece.stream, frame, encoded.pieces)
                return
            alone = self._scratch.get(_Scratch).alone
            (encoded,) = alone.encode(raw, [new.length], new.piece.dtype, self._preset)
        self._packer.add(new.piece.stream, _frame(new, encoded), encoded.pieces)

    def _bases(
        self, new: Sequence[_New], whole: memoryview, gains: dict[_Tensor, bool]
    ) -> tuple[memoryview, list[Base | None]]:
        """The bytes of the bases and what they are, None for a chunk that is to be kept by itself.

        Whether differences gain anything is found out at the first chunk of a tensor and held to for as long as
        `gains` is.
        """
        dtype = new[0].piece.dtype
        tensor = (new[0].piece.stream, new[0].piece.tensor)
        if not self._preset.deltas or element(dtype) is None or not gains.get(tensor, True):
            return whole, [None] * len(new)
        scratch = self._scratch.get(_Scratch)
        lengths = [one.length for one in new]
        older = scratch.older(whole.nbytes)
        bases: list[Base | None] = []
        for one, raw, old in zip(new, parts(whole, lengths), parts(older, lengths), strict=True):
            base = self._base(one, old)
            if base is not None and tensor not in gains:
                gains[tensor] = scratch.coder.gains(raw, dtype, self._preset, old)
                if not gains[tensor]:
                    return whole, [None] * len(new)
            bases.append(base)
        return older, bases

    def _base(self, new: _New, old: memoryview) -> Base | None:
        """What a chunk may be kept against, its bytes in `old`; None where no earlier version is here and sound."""
        if new.piece.before is None:
            return None
        objects = self._store.objects
        try:
            before = objects.locate(new.piece.before)
            base = None if before is None else base_for(before, new.length, self._preset, objects.locate)
            if base is not None:
                objects.read_base(base.location, old)
        except Integrity:
            return None
        return base


class _New(NamedTuple):
    """A chunk that is to be stored."""

    kind: Kind
    id: bytes
    piece: Piece
    length: int


def _frame(new: _New, encoded: Encoded) -> Frame:
    codec, width, _, stored, busy = encoded
    return Frame(new.kind, codec, width, new.id, new.length, stored, NO_ID, 0, busy)


def _batches(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Runs of pieces of one tensor, few enough that the work on them stays near the processor."""
    for _, run in groupby(pieces, key=lambda piece: (piece.tensor, piece.stream)):
        group = list(run)
        for start in range(0, len(group), _BATCH):
            yield group[start : start + _BATCH]


def _check_unchanged(new: Sequence[_New], whole: memoryview) -> None:
    """Raise `InvalidInput` unless the chunks that lie in `whole` are those that were hashed."""
    raws = parts(whole, [one.length for one in new])
    if any(object_id(one.kind, raw) != one.id for one, raw in zip(new, raws, strict=True)):
        raise InvalidInput(
            "the state changed while it was being committed", hint="commit between steps, or commit a copy"
        )


def _refused(view: View, moves: Sequence[RefMove]) -> RefMove | None:
    """The first of `moves` whose ref is not at its `old` any more, or None."""
    for move in moves:
        if view.ref(move.name) != move.old:
            return move
    return None
