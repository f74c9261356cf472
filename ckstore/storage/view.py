"""What an index says at one moment: rows that each carry a checksum over their table, key and value."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from ckstore.digest import CHECKSUM_SIZE, ID_SIZE, NO_ID, checksum
from ckstore.errors import Format
from ckstore.storage.chain import suits
from ckstore.storage.environment import TABLES, IndexDamaged
from ckstore.storage.journal import Cursor
from ckstore.storage.location import Location, from_row
from ckstore.storage.record import Condemned, Hole, PackEntry, Ref, Snapshot, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.storage.environment import Table, Transaction

PACK = struct.Struct("<Q32sQ")
CONDEMNED = struct.Struct("<32sQQ")
CURSOR = struct.Struct("<QQQ32s")
CURSOR_KEY = b"cursor"
REPOSITORY_KEY = b"repository"
GENERATION_KEY = b"generation"

_TARGET: msgspec.msgpack.Decoder[Target] = msgspec.msgpack.Decoder(Target)


class View:
    """The index as it was at one moment."""

    def __init__(self, transaction: Transaction, tables: dict[str, Table]) -> None:
        self._transaction = transaction
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a row, or None. Raises `IndexDamaged`."""
        stored = self._transaction.get(key, db=self._tables[table])
        return None if stored is None else _opened(table, key, bytes(stored))

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table in order of key. Raises `IndexDamaged`, also where there are fewer than there must be."""
        count = 0
        for key, stored in self._transaction.cursor(db=self._tables[table]):
            count += 1
            yield bytes(key), _opened(table, bytes(key), bytes(stored))
        if count != self._transaction.stat(self._tables[table])["entries"]:
            raise IndexDamaged(f"the index table {table} has lost rows")

    def check(self) -> None:
        """Read all rows and look each up: also what holds rows together may be damaged. Raises `IndexDamaged`."""
        for table in TABLES:
            for key, _ in self.rows(table):
                if self.get(table, key) is None:
                    raise IndexDamaged(f"the index row {table}/{key.hex()[:16]} cannot be looked up")

    def cursor(self, repository_id: bytes) -> Cursor | None:
        """How far the journal of that repository was followed."""
        value = self.get("meta", CURSOR_KEY)
        if value is None or self.get("meta", REPOSITORY_KEY) != repository_id:
            return None
        segment, offset, seq, hash = CURSOR.unpack(value)
        return Cursor(segment, offset, seq, hash)

    def moment(self, repository_id: bytes) -> tuple[int, bytes | None]:
        """Where in the journal the index is, and what changes when it is made anew: rows go only with one of both."""
        cursor = self.cursor(repository_id)
        return cursor.seq if cursor else -1, self.get("meta", GENERATION_KEY)

    def locate(self, id: bytes) -> Location | None:
        """Where object `id` lies, or None."""
        value = self.get("frames", id)
        return None if value is None else located(id, value)

    def can_read(self, id: bytes) -> bool:
        """Whether object `id` has a row, and so has what it is kept against, and so on.

        While gc takes packs one after another, frames that nothing needs may lose their bases before they go too.
        """
        place = self.locate(id)
        while place is not None and place.frame.base != NO_ID:
            base = self.locate(place.frame.base)
            place = base if base is not None and suits(base.frame, place.frame) else None
        return place is not None

    def locations(self) -> Iterator[Location]:
        """Every object's place."""
        for id, value in self.rows("frames"):
            yield located(id, value)

    def spares(self) -> Iterator[Location]:
        """The frames that no object's row names: other frames of it, or those that cannot be read."""
        for key, value in self.rows("spares"):
            yield located(key[:ID_SIZE], value)

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
        found = [(*PACK.unpack(value), name) for name, value in self.rows("packs")]
        return [PackEntry(name, digest, size) for _, digest, size, name in sorted(found)]

    def order(self, pack: bytes) -> int:
        """The number of a pack in the order they came; of an unknown one a number past all."""
        value = self.get("packs", pack)
        return 1 << 64 if value is None else int(PACK.unpack(value)[0])

    def condemned(self) -> list[Condemned]:
        """Packs that are not used any more and whose files are still there."""
        found = [(name, CONDEMNED.unpack(value)) for name, value in self.rows("condemned")]
        return [Condemned(PackEntry(name, digest, size), since_ns) for name, (digest, size, since_ns) in found]

    def hole(self, commit: bytes, component: str) -> str | None:
        """Why the data of a commit's component is absent here; None where it is not known to be."""
        reason = self.get("holes", commit + component.encode())
        return None if reason is None else reason.decode()

    def holes_of(self, commit: bytes) -> dict[str, str]:
        """The absent components of a commit, and why."""
        found = self.beginning("holes", commit)
        return {key[ID_SIZE:].decode(): value.decode() for key, value in found}

    def holes(self) -> list[Hole]:
        """All that is known to be absent here."""
        return [Hole(key[:ID_SIZE], key[ID_SIZE:].decode(), value.decode()) for key, value in self.rows("holes")]

    def snapshot(self) -> Snapshot:
        """What a new journal segment begins with."""
        refs = tuple(Ref(name, target) for name, target in sorted(self.refs().items()))
        return Snapshot(tuple(self.packs()), refs, tuple(self.holes()), tuple(self.condemned()))

    def beginning(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
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


def located(id: bytes, value: bytes) -> Location:
    """The place that a row of frames or spares says."""
    try:
        return from_row(id, value)
    except (struct.error, Format):
        raise IndexDamaged(f"the index row frames/{id.hex()[:16]} is of another version") from None


def _opened(table: str, key: bytes, stored: bytes) -> bytes:
    value = stored[:-CHECKSUM_SIZE]
    if checksum(table.encode(), key, value) != stored[-CHECKSUM_SIZE:]:
        raise IndexDamaged(f"the index row {table}/{key.hex()[:16]} is damaged")
    return value
