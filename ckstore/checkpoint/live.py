"""What branches, tags and other refs lead to, marked in an inventory of the packs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.digest import Kind
from ckstore.errors import Integrity
from ckstore.graph.reachability import runs_of_tree
from ckstore.objects.commit import SERIES
from ckstore.storage.inventory import Live, Marker
from ckstore.storage.packer import META

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckstore.objects.commit import Commit
    from ckstore.repository import Repository
    from ckstore.storage.inventory import Inventory


def mark(
    repository: Repository,
    inventory: Inventory,
    commits: Mapping[bytes, Commit],
    tips: Collection[bytes],
    is_hole: Callable[[bytes, str], bool],
) -> Live:
    """Mark `commits`, the newest first, and the trees and chunks of their components, but for what `is_hole` says.

    Raises `Integrity` where an object is missing: what cannot be walked must not be judged.
    """
    everything, newest = Marker(inventory), Marker(inventory)
    everything.add(b"".join(commits), META, "", 0)
    walked: set[bytes] = set()
    for rank, (id, commit) in enumerate(commits.items()):
        trees = {entry.tree: entry.name for entry in commit.named() if not is_hole(id, entry.name)}
        for tree, named in trees.items():
            name = META if named == SERIES else named
            if tree not in walked or id in tips:
                walked.add(tree)
                for run in runs_of_tree(repository.store.objects, tree):
                    component, dtype = (name, run.dtype) if run.kind is Kind.CHUNK else (META, "")
                    everything.add(run.ids, component, dtype, rank)
                    if id in tips:
                        newest.add(run.ids, component, dtype, rank)
    marked = everything.flush()
    _check_whole(everything.missing)
    newest.flush()
    return Live(marked, newest.label >= 0, everything.label, everything.rank, everything.labels)


def _check_whole(missing: Collection[bytes]) -> None:
    if missing:
        some = ", ".join(id.hex()[:16] for id in list(missing)[:3])
        raise Integrity(
            f"{len(missing)} objects that commits need are missing: {some}",
            why="where something is missing nothing is removed",
            hint="`ckstore verify` lists what is lost; `ckstore repair` notes it, then gc goes on",
        )
