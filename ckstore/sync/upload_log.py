"""Which packs have been sent and belong to no root yet: a second try goes on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from ckstore.digest import checksum
from ckstore.errors import Format
from ckstore.pack import format as pack_format
from ckstore.remote.segment import Place, RemotePack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.pack.format import Row
    from ckstore.pack.writer import Sealed
    from ckstore.sync.local import Notes

_PREFIX = "upload-"


class _Entry(Struct, frozen=True, array_like=True):
    name: bytes
    digest: bytes
    size_bytes: int
    table: bytes


_DECODER = msgspec.msgpack.Decoder(_Entry)


class Uploaded(NamedTuple):
    """A pack that lies on the remote, and what is in it."""

    pack: RemotePack
    rows: Sequence[Row]

    def places(self) -> Iterator[Place]:
        """Where its frames lie."""
        return (Place(self.pack.name, row.offset, row.frame) for row in self.rows)


class UploadLog:
    """The packs that this repository has sent to one remote since it last moved its root."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def add(self, pack: Sealed) -> None:
        """Note a pack, once all of it lies on the remote."""
        data = msgspec.msgpack.encode(_Entry(*pack[:3], pack_format.table(list(pack.rows))))
        self._notes.write(_PREFIX + pack.name.hex(), checksum(data) + data)

    def entries(self) -> list[Uploaded]:
        """What is noted; what cannot be read is left out."""
        found = [self._read(name) for name in self._notes.names() if name.startswith(_PREFIX)]
        return [entry for entry in found if entry is not None]

    def drop(self, names: Sequence[bytes]) -> None:
        """Forget packs."""
        for name in names:
            self._notes.delete(_PREFIX + name.hex())

    def _read(self, name: str) -> Uploaded | None:
        data = self._notes.read(name)
        if data is None or checksum(data[8:]) != data[:8]:
            return None
        try:
            entry = _DECODER.decode(data[8:])
            rows = pack_format.read_table(entry.table, entry.size_bytes)
        except (msgspec.MsgspecError, Format):
            return None
        return Uploaded(RemotePack(entry.name, entry.digest, entry.size_bytes), rows)
