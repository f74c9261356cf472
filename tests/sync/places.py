"""Repositories and remotes to push and fetch between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import ckstore
from ckstore.digest import Kind
from ckstore.graph.history import reachable
from ckstore.graph.reachability import objects_of_tree
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.storage.record import HEAD, HEADS, Symbolic
from ckstore.storage.store import create
from ckstore.sync.fetch import Fetched, FetchRequest, fetch
from ckstore.sync.push import Pushed, PushRequest, push
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckstore.remote.interface import Remote, Root, Stat, Version
    from ckstore.remote.source import Source


class Counting(MemoryRemote):
    """Counts requests by what they are, and the bytes of objects that come and go."""

    def __init__(self, place: MemoryPlace) -> None:
        super().__init__(place)
        self.requests: list[str] = []
        self.sent_bytes = 0
        self.read_bytes = 0

    def reset(self) -> None:
        self.requests.clear()
        self.sent_bytes = self.read_bytes = 0

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self.requests.append(f"read {name}")
        for block in super().read(name, start, stop):
            self.read_bytes += len(block)
            yield block

    def put(self, name: str, source: Source) -> bool:
        self.requests.append(f"put {name}")
        self.sent_bytes += source.size_bytes
        return super().put(name, source)

    def stat(self, name: str) -> Stat | None:
        self.requests.append(f"stat {name}")
        return super().stat(name)

    def list(self, prefix: str) -> Iterator[Stat]:
        self.requests.append(f"list {prefix}")
        return super().list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        self.requests.append(f"delete {len(names)}")
        super().delete(names)

    def read_root(self) -> Root | None:
        self.requests.append("root")
        return super().read_root()

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self.requests.append("swap")
        self.sent_bytes += len(data)
        return super().swap_root(data, expected)


def counting(name: str = "origin") -> Counting:
    return Counting(MemoryPlace(name))


def opened(path: Path) -> ckstore.Repo:
    return ckstore.open(path, cache=path.parent / f"{path.name}-cache", threads=1)


def twin(path: Path, repo: ckstore.Repo) -> ckstore.Repo:
    """An empty repository with the id of another."""
    path.mkdir(parents=True, exist_ok=True)
    create(path, "heads/main", repository_id=repo._repository.store.id)
    return opened(path)


def local(repo: ckstore.Repo) -> RepositoryLocal:
    return RepositoryLocal(repo._repository)


def heads(repo: ckstore.Repo) -> dict[str, bytes | None]:
    commits = repo._repository.commits()
    return {name: id for name, id in commits.refs.items() if name.startswith(("heads/", "tags/"))}


def push_all(repo: ckstore.Repo, remote: Remote, **more: object) -> Pushed:
    request = PushRequest(heads(repo), head="main", jobs=1, **more)  # type: ignore[arg-type]
    return push(remote, local(repo), request)


def fetch_all(repo: ckstore.Repo, remote: Remote, **more: object) -> Fetched:
    return fetch(remote, local(repo), FetchRequest("origin", 10**18, jobs=1, **more))  # type: ignore[arg-type]


def objects_of(repo: ckstore.Repo, *, prefix: str = "") -> dict[bytes, bytes]:
    """Everything that refs reach, verified, but for holes."""
    repository = repo._repository
    commits = repository.commits()
    store = repository.store
    tips = [id for name, id in commits.refs.items() if name.startswith(prefix)]
    found: dict[bytes, bytes] = {}
    for id, commit in reachable(tips, commits.read_commit).items():
        found[id] = store.objects.read(Kind.COMMIT, id)
        absent = repository.absent().get(id, {})
        for component in commit.named():
            if component.name in absent:
                continue
            for kind, one in objects_of_tree(store.objects, component.tree):
                found[one] = store.objects.read(kind, one)
    return found


def state(step: int, size: int = 30_000, seed: int = 0) -> dict[str, object]:
    """A state of two components of which each step changes some."""
    made = torch.Generator().manual_seed(seed)
    base = torch.randn(size, generator=made)
    frozen = torch.randn(size, generator=made)
    drift = torch.randn(size, generator=torch.Generator().manual_seed(seed + 1)) * 1e-4
    return {
        "model": {"w": base + step * drift, "frozen": frozen},
        "optimizer": {"m": drift * step, "step": step},
    }


def branch(repo: ckstore.Repo) -> str:
    target = repo._repository.commits().targets[HEAD]
    assert isinstance(target, Symbolic)
    return target.name.removeprefix(HEADS)
