"""pin and unpin: commits that no policy drops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefsMoved, describe_ref, move_refs
from ckstore.errors import InvalidInput, NoRevision
from ckstore.graph.revision import resolve
from ckstore.storage.record import PINS, RefMove

if TYPE_CHECKING:
    from ckstore.checkpoint.refs import RefInfo
    from ckstore.repository import Repository

_DIGITS = 12
"""Digits of a commit's id that its pin is called by."""


@dataclass(frozen=True)
class PinOptions:
    """The commit to pin or unpin; with `dry_run` it is only said what would move."""

    revision: str
    now_ns: int
    dry_run: bool = False


def list_pins(repository: Repository) -> tuple[RefInfo, ...]:
    """All pins, by the ids of their commits. One whose commit cannot be read is listed too."""
    commits = repository.commits()
    return tuple(describe_ref(name, id, commits) for name, id in sorted(commits.named(PINS).items()))


def pin(repository: Repository, options: PinOptions) -> RefsMoved:
    """Keep a commit, whole, whatever policies say; nothing moves where it is pinned already.

    Raises `NoRevision`, `InvalidInput` for a malformed revision, `Conflict` where another pinned it meanwhile.
    """
    commits = repository.commits()
    id = resolve(options.revision, commits, options.now_ns)
    name = PINS + id.hex()[:_DIGITS]
    old = commits.refs.get(name)
    if old == id:
        return RefsMoved((), None)
    if old is not None:
        raise InvalidInput(f"another commit is pinned as {name}", hint="give this one a tag: `ckstore tag NAME REV`")
    return move_refs(repository, "pin", options.now_ns, [RefMove(name, None, id)], dry_run=options.dry_run)


def unpin(repository: Repository, options: PinOptions) -> RefsMoved:
    """Leave a commit to the policies again.

    Raises `NoRevision`, also for a commit that is not pinned, `InvalidInput` for a malformed revision, `Conflict`.
    """
    commits = repository.commits()
    id = resolve(options.revision, commits, options.now_ns)
    names = sorted(name for name, pinned in commits.named(PINS).items() if pinned == id)
    if not names:
        raise NoRevision(f"{options.revision!r} is not pinned", hint="`ckstore pin` lists what is")
    moves = [RefMove(PINS + name, id, None) for name in names]
    return move_refs(repository, "unpin", options.now_ns, moves, dry_run=options.dry_run)
