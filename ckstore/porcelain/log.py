"""log: commits, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ckstore.graph.history import CommitInfo, ancestry, describe
from ckstore.graph.query import ordered, parse, select
from ckstore.graph.revision import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckstore.repository import Repository


@dataclass(frozen=True)
class LogOptions:
    """`revision` to begin with (HEAD by default), or `all` refs; at most `limit` commits.

    `where` are conditions that all must hold (`step>1000`, `val/loss<0.5`, `message~warm`); `sort` is a field or metric
    to order by instead of the graph, `descending` with the largest first.
    """

    now_ns: int
    revision: str | None = None
    all: bool = False
    limit: int | None = None
    where: Sequence[str] = ()
    sort: str | None = None
    descending: bool = False


def log(repository: Repository, options: LogOptions) -> tuple[CommitInfo, ...]:
    """The history of a revision, a commit always before its parents unless it is sorted. Empty without commits.

    Raises `NoRevision`, `InvalidInput` for a condition that is none, or a field that no commit has.
    """
    conditions = [parse(text) for text in options.where]
    commits = repository.commits()
    tips: list[bytes] = []
    if options.all:
        tips = list(commits.refs.values())
    elif options.revision is not None:
        tips = [resolve(options.revision, commits, options.now_ns)]
    elif commits.head is not None:
        tips = [commits.head]
    branches, tags = _by_commit(commits.branches), _by_commit(commits.tags)
    absent = repository.absent()
    found: Iterable[CommitInfo] = (
        describe(id, commit, branches.get(id, ()), tags.get(id, ()), absent.get(id, ()), is_head=commits.head == id)
        for id, commit in ancestry(tips, commits.read_commit)
    )
    if conditions:
        found = select(list(found), conditions, options.now_ns)
    if options.sort is not None:
        found = ordered(list(found), options.sort, descending=options.descending)
    return tuple(islice(found, options.limit))


def _by_commit(names: Mapping[str, bytes]) -> dict[bytes, list[str]]:
    """Ref names by the commit they are on."""
    found: dict[bytes, list[str]] = {}
    for name, id in names.items():
        found.setdefault(id, []).append(name)
    return found
