"""Follows the journal: what each of its frames does to an index."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckstore.digest import NO_ID, Kind, checksum
from ckstore.storage.chain import suits
from ckstore.storage.location import Location, lies_at, to_row
from ckstore.storage.record import PackEntry, Record, Ref, Snapshot, Target
from ckstore.storage.view import CONDEMNED, CURSOR, CURSOR_KEY, PACK, REPOSITORY_KEY, View, located

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ckstore.pack.format import Frame, Row
    from ckstore.storage.journal import JournalFrame

_SEQ = struct.Struct(">Q")
_OFFSET = struct.Struct(">Q")
_PACK_COUNT = b"packs"


class NewPack(NamedTuple):
    """A pack to index: its entry, its rows, and the canonical bytes of the commits in it."""

    entry: PackEntry
    rows: Sequence[Row]
    commits: dict[bytes, bytes]


PackRows = Callable[[PackEntry, bool], NewPack | None]
"""Gives what is in a pack; None where it cannot be read at all, which the flag says to warn of."""


class Follower(View):
    """Follows journal frames inside one write transaction.

    Of several frames of one object the row is the one of the lowest version that can be read, of those the first that
    came: so that whatever order packs come and go in, an index that followed equals one made anew, and what is kept
    against an object can be read whichever of its frames has the row. The others are spares.
    """

    def follow_all(self, frames: Sequence[JournalFrame], packs: PackRows, repository_id: bytes) -> None:
        self._passing = _passing([frame.content for frame in frames])
        self._waiting: dict[bytes, list[Location]] = {}  # for the base they lack, which may come later
        for frame in frames:
            self._follow(frame, packs)
        for places in self._waiting.values():
            for place in places:
                self._put_spare(place)
        self.put("meta", REPOSITORY_KEY, repository_id)
        self.put("meta", CURSOR_KEY, CURSOR.pack(*frames[-1].end))

    def _follow(self, frame: JournalFrame, packs: PackRows) -> None:
        content = frame.content
        known = {entry.name for entry in self.packs()} if isinstance(content, Snapshot) else set()
        if isinstance(content, Snapshot):
            for table in ("journal", "holes", "condemned"):
                self._transaction.drop(self._tables[table], delete=False)
            named = {entry.name for entry in content.packs}
            self._drop_packs([entry for entry in self.packs() if entry.name not in named], packs)
            self._add_packs([entry for entry in content.packs if entry.name not in known], packs)
            self._set_refs(content.refs)
        else:
            if any(self.get("condemned", entry.name) for entry in content.packs):
                self._promote({place.frame.id for place in self.spares()})  # what lacks its base waits for it again
            self._add_packs(content.packs, packs)
            self._move_refs(content)
            for filled in content.filled:
                self._delete("holes", filled.commit + filled.component.encode())
            for name in content.removed:
                self._delete("condemned", name)
        if not isinstance(content, Snapshot):
            self._drop_packs([one.pack for one in content.condemned], packs)
        for one in content.condemned:
            self.put("condemned", one.pack.name, CONDEMNED.pack(one.pack.digest, one.pack.size_bytes, one.since_ns))
        for hole in content.holes:
            self.put("holes", hole.commit + hole.component.encode(), hole.reason.encode())
        self.put("journal", _SEQ.pack(frame.end.seq), frame.raw)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value + checksum(table.encode(), key, value), db=self._tables[table])

    def _delete(self, table: str, key: bytes) -> None:
        self._transaction.delete(key, db=self._tables[table])

    def _add_packs(self, entries: Sequence[PackEntry], packs: PackRows) -> None:
        for entry in entries:
            order = int.from_bytes(self.get("meta", _PACK_COUNT) or b"", "big")
            self.put("packs", entry.name, PACK.pack(order, entry.digest, entry.size_bytes))
            self.put("meta", _PACK_COUNT, (order + 1).to_bytes(8, "big"))
            self._delete("condemned", entry.name)
            new = None if entry.name in self._passing else packs(entry, True)
            if new is None:
                continue
            for row in new.rows:
                self._add(Location(entry.name, row.offset, row.frame))
            for id, data in new.commits.items():
                self.put("commits", id, data)

    def _add(self, place: Location) -> None:
        """Index a frame that can be read and is the best of its object; then those that wait for it."""
        ready = [place]
        while ready:
            place = ready.pop()
            id = place.frame.id
            if not self._is_readable(place):
                self._wait(place)
                continue
            other = self.locate(id)
            if other is not None:
                if self._rank(other) <= self._rank(place) and self.can_read(id):
                    self._put_spare(place)
                    continue
                self._put_spare(other)
            self.put("frames", id, to_row(place))
            ready += self._waiting.pop(id, [])

    def _wait(self, place: Location) -> None:
        self._waiting.setdefault(place.frame.base, []).append(place)

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

    def _drop_packs(self, entries: Sequence[PackEntry], packs: PackRows) -> None:
        """Forget packs and their frames; where another pack has a spare of an object, that gets the row."""
        lost = [frame for entry in entries for frame in self._dropped(entry, packs)]
        self._promote({frame.id for frame in lost})
        for frame in lost:
            if frame.kind is Kind.COMMIT and self.get("frames", frame.id) is None:
                self._delete("commits", frame.id)

    def _dropped(self, entry: PackEntry, packs: PackRows) -> list[Frame]:
        """Forget a pack and its frames; those that had rows."""
        self._delete("packs", entry.name)
        for base, waiting in list(self._waiting.items()):
            self._waiting[base] = [place for place in waiting if place.pack != entry.name]
        dropped = packs(entry, False)
        if dropped is not None:
            places = [Location(entry.name, row.offset, row.frame) for row in dropped.rows]
        else:
            places = [place for place in self._all() if place.pack == entry.name]
        spares = self._transaction.stat(self._tables["spares"])["entries"]
        lost = []
        for place in places:
            if spares:
                self._delete("spares", _spare_key(place))
            row = self.get("frames", place.frame.id)
            if row is not None and lies_at(row, place):
                self._delete("frames", place.frame.id)
                lost.append(place.frame)
        return lost

    def _all(self) -> Iterator[Location]:
        """Every frame, with a row or spare."""
        yield from list(self.locations())
        yield from list(self.spares())

    def _promote(self, ids: Collection[bytes]) -> None:
        """Give the rows of objects to the best of their spares: in the order of those, as one may need another."""
        if not self._transaction.stat(self._tables["spares"])["entries"]:
            return
        spares = [located(id, value) for id in ids for _, value in self.beginning("spares", id)]
        for place in sorted(spares, key=self._rank):
            if self.get("frames", place.frame.id) is not None:
                continue
            self._delete("spares", _spare_key(place))
            if self._is_readable(place):
                self.put("frames", place.frame.id, to_row(place))
            else:
                self._wait(place)

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
