"""status: where HEAD stands, what is stored, what has not been verified, and what to do next."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckstore.graph.history import describe, reachable
from ckstore.storage.record import HEADS
from ckstore.storage.verified import read_damaged, read_verified
from ckstore.storage.view import View

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.graph.history import CommitInfo
    from ckstore.repository import Repository

_LOW_SHARE = 0.05
_LOW_COMMITS = 5


@dataclass(frozen=True)
class StatusResult:
    """The repository at this moment. Sizes in bytes, times in ns since 1970 UTC.

    `branch` is None where HEAD is on none; `head` where there is no commit yet. `unverified_bytes` are in packs that
    `verify --read-data` has not read yet; `last_verified_ns` is when it last did. `next` says what to do.
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
    )
    largest = max((pack.size_bytes for pack in packs), default=0)
    low = free < max(_LOW_SHARE * disk.f_blocks * disk.f_frsize, _LOW_COMMITS * largest)
    damaged = any(pack.name in read_damaged(store.layout) for pack in packs)
    return replace(found, next=tuple(_next(found, repository, low=low, damaged=damaged)))


def _next(found: StatusResult, repository: Repository, *, low: bool, damaged: bool) -> list[str]:
    steps = []
    if damaged:
        steps.append("ckstore repair: a verify found damaged packs")
    if found.head is None:
        steps.append("ckstore commit FILE: make the first commit")
    elif found.branch is None:
        steps.append("ckstore checkout BRANCH: HEAD is on no branch, so that a commit must name one")
    if low:
        steps.append("free some space: the disk is nearly full (`ckstore du` says what takes it)")
    if found.unverified_bytes:
        steps.append("ckstore verify --read-data: read and hash what has not been verified")
    if not repository.store.may_write:
        steps.append("this repository is read-only for you: commits need write permission")
    return steps
