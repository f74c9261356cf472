"""reflog: how branches, tags and HEAD moved, newest first, as the journal remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import change, first_line, readable
from ckstore.errors import Format, Integrity, InvalidInput, NoRevision, nearest
from ckstore.storage.record import HEADS, TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.repository import Commits, Repository
    from ckstore.storage.record import Record, RefMove


@dataclass(frozen=True)
class ReflogOptions:
    """`ref` to tell of (`main`, `tags/v1`, `HEAD`; None: all), there or not; at most `limit` moves."""

    ref: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class ReflogEntry:
    """One ref's move in the record `seq` of the journal; what moved together has one number.

    `ref` is the full name. `old` and `new` are ids of 64 hexadecimal digits, another ref's name for HEAD, or None where
    the ref was not there. `message` (its first line) and `step` are the new commit's, None where it cannot be read.
    """

    seq: int
    time_ns: int
    reason: str
    ref: str
    old: str | None
    new: str | None
    message: str | None
    step: int | None


@dataclass(frozen=True)
class ReflogResult:
    """Moves, newest first. `cut_short` says why older ones are not known, where there may have been some."""

    entries: tuple[ReflogEntry, ...]
    cut_short: str | None = None


def reflog(repository: Repository, options: ReflogOptions) -> ReflogResult:
    """The moves of refs. What is older than damage to the journal is left out, and that is said.

    Raises `NoRevision` for a ref that nothing is known of, `InvalidInput` for a limit below 0.
    """
    limit = options.limit
    if limit is not None and limit < 0:
        raise InvalidInput(f"{limit} is no number of moves", hint="give a limit from 0 up")
    commits = repository.commits()
    wanted = None if options.ref is None else _names(options.ref, commits)
    entries: list[ReflogEntry] = []
    others: set[str] = set()
    try:
        for seq, record, move in _moves(repository):
            if limit is not None and len(entries) >= limit:
                break
            if wanted is None or move.name in wanted:
                entries.append(_entry(seq, record, move, commits))
            else:
                others.add(move.name)
    except (Integrity, Format) as error:
        return ReflogResult(tuple(entries), error.what)
    if wanted and options.ref is not None and not entries and limit != 0 and wanted.isdisjoint(commits.targets):
        names = {name.partition("/")[2] or name for name in others.union(commits.targets)}
        hint = nearest(options.ref, sorted(names)) or "`ckstore reflog` shows all"
        raise NoRevision(f"nothing is known of a ref {options.ref!r}", hint=hint)
    return ReflogResult(tuple(entries))


def _names(ref: str, commits: Commits) -> set[str]:
    """The full names that `ref` may stand for: the one that is there, or else all that could have been."""
    candidates = [ref, HEADS + ref, TAGS + ref, f"remotes/{ref}"]
    there = next((name for name in candidates if name in commits.targets), None)
    return set(candidates) if there is None else {there}


def _moves(repository: Repository) -> Iterator[tuple[int, Record, RefMove]]:
    for seq, record in repository.store.history():
        for move in record.refs:
            yield seq, record, move


def _entry(seq: int, record: Record, move: RefMove, commits: Commits) -> ReflogEntry:
    commit = readable(move.new, commits)
    moved = change(move)
    return ReflogEntry(
        seq=seq,
        time_ns=record.time_ns,
        reason=record.reason,
        ref=moved.name,
        old=moved.old,
        new=moved.new,
        message=None if commit is None else first_line(commit),
        step=None if commit is None else commit.step,
    )
