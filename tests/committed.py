"""Checkpoint files to commit, and what became of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from ckstore.storage.transaction import Transaction

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore
    from ckstore.storage.record import RefMove


def trees(repo: ckstore.Repo, revision: str = "HEAD") -> dict[str, bytes]:
    """The tree of each component."""
    _, commit = repo._repository.resolve(revision, 0)
    return {entry.name: entry.tree for entry in commit.components}


def put_refs(repo: ckstore.Repo, time_ns: int, *moves: RefMove) -> None:
    """Move refs wherever that leads: no verb puts one on a commit that is not there."""
    with Transaction(repo._repository.store) as transaction:
        transaction.publish("test", time_ns, moves)


def names(repo: ckstore.Repo, revision: str = "HEAD") -> list[str]:
    return [name for name in trees(repo, revision) if name != "@files"]


def stamped(path: Path, mode: int, mtime_ns: int) -> None:
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def weights(*keys: str, size: int = 40) -> dict[str, torch.Tensor]:
    return {key: torch.randn(size, size) for key in keys}
