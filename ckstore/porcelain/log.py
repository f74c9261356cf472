"""log: commits, newest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from ckstore.graph.history import CommitInfo, ancestry, describe
from ckstore.graph.revision import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.repository import Repository


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
    branches, tags = _by_commit(commits.branches), _by_commit(commits.tags)
    return tuple(
        replace(describe(id, commit, branches.get(id, ()), tags.get(id, ())), is_head=commits.head == id)
        for id, commit in islice(ancestry(tips, commits.read_commit), options.limit)
    )


def _by_commit(names: Mapping[str, bytes]) -> dict[bytes, list[str]]:
    """Ref names by the commit they are on."""
    found: dict[bytes, list[str]] = {}
    for name, id in names.items():
        found.setdefault(id, []).append(name)
    return found
