"""diverge: the first step at which two runs are not the same any more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ckstore.checkpoint.committed_files import committed_files
from ckstore.checkpoint.described import described, described_id
from ckstore.checkpoint.state import structure
from ckstore.graph.tree_diff import Verdict, tree_diff
from ckstore.objects.commit import FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.graph.history import CommitInfo
    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository


class Outcome(StrEnum):
    """What became of two runs."""

    SAME = "same commit"
    ANCESTOR = "one is the other's ancestor"
    ALIKE = "equal at every shared step"
    PARTED = "parted"
    STARTED_DIFFERENTLY = "different from the first shared step on"
    NO_SHARED_STEP = "no shared step"


@dataclass(frozen=True)
class DivergeOptions:
    """`now_ns` counts from 1970 UTC, for revisions such as `@2h`; at most `most_paths` paths are listed."""

    now_ns: int
    most_paths: int = 20


@dataclass(frozen=True)
class Meeting:
    """A commit of each run that belong together: of the same `step` or, where they have none, as many commits on.

    `position` counts the first run's commits from the newest one that both histories share, or else from its first.
    """

    step: int | None
    position: int
    first: CommitInfo
    second: CommitInfo


@dataclass(frozen=True)
class PartedComponent:
    """A component that differs somewhere: where it was the same for the last time, and where it first is not.

    `last_equal` is the meeting just before; None where there is none.
    """

    name: str
    last_equal: Meeting | None
    first_different: Meeting


@dataclass(frozen=True)
class DifferingPath:
    """A path that differs; `kind` is tensor, value, added, removed, retyped or file.

    `is_certain` is False for a tensor that lies in a chunk with others, of which at least one differs: `diff` tells.
    """

    path: str
    kind: str
    is_certain: bool


@dataclass(frozen=True)
class DivergeResult:
    """Two runs from their beginning.

    `first` and `second` are the commits that were asked for, `common` the newest that both histories hold. `meetings`
    counts the steps that were compared. `last_equal` and `first_different` are neighbours among them: all components
    are equal at one, and `components` differ at the other, by `paths` (`path_count` in all). `parted` says the same of
    every component by itself that differs at any shared step.
    """

    outcome: Outcome
    first: CommitInfo
    second: CommitInfo
    common: CommitInfo | None
    meetings: int
    last_equal: Meeting | None
    first_different: Meeting | None
    components: tuple[str, ...]
    paths: tuple[DifferingPath, ...]
    path_count: int
    parted: tuple[PartedComponent, ...]


def diverge(repository: Repository, first: str, second: str, options: DivergeOptions) -> DivergeResult:
    """Follow the first parents of two revisions back, and find where their components stop being equal.

    What both histories share is equal; after that, commits meet by step, those without one by their position. Where a
    run went back to an earlier step, what it did from there on counts. Ids alone decide: no tensor is read. Committed
    files count where a commit holds nothing else.
    Raises `NoRevision`, `InvalidInput`, `Integrity`, `Format`.
    """
    commits = repository.commits()
    one, other = (described(commits, revision, options.now_ns) for revision in (first, second))
    runs = _Runs(_history(commits, one.id), _history(commits, other.id))
    found = [_Compared(pair, *(_content(repository, pair.commits[side]) for side in (0, 1))) for pair in runs.meetings]
    at = next((n for n, compared in enumerate(found) if compared.differing), None)
    paths = [] if at is None else list(_paths(repository, found[at]))
    last = None if at == 0 or not found else found[(len(found) if at is None else at) - 1]
    return DivergeResult(
        outcome=_outcome(one.id, other.id, runs, at),
        first=one.info,
        second=other.info,
        common=described_id(commits, runs.common).info if runs.common is not None else None,
        meetings=len(found) + max(runs.shared - 1, 0),
        last_equal=None if last is None else _meeting(commits, last.pair),
        first_different=None if at is None else _meeting(commits, found[at].pair),
        components=() if at is None else found[at].differing,
        paths=tuple(paths[: options.most_paths]),
        path_count=len(paths),
        parted=tuple(_parted(commits, found)),
    )


class _Pair(NamedTuple):
    """A meeting, unread."""

    step: int | None
    position: int
    ids: tuple[bytes, bytes]
    commits: tuple[Commit, Commit]


_Run = list[tuple[bytes, "Commit"]]


class _Runs:
    """Two histories, the oldest commit first, and how they meet.

    `shared` counts the commits at the beginning that are the same, `common` is the last of those.
    """

    def __init__(self, first: _Run, second: _Run) -> None:
        both = zip(first, second, strict=False)
        self.shared = next(
            (n for n, (one, other) in enumerate(both) if one[0] != other[0]), min(len(first), len(second))
        )
        self.common = first[self.shared - 1][0] if self.shared else None
        self.meetings: list[_Pair] = []
        if self.common is not None:
            id, commit = first[self.shared - 1]
            self.meetings.append(_Pair(commit.step, 0, (id, id), (commit, commit)))
        start = 1 if self.shared else 0
        places = [_by_place(run[self.shared :], start) for run in (first, second)]
        for place, (position, id, commit) in places[0].items():
            if place in places[1]:
                _, its_id, its_commit = places[1][place]
                self.meetings.append(_Pair(commit.step, position, (id, its_id), (commit, its_commit)))


def _history(commits: Commits, id: bytes) -> _Run:
    """A commit and its first parents, the oldest first."""
    found = [(id, commits.read_commit(id))]
    while parents := found[-1][1].parents:
        found.append((parents[0], commits.read_commit(parents[0])))
    return found[::-1]


def _by_place(run: _Run, start: int) -> dict[tuple[str, int], tuple[int, bytes, Commit]]:
    """Commits with their positions by step, or by position where they have none, in their order.

    A commit that goes back to an earlier step voids what the run had from there on.
    """
    found: dict[tuple[str, int], tuple[int, bytes, Commit]] = {}
    steps: list[int] = []
    for position, (id, commit) in enumerate(run, start):
        if commit.step is None:
            found["position", position] = position, id, commit
            continue
        while steps and steps[-1] >= commit.step:
            del found["step", steps.pop()]
        steps.append(commit.step)
        found["step", commit.step] = position, id, commit
    return found


class _Compared(NamedTuple):
    """A meeting and what either commit holds, by component."""

    pair: _Pair
    old: Mapping[str, object]
    new: Mapping[str, object]

    @property
    def differing(self) -> tuple[str, ...]:
        """The components that are not the same."""
        return tuple(name for name in dict.fromkeys([*self.new, *self.old]) if self.old.get(name) != self.new.get(name))


def _content(repository: Repository, commit: Commit) -> dict[str, object]:
    """What must be equal for components to be: ids of trees; for opaque files what those are, their times apart."""
    found: dict[str, object] = {entry.name: entry.tree for entry in commit.components if entry.name != FILES}
    if not found and commit.components:
        found[FILES] = _files(repository, commit)
    return found


def _files(repository: Repository, commit: Commit) -> dict[str, object]:
    files = committed_files(repository, commit)
    assert files is not None
    return {name: (file.gaps, file.segments) for name, file in files.files.items()}


def _outcome(first: bytes, second: bytes, runs: _Runs, at: int | None) -> Outcome:
    if first == second:
        return Outcome.SAME
    if runs.common in (first, second):
        return Outcome.ANCESTOR
    if not runs.meetings:
        return Outcome.NO_SHARED_STEP
    if at is None:
        return Outcome.ALIKE
    return Outcome.PARTED if at else Outcome.STARTED_DIFFERENTLY


def _meeting(commits: Commits, pair: _Pair) -> Meeting:
    first, second = (described_id(commits, id).info for id in pair.ids)
    return Meeting(pair.step, pair.position, first, second)


def _parted(commits: Commits, found: Sequence[_Compared]) -> Iterator[PartedComponent]:
    """The components in the order in which they part."""
    seen: set[str] = set()
    for n, compared in enumerate(found):
        for name in compared.differing:
            if name not in seen:
                seen.add(name)
                last = _meeting(commits, found[n - 1].pair) if n else None
                yield PartedComponent(name, last, _meeting(commits, compared.pair))


def _paths(repository: Repository, compared: _Compared) -> Iterator[DifferingPath]:
    """What differs at a meeting."""
    for name in compared.differing:
        old, new = compared.old.get(name), compared.new.get(name)
        if name == FILES:
            yield from _file_paths(*(side if isinstance(side, dict) else {} for side in (old, new)))
            continue
        trees = [
            None if side is None else structure(repository, commit, name)
            for side, commit in zip((old, new), compared.pair.commits, strict=True)
        ]
        found = tree_diff(trees[0], trees[1])
        for pair in found.pairs:
            if pair.verdict is not Verdict.SAME:
                yield DifferingPath(pair.path, "tensor", pair.verdict is Verdict.DIFFERENT)
        yield from (DifferingPath(one.path, "retyped", True) for one in found.retyped)
        yield from (DifferingPath(path, "added", True) for path, _ in found.added)
        yield from (DifferingPath(path, "removed", True) for path, _ in found.removed)
        yield from (DifferingPath(one.path, "value", True) for one in found.values)


def _file_paths(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[DifferingPath]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield DifferingPath(name, "file", True)
