"""Objects in a dictionary: an ObjectReader for tests, and a way to get everything a repository holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.digest import Kind
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ckstore


class MemoryReader:
    """Reads objects from `objects`, by kind and id."""

    def __init__(self, objects: dict[tuple[Kind, bytes], bytes]) -> None:
        self.objects = objects

    def read(self, kind: Kind, id: bytes) -> bytes:
        try:
            return self.objects[kind, id]
        except KeyError:
            raise Integrity(f"object {id.hex()} is missing") from None

    def read_into(self, id: bytes, target: memoryview) -> None:
        data = self.read(Kind.CHUNK, id)
        if len(data) != target.nbytes:
            raise Integrity(f"object {id.hex()} is not a chunk of {target.nbytes} bytes")
        target[:] = data

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        for id, target in requests:
            self.read_into(id, target)


def everything(repo: ckstore.Repo) -> dict[tuple[Kind, bytes], bytes]:
    """All objects of a repository."""
    store = repo._repository.store
    with store.index.reading() as view:
        locations = list(view.locations())
    return {(one.frame.kind, one.frame.id): store.objects.read_at(one) for one in locations}
