"""What a commit needs: every tree, page and chunk it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.digest import Kind
from ckstore.objects.encoding import decode_page, decode_tree
from ckstore.objects.tree import spans, split_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.tree import Entry


def objects_of_tree(reader: ObjectReader, id: bytes) -> Iterator[tuple[Kind, bytes]]:
    """A tree, its pages and the chunks they name, each as often as it is named.

    Raises `Integrity` or `Format` where the tree or a page cannot be read.
    """
    yield Kind.TREE, id
    tree = decode_tree(reader.read(Kind.TREE, id))
    for slab in tree.slabs:
        yield from ((Kind.CHUNK, chunk) for chunk in split_ids(slab.ids))
    yield from _chunks(tree.entries)
    for ref in tree.pages:
        yield Kind.TREE, ref.id
        yield from _chunks(decode_page(reader.read(Kind.TREE, ref.id)).entries)


def _chunks(entries: tuple[Entry, ...]) -> Iterator[tuple[Kind, bytes]]:
    for entry in entries:
        for chunk in spans(entry.value):
            yield Kind.CHUNK, chunk
