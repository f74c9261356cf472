"""status: where HEAD stands, what is stored, what has not been verified, and what to do next."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckstore.graph.history import apart, describe, reachable
from ckstore.storage.record import HEADS, REMOTES
from ckstore.storage.verified import read_damaged, read_verified
from ckstore.storage.view import View

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.graph.history import CommitInfo
    from ckstore.repository import Commits, Repository

_LOW_SHARE = 0.05
_LOW_COMMITS = 5


@dataclass(frozen=True)
class Following:
    """A remote's branch as it was last seen: `name` is the revision `origin/main`, say.

    The current branch has `ahead` commits that it lacks; it has `behind` that the current branch lacks.
    """

    remote: str
    name: str
    ahead: int
    behind: int


@dataclass(frozen=True)
class StatusResult:
    """The repository at this moment. Sizes in bytes, times in ns since 1970 UTC.

    `branch` is None where HEAD is on none; `head` where there is no commit yet. `unverified_bytes` are in packs that
    `verify --read-data` has not read yet; `last_verified_ns` is when it last did. `next` says what to do. `following`
    are the branches of remotes that are called like the current one.
    `following` has the branches of remotes that are called like the current one.
    """

    folder: Path
    branch: str | None
    head: CommitInfo | None
    commits: int
    branches: int
    tags: int
    stored_bytes: int
    index_bytes: int
    index: Path
    unverified_bytes: int
    last_verified_ns: int | None
    disk_free_bytes: int
    disk_free_inodes: int | None
    next: tuple[str, ...]
    following: tuple[Following, ...] = ()


def status(repository: Repository) -> StatusResult:
    """What a person wants to know first. Reads no data."""
    commits = repository.commits()
    store = repository.store
    packs = store.ask(View.packs)
    verified = read_verified(store.layout)
    unverified = [pack for pack in packs if pack.name not in verified]
    head = commits.head
    info = None
    count = 0
    if head is not None:
        count = len(reachable([head], commits.read_commit))
        names = [name for name, id in commits.branches.items() if id == head]
        tags = [name for name, id in commits.tags.items() if id == head]
        info = describe(head, commits.read_commit(head), names, tags, is_head=True)
    disk = os.statvfs(store.layout.root)
    free = disk.f_bavail * disk.f_frsize
    found = StatusResult(
        folder=repository.root,
        branch=commits.head_name.removeprefix(HEADS) if commits.head_name else None,
        head=info,
        commits=count,
        branches=len(commits.branches),
        tags=len(commits.tags),
        stored_bytes=sum(pack.size_bytes for pack in packs) + store.journal_bytes,
        index_bytes=store.index_bytes,
        index=store.index_folder,
        unverified_bytes=sum(pack.size_bytes for pack in unverified),
        last_verified_ns=max(verified.values(), default=None),
        disk_free_bytes=free,
        disk_free_inodes=disk.f_favail if disk.f_files else None,
        next=(),
        following=_following(commits),
    )
    largest = max((pack.size_bytes for pack in packs), default=0)
    low = free < max(_LOW_SHARE * disk.f_blocks * disk.f_frsize, _LOW_COMMITS * largest)
    damaged = any(pack.name in read_damaged(store.layout) for pack in packs)
    return replace(found, next=tuple(_next(found, repository, low=low, damaged=damaged)))


def _following(commits: Commits) -> tuple[Following, ...]:
    """Where the current branch is beside those of remotes."""
    head, name = commits.head, commits.head_name
    if head is None or name is None:
        return ()
    branch = name.removeprefix(HEADS)
    found = []
    for ref, tip in sorted(commits.named(REMOTES).items()):
        remote, _, theirs = ref.partition("/")
        if theirs == branch:
            ahead, behind = apart(head, tip, commits.read_commit)
            found.append(Following(remote, ref, ahead, behind))
    return tuple(found)


def _next(found: StatusResult, repository: Repository, *, low: bool, damaged: bool) -> list[str]:
    steps = []
    if damaged:
        steps.append("ckstore repair: a verify found damaged packs")
    if found.head is None:
        steps.append("ckstore commit FILE: make the first commit")
    elif found.branch is None:
        steps.append("ckstore checkout BRANCH: HEAD is on no branch, so that a commit must name one")
    for one in found.following:
        if one.ahead and one.behind:
            steps.append(f"ckstore pull {one.remote}: it and this branch have parted; it says the ways out")
        elif one.behind:
            steps.append(f"ckstore pull {one.remote}: bring this branch up to {one.name}")
        elif one.ahead:
            steps.append(f"ckstore push {one.remote}: {one.name} lacks the newest of this branch")
    if low:
        steps.append("free some space: the disk is nearly full (`ckstore du` says what takes it)")
    if found.unverified_bytes:
        steps.append("ckstore verify --read-data: read and hash what has not been verified")
    if not repository.store.may_write:
        steps.append("this repository is read-only for you: commits need write permission")
    return steps
