"""Whether what was recorded since a sweep was planned still finds what it relies on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.digest import Kind
from ckstore.graph.history import unseen
from ckstore.graph.reachability import objects_of_tree
from ckstore.objects.encoding import decode_commit
from ckstore.storage.collector import Outdated

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckstore.repository import Repository
    from ckstore.storage.record import Record
    from ckstore.storage.standing import Standing


class Since:
    """Called under the repository lock with the records since the last call. Raises `Outdated`.

    `known` are the commits that were walked, `dropped` those of them that lose something.
    """

    def __init__(
        self, repository: Repository, standing: Standing, known: Collection[bytes], dropped: Collection[bytes]
    ) -> None:
        self._repository = repository
        self._standing = standing
        self._known = set(known)
        self._dropped = dropped

    def __call__(self, records: Sequence[Record]) -> None:
        """Check packs, commits and refs of `records`."""
        store = self._repository.store
        for record in records:
            for entry in record.packs:
                if self._standing.breaks(store, entry):
                    raise _outdated("a commit made meanwhile is kept against what was to go")
            for move in record.refs:
                if isinstance(move.new, bytes):
                    if move.new in self._dropped:
                        raise _outdated(f"{move.name} was put on a commit that was to be dropped")
                    self._check_commits(move.new)

    def _check_commits(self, tip: bytes) -> None:
        """Walk what is new of a history: all its objects must stay."""
        store = self._repository.store
        objects = store.objects
        for id, commit in unseen([tip], self._known, lambda id: decode_commit(objects.read(Kind.COMMIT, id))):
            holes = store.ask(lambda view, id=id: view.holes_of(id))  # type: ignore[misc]
            trees = [component.tree for component in commit.named() if component.name not in holes]
            needed = {one for tree in trees for _, one in objects_of_tree(objects, tree)}
            if self._standing.lacks([id, *needed]):
                raise _outdated(f"{id.hex()[:12]}, committed meanwhile, needs what was to go")


def _outdated(what: str) -> Outdated:
    return Outdated(what, hint="run gc again")
