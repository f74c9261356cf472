"""Frames that were made elsewhere, on their way in: W1 to W5 for what is fetched.

Nothing is believed: every object is decoded and hashed before a record names the packs that hold it. Most are as they
come, from the bytes in memory that are then written, as those of a save are; what hangs on a frame that comes too is
read back from the sealed packs. What frames are kept against must be here, or come with them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.digest import NO_ID, Kind
from ckstore.errors import Conflict, Integrity
from ckstore.storage.arrival import Arrival
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.follower import NewPack
from ckstore.storage.location import Location
from ckstore.storage.object_store import ObjectStore
from ckstore.storage.pack_file import PackFile
from ckstore.storage.packer import Packer
from ckstore.storage.record import PackEntry, Record
from ckstore.storage.workers import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType
    from typing import Self

    from ckstore.pack.format import Frame
    from ckstore.pack.writer import Sealed
    from ckstore.storage.packer import Pieces
    from ckstore.storage.store import Store


class Adoption:
    """Some frames to adopt, all or none; a context manager. Nothing it did can be seen before `publish` returns."""

    def __init__(self, store: Store) -> None:
        store.check_writable()
        self._store = store
        self._folder = store.layout.tmp / os.urandom(8).hex()
        self._arrival = Arrival(store.objects)
        self._commits: dict[bytes, bytes] = {}
        self._unread: set[Frame] = set()
        """What could not be verified yet when it came."""

    def __enter__(self) -> Self:
        self._owner = self._store.scratch.open(self._folder)
        self._packer = Packer(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._packer.discard()
        self._store.scratch.close(self._folder, self._owner, failed=error is not None)

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Take a frame in, verified now if what it hangs on is here. May be called by many threads.

        What `payload` is pieces of may be overwritten afterwards. Raises `Integrity` where the object is not what its
        id says: nothing of this adoption must be published then.
        """
        data = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
        raw = self._arrival.raw(frame, data)
        if raw is None:
            self._unread.add(frame)
        elif frame.kind is Kind.COMMIT:
            self._commits[frame.id] = bytes(raw)
        self._packer.add(stream, frame, (data,))

    def publish(self, record: Record, check: Callable[[], None] = lambda: None) -> int | None:
        """Record what was added, with what `record` says besides; the record's number, None where it says nothing.

        `check` may refuse under the lock. Raises `Integrity` where an object is not what its id says: nothing is
        adopted then. Raises `Conflict` where something that frames are kept against has gone, or a ref is not at its
        `old` any more: try again.
        """
        store = self._store
        packs = self._packer.finish(store.workers)
        _Verifying(store, self._packer, packs, self._unread).run()
        with store.locked():
            store.catch_up()
            check()
            self._check_places(packs, record)
            for pack in packs:
                durable.rename(self._packer.part(pack.name), store.layout.pack(pack.name))
            if packs:
                durable.sync_folder(store.layout.packs)
                durable.sync_folder(self._folder)
            entries = [PackEntry(pack.name, pack.digest, pack.size_bytes) for pack in packs]
            said = Record(
                record.time_ns, record.reason, (*record.packs, *entries), record.refs, record.holes, record.filled
            )
            if not (said.packs or said.refs or said.holes or said.filled):
                return None
            new = [
                NewPack(
                    entry,
                    pack.rows,
                    {row.frame.id: self._commits[row.frame.id] for row in pack.rows if row.frame.kind is Kind.COMMIT},
                )
                for pack, entry in zip(packs, entries, strict=True)
            ]
            return store.record(said, new)

    def _check_places(self, packs: Sequence[Sealed], record: Record) -> None:
        """Raise `Conflict` unless bases and refs are still where they were (**W3**)."""
        own = {row.frame.id for pack in packs for row in pack.rows}
        hanging = [row.frame for pack in packs for row in pack.rows if row.frame.base not in own | {NO_ID}]
        with self._store.index.reading() as view:
            for frame in hanging:
                base = view.locate(frame.base)
                if base is None or not suits(base.frame, frame) or not view.can_read(frame.base):
                    raise Conflict("what was fetched relies on what gc has taken meanwhile", hint="try again")
            for move in record.refs:
                if view.ref(move.name) != move.old:
                    raise Conflict(f"{move.name} was moved by another writer", hint="try again")


class _Verifying:
    """Decodes and hashes some of what sealed packs hold, which do not lie with the others yet."""

    def __init__(self, store: Store, packer: Packer, packs: Sequence[Sealed], unread: Collection[Frame]) -> None:
        self._store = store
        rows = [Location(pack.name, row.offset, row.frame) for pack in packs for row in pack.rows] if unread else []
        self._unread = [place for place in rows if place.frame in unread]
        self._own: dict[bytes, Location] = {}
        for place in rows:
            other = self._own.get(place.frame.id)
            if other is None or place.frame.version < other.frame.version:
                self._own[place.frame.id] = place
        files = _Files(store, packer, {pack.name for pack in packs})
        self._objects = ObjectStore(store.ask, files, store.workers, store.refresh)

    def run(self) -> None:
        """Verify them. Raises `Integrity`, or `Conflict` where what they hang on has gone."""
        self._store.workers.map(self._verify, jobs(self._unread, lambda place: place.frame.raw_length))

    def _verify(self, job: Sequence[Location]) -> None:
        for place in job:
            try:
                self._objects.read_along(self._chain(place))
            except FileNotFoundError:
                raise Conflict("what was fetched relies on what gc has taken meanwhile", hint="try again") from None

    def _chain(self, place: Location) -> Sequence[Location]:
        """A frame and those it needs: of the new ones as far as they go."""
        chain = [place]
        while chain[-1].frame.base != NO_ID:
            frame = chain[-1].frame
            base = self._own.get(frame.base)
            if base is not None and suits(base.frame, frame):
                chain.append(base)
            else:
                rest = self._store.objects.chain(frame.base)
                if not rest or not suits(rest[0].frame, frame):
                    raise Conflict("what was fetched relies on what gc has taken meanwhile", hint="try again")
                chain += rest
                break
        if len(chain) > DEEPEST + 1:
            raise Integrity(f"object {place.frame.id.hex()} is at the end of too long a chain")
        return chain


class _Files:
    """Pack files by name: sealed ones from where they wait, others from the repository."""

    def __init__(self, store: Store, packer: Packer, sealed: set[bytes]) -> None:
        self._store = store
        self._packer = packer
        self._sealed = sealed
        self._open: dict[bytes, PackFile] = {}

    def get(self, name: bytes) -> PackFile:
        """The pack `name`. Raises OSError."""
        if name not in self._sealed:
            return self._store.packs.get(name)
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = PackFile(self._packer.part(name))
        return file

    def forget(self, name: bytes) -> None:
        """Open `name` anew next time."""
        self._store.packs.forget(name)
