"""branch: list, make, delete and rename branches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefInfo, describe_ref, move_refs
from ckstore.errors import InvalidInput, NoRevision, nearest
from ckstore.graph.history import ancestry
from ckstore.graph.revision import check_ref_name, resolve
from ckstore.storage.record import HEAD, HEADS, RefMove, Symbolic

if TYPE_CHECKING:
    from ckstore.checkpoint.refs import RefsMoved
    from ckstore.repository import Commits, Repository


@dataclass(frozen=True)
class BranchInfo(RefInfo):
    """A branch and its tip; `is_current` for the one that HEAD is on."""

    is_current: bool


@dataclass(frozen=True)
class BranchOptions:
    """A new branch `name`, at the commit that `revision` names; with `dry_run` only said, as in all of these."""

    name: str
    now_ns: int
    revision: str = "HEAD"
    dry_run: bool = False


@dataclass(frozen=True)
class DeleteBranchOptions:
    """The branch to delete; with `force` also where no other ref reaches its tip."""

    name: str
    now_ns: int
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RenameBranchOptions:
    """The branch `old` is to be called `new`."""

    old: str
    new: str
    now_ns: int
    dry_run: bool = False


def list_branches(repository: Repository) -> tuple[BranchInfo, ...]:
    """All branches by name. One whose tip cannot be read is listed too."""
    commits = repository.commits()
    return tuple(
        BranchInfo(**asdict(describe_ref(name, id, commits)), is_current=commits.head_name == HEADS + name)
        for name, id in sorted(commits.branches.items())
    )


def create_branch(repository: Repository, options: BranchOptions) -> RefsMoved:
    """Make a branch; HEAD stays where it is.

    Raises `InvalidInput` for a name that is none or taken, `NoRevision`, `Conflict` where another made it meanwhile.
    """
    commits = repository.commits()
    _check_free(options.name, commits)
    id = resolve(options.revision, commits, options.now_ns)
    return move_refs(
        repository, "branch", options.now_ns, [RefMove(HEADS + options.name, None, id)], dry_run=options.dry_run
    )


def delete_branch(repository: Repository, options: DeleteBranchOptions) -> RefsMoved:
    """Delete a branch; its commits stay.

    Raises `NoRevision`, `InvalidInput` for the current branch and, unless forced, for one whose tip no other ref
    reaches, `Conflict` where another moved it meanwhile.
    """
    commits = repository.commits()
    name = options.name
    tip = _tip(name, commits)
    if commits.head_name == HEADS + name:
        raise InvalidInput(f"{name!r} is the current branch", hint="`ckstore checkout BRANCH` moves to another first")
    if not options.force and not _is_reached_without(name, tip, commits):
        raise InvalidInput(
            f"no other branch or tag reaches the tip of {name!r}, {tip.hex()[:12]}",
            hint=f"tag it, or `ckstore branch --delete {name} --force`",
        )
    return move_refs(
        repository, "delete branch", options.now_ns, [RefMove(HEADS + name, tip, None)], dry_run=options.dry_run
    )


def rename_branch(repository: Repository, options: RenameBranchOptions) -> RefsMoved:
    """Give a branch another name, and move HEAD along if it is the current one: all in one record.

    Raises `NoRevision`, `InvalidInput` for a name that is none or taken, `Conflict`.
    """
    commits = repository.commits()
    old, new = HEADS + options.old, HEADS + options.new
    is_current = commits.head_name == old
    unborn = is_current and old not in commits.refs
    tip = None if unborn else _tip(options.old, commits)
    _check_free(options.new, commits)
    moves = [] if tip is None else [RefMove(new, None, tip), RefMove(old, tip, None)]
    if is_current:
        moves.append(RefMove(HEAD, Symbolic(old), Symbolic(new)))
    return move_refs(repository, "rename branch", options.now_ns, moves, dry_run=options.dry_run)


def _tip(name: str, commits: Commits) -> bytes:
    try:
        return commits.branches[name]
    except KeyError:
        hint = nearest(name, sorted(commits.branches)) or "`ckstore branch` lists them"
        raise NoRevision(f"no branch {name!r}", hint=hint) from None


def _check_free(name: str, commits: Commits) -> None:
    check_ref_name(name, "branch")
    if name in commits.branches:
        raise InvalidInput(f"the branch {name!r} is taken", hint="choose another name")


def _is_reached_without(name: str, tip: bytes, commits: Commits) -> bool:
    """Whether a ref other than the branch reaches its tip."""
    others = [id for ref, id in commits.refs.items() if ref != HEADS + name]
    if commits.head_name is None and commits.head is not None:
        others.append(commits.head)
    return tip in others or any(id == tip for id, _ in ancestry(others, commits.read_commit))
