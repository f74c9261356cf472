"""Branches and tags as several verbs list and move them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.whole import whole_check
from ckstore.errors import Conflict, Format, Integrity
from ckstore.storage.record import spelled
from ckstore.storage.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository
    from ckstore.storage.record import RefMove, Target


@dataclass(frozen=True)
class RefInfo:
    """A branch or tag and its commit: `message` is the first line; what cannot be read is None."""

    name: str
    id: str
    step: int | None
    time_ns: int | None
    message: str | None


@dataclass(frozen=True)
class RefChange:
    """How a ref moved: its full name, and ids of 64 hexadecimal digits, another ref's name, or None for not there."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class RefsMoved:
    """Refs that moved together. `record` is what `undo` takes back; None where nothing had to move."""

    moves: tuple[RefChange, ...]
    record: int | None


def describe_ref(name: str, id: bytes, commits: Commits) -> RefInfo:
    """A ref as a RefInfo."""
    commit = readable(id, commits)
    if commit is None:
        return RefInfo(name, id.hex(), None, None, None)
    return RefInfo(name, id.hex(), commit.step, commit.time_ns, first_line(commit))


def readable(target: Target, commits: Commits) -> Commit | None:
    """The commit a ref points to, if there is one that can be read."""
    if isinstance(target, bytes):
        with suppress(Integrity, Format):
            return commits.read_commit(target)
    return None


def first_line(commit: Commit) -> str:
    """What a commit says of itself in a line."""
    return commit.message.partition("\n")[0]


def change(move: RefMove) -> RefChange:
    """A move as a RefChange."""
    return RefChange(move.name, spelled(move.old), spelled(move.new))


def move_refs(
    repository: Repository, reason: str, time_ns: int, moves: Sequence[RefMove], *, dry_run: bool = False
) -> RefsMoved:
    """Move refs, all or none, in one record of the journal; with `dry_run` only say which.

    Raises `Conflict` where one is not at its `old` any more, or is to go to a commit that gc has taken data from,
    `SaveFailed` where nothing may be written.
    """
    if not moves:
        return RefsMoved((), None)
    if dry_run:
        return RefsMoved(tuple(map(change, moves)), None)
    check = whole_check(repository, repository.commits(), {move.new for move in moves if isinstance(move.new, bytes)})
    with Transaction(repository.store) as transaction:
        try:
            written = transaction.publish(reason, time_ns, moves, check)
        except Conflict as error:
            raise Conflict(error.what, why=error.why, hint="look at `ckstore reflog`, then try again") from None
    return RefsMoved(tuple(map(change, moves)), written.seq)
