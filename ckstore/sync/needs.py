"""What commits need: every object they name, and in which stream of packs it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import Kind
from ckstore.graph.reachability import runs_of_tree
from ckstore.objects.tree import split_ids
from ckstore.storage.packer import META

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckstore.objects.commit import Commit
    from ckstore.objects.reader import MetaReader


class Need(NamedTuple):
    """An object's kind, the component it belongs to (`META` for trees and commits), and what numbers in it are."""

    kind: Kind
    stream: str
    dtype: str


def needs_of(
    reader: MetaReader, commits: Iterable[tuple[bytes, Commit]], is_hole: Callable[[bytes, str], bool]
) -> dict[bytes, Need]:
    """What commits and the components that are no holes need, in the order in which they come.

    Raises `Integrity` or `Format` where a tree cannot be read.
    """
    found: dict[bytes, Need] = {}
    trees: dict[bytes, str] = {}
    for id, commit in commits:
        found.setdefault(id, Need(Kind.COMMIT, META, "uint8"))
        for component in commit.named():
            if not is_hole(id, component.name):
                trees.setdefault(component.tree, component.name)
    for tree, name in trees.items():
        add_tree(found, reader, tree, name)
    return found


def add_tree(found: dict[bytes, Need], reader: MetaReader, tree: bytes, component: str) -> None:
    """Add what a tree needs."""
    for run in runs_of_tree(reader, tree):
        stream = component if run.kind is Kind.CHUNK else META
        for one in split_ids(run.ids):
            found.setdefault(one, Need(run.kind, stream, run.dtype))
