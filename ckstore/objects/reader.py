"""What reads objects by id: the local store, a remote, a test's dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckstore.digest import Kind
from ckstore.errors import Format, InvalidInput
from ckstore.objects.encoding import decode_page, decode_tree
from ckstore.objects.leaf import Chunks
from ckstore.objects.tree import MAX_CHUNK_SIZE, MAX_ENTRIES, Entry, Tree, check_run, split_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.objects.leaf import Blob


class MetaReader(Protocol):
    """Reads verified trees and commits."""

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of an object. Raises `Integrity` for a damaged or absent one."""


class ObjectReader(MetaReader, Protocol):
    """Reads verified objects. Every method raises `Integrity` for a damaged or absent object."""

    def read_into(self, id: bytes, target: memoryview) -> None:
        """Fill `target`, exactly as long as the chunk, with the chunk's raw bytes."""

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        """`read_into` for many chunks at once, on as many threads as the reader has."""


def read_tree(reader: ObjectReader, id: bytes) -> Tree:
    """The tree named `id` with its pages joined: `entries` is whole, `pages` stays as it was."""
    tree = decode_tree(reader.read(Kind.TREE, id))
    if not 0 < tree.chunk_size <= MAX_CHUNK_SIZE:
        raise Format(f"a tree claims chunks of {tree.chunk_size} bytes")
    for slab in tree.slabs:
        check_run(slab.length, slab.ids, tree.chunk_size)
    if not tree.pages:
        return tree
    if sum(ref.count for ref in tree.pages) > MAX_ENTRIES or min(ref.count for ref in tree.pages) < 1:
        raise Format(f"a tree claims more than {MAX_ENTRIES} entries, or an empty page")
    entries: list[Entry] = list(tree.entries)
    for ref in tree.pages:
        page = decode_page(reader.read(Kind.TREE, ref.id))
        if len(page.entries) != ref.count:
            raise Format("a page of a tree holds another number of entries than the tree says")
        entries += page.entries
    return Tree(tree.chunk_size, tree.slabs, tuple(entries), tree.pages)


def read_blob(reader: ObjectReader, blob: Blob, chunk_size: int) -> bytes | bytearray:
    """The bytes of a leaf's payload. Raises `InvalidInput` where memory does not suffice."""
    if not isinstance(blob, Chunks):
        return blob
    check_run(blob.length, blob.ids, chunk_size)
    try:
        data = bytearray(blob.length)
    except MemoryError as error:
        raise InvalidInput(f"a value needs {blob.length} bytes of memory, which are not there") from error
    reader.fill(run_requests(blob.length, blob.ids, chunk_size, memoryview(data)))
    return data


def run_requests(length: int, ids: bytes, chunk_size: int, target: memoryview) -> list[tuple[bytes, memoryview]]:
    """The `fill` requests that bring a run of chunks into `target`, which is `length` bytes long."""
    check_run(length, ids, chunk_size)
    starts = range(0, length, chunk_size)
    return [(id, target[start : start + chunk_size]) for start, id in zip(starts, split_ids(ids), strict=True)]
