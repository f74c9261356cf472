"""A commit as a revision names it, with what it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.graph.history import describe
from ckstore.graph.revision import resolve

if TYPE_CHECKING:
    from ckstore.graph.history import CommitInfo
    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits


class Described(NamedTuple):
    """A commit, and how people read it."""

    id: bytes
    commit: Commit
    info: CommitInfo


def described(commits: Commits, revision: str, now_ns: int) -> Described:
    """The commit a revision names. Raises `NoRevision`, `InvalidInput`, `Integrity`."""
    return described_id(commits, resolve(revision, commits, now_ns))


def described_id(commits: Commits, id: bytes) -> Described:
    """The commit of that id."""
    commit = commits.read_commit(id)
    branches = [name for name, tip in commits.branches.items() if tip == id]
    tags = [name for name, tip in commits.tags.items() if tip == id]
    return Described(id, commit, describe(id, commit, branches, tags, is_head=commits.head == id))
