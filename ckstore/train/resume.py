"""Where a run goes on: the newest commit of its branch that is whole and can be read, and what else was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckstore.checkpoint.refs import move_refs
from ckstore.checkpoint.state import structure
from ckstore.errors import Absent, Format, Integrity
from ckstore.porcelain.repair import RepairOptions, repair
from ckstore.progress import SILENT
from ckstore.storage.record import HEADS, RefMove
from ckstore.torch.unflatten import unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository

REASON = "resume"
"""What the reflog says where a run goes on from another commit than its branch's tip."""


@dataclass(frozen=True)
class Skipped:
    """A commit that a run could not go on from, and why. `damaged`: its bytes are not what they must be."""

    id: str
    step: int | None
    reason: str
    damaged: bool = True


@dataclass(frozen=True)
class Resumed:
    """What `resume` found: the commit it went on from (None: it begins anew), and what it passed over.

    `missing` and `unexpected` are paths that the run wanted and the commit lacks, and the other way round (only with
    `strict=False`); `differences` are versions and machines that decide over the last bits and are not as they were;
    `config` names values of the config that were changed.
    """

    id: str | None = None
    step: int = 0
    epoch: int = 0
    skipped: tuple[Skipped, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    config: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A commit to go on from, with the states of all its components."""

    id: bytes
    commit: Commit
    states: dict[str, Any]
    skipped: tuple[Skipped, ...]


def find(
    repository: Repository, branch: str, revision: str | None, now_ns: int, wanted: Sequence[str], *, allow_pickle: bool
) -> Found | None:
    """The newest commit that can be read whole, from `revision` or the branch's tip back; None for a new branch.

    `wanted` are components that are read if they are there. Raises `NoRevision` for a revision that names nothing,
    `Integrity` where commits are there and none can be read: a run must not silently begin anew then.
    """
    commits = repository.commits()
    if revision is not None:
        start = repository.resolve(revision, now_ns)[0]
    elif branch in commits.branches:
        start = commits.branches[branch]
    else:
        return None
    skipped: list[Skipped] = []
    for id, commit in line(commits, start, skipped):
        try:
            states = {
                entry.name: unflatten(
                    structure(repository, commit, entry.name), repository.store.objects, allow_pickle=allow_pickle
                )
                for entry in commit.components
                if entry.name in wanted
            }
        except (Integrity, Format, Absent) as error:
            skipped.append(Skipped(id.hex(), commit.step, error.what, not isinstance(error, Absent)))
            continue
        return Found(id, commit, states, tuple(skipped))
    told = "; ".join(f"{one.id[:12]}: {one.reason}" for one in skipped[:3])
    raise Integrity(
        f"no commit of {branch!r} can be gone on from ({len(skipped)} tried)",
        why=told,
        hint="`ckstore repair` may mend it; another name, track(...), begins anew",
    )


def take_over(repository: Repository, branch: str, found: Found, now_ns: int) -> None:
    """Put the run's branch on the commit it goes on from, where it is on another; the reflog knows where it was."""
    tip = repository.commits().branches.get(branch)
    if tip is not None and tip != found.id:
        move_refs(repository, f"{REASON} {branch}", now_ns, [RefMove(HEADS + branch, tip, found.id)])


def mend(repository: Repository, found: Found, now_ns: int) -> None:
    """Repair the repository where a damaged commit was passed over.

    A run that goes on exactly makes the same bytes again: they must not count as being there already. Raises as
    `repair` does.
    """
    if any(one.damaged for one in found.skipped):
        repair(repository, RepairOptions(now_ns), SILENT)


def passed_over(found: Found) -> str:
    """What to tell of commits that were passed over."""
    told = "; ".join(f"{one.id[:12]} (step {one.step}): {one.reason}" for one in found.skipped[:3])
    number = len(found.skipped)
    text = f"going on from {found.id.hex()[:12]} (step {found.commit.step}), past {number} that cannot be read: {told}"
    return f"{text}; the repository is repaired first" if any(one.damaged for one in found.skipped) else text


def changed(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of plain values that are not as they were, with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*then, *now)):
            below = f"{path}.{name}" if path else str(name)
            if name not in then or name not in now:
                yield f"{below}: {'new' if name not in then else 'gone'}"
            else:
                yield from changed(then[name], now[name], below)
    elif type(then) is not type(now) or _differs(then, now):
        yield f"{path}: {then!r:.60} -> {now!r:.60}"


def _differs(then: Any, now: Any) -> bool:
    try:
        return bool(then != now)
    except (RuntimeError, ValueError):  # tensors and arrays have no single answer
        return then is not now


def line(commits: Commits, id: bytes | None, skipped: list[Skipped] | None = None) -> Iterator[tuple[bytes, Commit]]:
    """A commit and its first parents, as far as they can be read; `skipped` gets the one that cannot."""
    while id is not None:
        try:
            commit = commits.read_commit(id)
        except (Integrity, Format) as error:
            if skipped is not None:
                skipped.append(Skipped(id.hex(), None, error.what))
            return
        yield id, commit
        id = commit.parents[0] if commit.parents else None
