"""log: commits, newest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from ckstore.graph.history import CommitInfo, ancestry, describe
from ckstore.graph.revision import resolve

if TYPE_CHECKING:
    from ckstore.repository import Commits, Repository


@dataclass(frozen=True)
class LogOptions:
    """`revision` to begin with (HEAD by default), or `all` refs; at most `limit` commits."""

    now_ns: int
    revision: str | None = None
    all: bool = False
    limit: int | None = None


def log(repository: Repository, options: LogOptions) -> tuple[CommitInfo, ...]:
    """The history of a revision, a commit always before its parents. Empty for a repository without commits."""
    commits = repository.commits()
    tips: list[bytes] = []
    if options.all:
        tips = list(commits.refs.values())
    elif options.revision is not None:
        tips = [resolve(options.revision, commits, options.now_ns)]
    elif commits.head is not None:
        tips = [commits.head]
    found = islice(ancestry(tips, commits.read_commit), options.limit)
    return tuple(_with_names(describe(id, commit), id, commits) for id, commit in found)


def _with_names(info: CommitInfo, id: bytes, commits: Commits) -> CommitInfo:
    return replace(
        info,
        branches=tuple(sorted(name for name, tip in commits.branches.items() if tip == id)),
        tags=tuple(sorted(name for name, tagged in commits.tags.items() if tagged == id)),
        is_head=commits.head == id,
    )
