"""Commits as people read them, newest first."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.objects.encoding import bits_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckstore.objects.commit import Commit


@dataclass(frozen=True)
class CommitInfo:
    """One commit: ids are 64 hexadecimal digits, `time_ns` counts from 1970 UTC.

    `absent` names the components whose data is known not to be here.
    """

    id: str
    parents: tuple[str, ...]
    components: tuple[str, ...]
    step: int | None
    epoch: int | None
    metrics: Mapping[str, float]
    message: str
    author: str
    time_ns: int
    offset_min: int
    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_head: bool = False
    absent: tuple[str, ...] = ()


def describe(
    id: bytes,
    commit: Commit,
    branches: Iterable[str] = (),
    tags: Iterable[str] = (),
    absent: Iterable[str] = (),
    *,
    is_head: bool = False,
) -> CommitInfo:
    """A commit as a CommitInfo."""
    return CommitInfo(
        id=id.hex(),
        parents=tuple(parent.hex() for parent in commit.parents),
        components=tuple(component.name for component in commit.components),
        step=commit.step,
        epoch=commit.epoch,
        metrics={metric.name: bits_float(metric.bits) for metric in commit.metrics},
        message=commit.message,
        author=commit.author,
        time_ns=commit.time_ns,
        offset_min=commit.offset_min,
        branches=tuple(sorted(branches)),
        tags=tuple(sorted(tags)),
        is_head=is_head,
        absent=tuple(absent),
    )


def unseen(tips: Iterable[bytes], seen: set[bytes], read: Callable[[bytes], Commit]) -> Iterator[tuple[bytes, Commit]]:
    """The commits reachable from `tips` that are not in `seen`, which takes them in; in no order."""
    pending = list(tips)
    while pending:
        id = pending.pop()
        if id not in seen:
            seen.add(id)
            commit = read(id)
            yield id, commit
            pending += commit.parents


def reachable(tips: Iterable[bytes], read: Callable[[bytes], Commit]) -> dict[bytes, Commit]:
    """All commits reachable from `tips`, in no order."""
    return dict(unseen(tips, set(), read))


def apart(one: bytes, other: bytes, read: Callable[[bytes], Commit]) -> tuple[int, int]:
    """How many commits `one` leads to and `other` does not, and the other way round."""
    if one == other:
        return 0, 0
    before_one, before_other = reachable([one], read).keys(), reachable([other], read).keys()
    return len(before_one - before_other), len(before_other - before_one)


def ancestry(tips: Iterable[bytes], read: Callable[[bytes], Commit]) -> Iterator[tuple[bytes, Commit]]:
    """All commits reachable from `tips`, a commit always before its parents, else the newest first."""
    commits = reachable(tips, read)
    waiting = dict.fromkeys(commits, 0)
    for commit in commits.values():
        for parent in commit.parents:
            waiting[parent] += 1
    ready = [(-commits[id].time_ns, id) for id, children in waiting.items() if not children]
    heapq.heapify(ready)
    while ready:
        _, id = heapq.heappop(ready)
        yield id, commits[id]
        for parent in commits[id].parents:
            waiting[parent] -= 1
            if not waiting[parent]:
                heapq.heappush(ready, (-commits[parent].time_ns, parent))
