"""What a commit needs: every tree, page and chunk it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import ID_SIZE, Kind
from ckstore.errors import Format
from ckstore.objects.encoding import decode_page, decode_tree
from ckstore.objects.tree import Tensor, run_of, split_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.objects.reader import MetaReader
    from ckstore.objects.tree import Entry


class Run(NamedTuple):
    """Objects of one kind, by their ids one after another; `dtype` is what numbers in chunks are."""

    kind: Kind
    ids: bytes
    dtype: str = "uint8"


def runs_of_tree(reader: MetaReader, id: bytes) -> Iterator[Run]:
    """A tree, its pages and the chunks they name, each as often as it is named.

    Raises `Integrity` or `Format` where the tree or a page cannot be read.
    """
    yield Run(Kind.TREE, id)
    tree = decode_tree(reader.read(Kind.TREE, id))
    for slab in tree.slabs:
        yield _run(slab.ids, slab.dtype)
    yield from _runs(tree.entries)
    for ref in tree.pages:
        yield Run(Kind.TREE, ref.id)
        yield from _runs(decode_page(reader.read(Kind.TREE, ref.id)).entries)


def objects_of_tree(reader: MetaReader, id: bytes) -> Iterator[tuple[Kind, bytes]]:
    """`runs_of_tree`, one by one."""
    for run in runs_of_tree(reader, id):
        yield from ((run.kind, one) for one in split_ids(run.ids))


def _runs(entries: tuple[Entry, ...]) -> Iterator[Run]:
    for entry in entries:
        ids = run_of(entry.value)
        if ids:
            yield _run(ids, entry.value.dtype if isinstance(entry.value, Tensor) else "uint8")


def _run(ids: bytes, dtype: str) -> Run:
    if len(ids) % ID_SIZE:
        raise Format("a tree names a part of a chunk's id")
    return Run(Kind.CHUNK, ids, dtype)
