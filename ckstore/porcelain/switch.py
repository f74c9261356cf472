"""switch: move HEAD to a branch, a new branch, or a commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import move_refs
from ckstore.errors import InvalidInput
from ckstore.graph.revision import check_ref_name, resolve
from ckstore.storage.record import HEAD, HEADS, RefMove, Symbolic

if TYPE_CHECKING:
    from ckstore.repository import Commits, Repository


@dataclass(frozen=True)
class SwitchOptions:
    """`target` is a branch, or the revision of a commit; with `create` a new branch, which begins at `start`.

    With `dry_run` nothing moves.
    """

    target: str
    now_ns: int
    create: bool = False
    start: str = "HEAD"
    dry_run: bool = False


@dataclass(frozen=True)
class SwitchResult:
    """HEAD now stands on `branch`, or on none, and on the commit `id` (None: the branch has none yet).

    `before` names the branch it left; `record` is what `undo` takes back, None where nothing moved.
    """

    branch: str | None
    id: str | None
    before: str | None
    record: int | None


def switch(repository: Repository, options: SwitchOptions) -> SwitchResult:
    """Move HEAD; no file is touched.

    A commit that is no branch's name leaves HEAD on no branch: commits must name one then. Raises `NoRevision`,
    `InvalidInput` for a name that is none or taken, `Conflict`.
    """
    commits = repository.commits()
    old = commits.targets.get(HEAD)
    before = old.name.removeprefix(HEADS) if isinstance(old, Symbolic) else None
    if options.create:
        branch, id, moves = _create(commits, options)
    elif options.target in commits.branches:
        branch, id, moves = options.target, commits.branches[options.target], []
    else:
        branch, id, moves = None, resolve(options.target, commits, options.now_ns), []
    new = id if branch is None else Symbolic(HEADS + branch)
    if old != new:
        moves.append(RefMove(HEAD, old, new))
    moved = move_refs(repository, "checkout", options.now_ns, moves, dry_run=options.dry_run)
    return SwitchResult(branch, None if id is None else id.hex(), before, moved.record)


def _create(commits: Commits, options: SwitchOptions) -> tuple[str, bytes | None, list[RefMove]]:
    name = options.target
    check_ref_name(name, "branch")
    if name in commits.branches:
        raise InvalidInput(f"the branch {name!r} is there already", hint=f"`ckstore checkout {name}` moves to it")
    if options.start == "HEAD" and commits.head is None:
        return name, None, []  # as HEAD, it begins with its first commit
    id = resolve(options.start, commits, options.now_ns)
    return name, id, [RefMove(HEADS + name, None, id)]
