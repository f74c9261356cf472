"""Whether commits that no ref leads to are still whole: gc may be taking them away while a ref is put on one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckstore.errors import Conflict, Format, Integrity
from ckstore.graph.reachability import objects_of_tree
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository
    from ckstore.storage.record import Target


def whole_check(repository: Repository, commits: Commits, targets: Iterable[bytes]) -> Callable[[], None]:
    """A check, to be made under the lock, that histories of `targets` which nothing leads to by then are all here.

    It raises `Conflict`.
    """
    wanted = set(targets)
    if wanted - set(commits.refs.values()):
        _reached(commits.targets, commits)  # reads what the check will ask for

    def check() -> None:
        refs = repository.store.ask(View.refs)
        loose = wanted - set(refs.values())
        if not loose:
            return
        seen = _reached(refs, commits)
        pending = list(loose)
        while pending:
            id = pending.pop()
            if id in seen:
                continue
            seen.add(id)
            try:
                commit = commits.read_commit(id)
                if repository.store.objects.known([id]) and is_whole(repository, id, commit):
                    pending += commit.parents
                    continue
            except (Integrity, Format):
                pass
            raise Conflict(
                f"{id.hex()[:12]}, which no branch or tag led to, is not whole any more",
                why="gc has taken some of its data away",
                hint="`ckstore undo NUMBER` brings back what is still there; `ckstore reflog` shows what moved",
            )

    return check


def _reached(refs: Mapping[str, Target], commits: Commits) -> set[bytes]:
    """The commits that refs lead to, as far as they can be read."""
    pending = [target for target in refs.values() if isinstance(target, bytes)]
    found: set[bytes] = set()
    while pending:
        id = pending.pop()
        if id not in found:
            found.add(id)
            with suppress(Integrity, Format):
                pending += commits.read_commit(id).parents
    return found


def is_whole(repository: Repository, id: bytes, commit: Commit) -> bool:
    """Whether everything that a commit names is known, but for what is known to be absent."""
    holes = repository.store.ask(lambda view: view.holes_of(id))
    trees = [component.tree for component in commit.named() if component.name not in holes]
    return all(has_component(repository, tree) for tree in trees)


def has_component(repository: Repository, tree: bytes) -> bool:
    """Whether a tree and everything that it names is known."""
    objects = repository.store.objects
    if not objects.known([tree]):
        return False
    needed = {one for _, one in objects_of_tree(objects, tree)}
    return len(objects.known(needed)) == len(needed)
