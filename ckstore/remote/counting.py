"""Counting requests by kind and bytes by direction, around any remote: what a transfer costs, and what tests hold."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.remote.source import Watched
from ckstore.remote.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.remote.interface import Remote, Root, Stat, Version
    from ckstore.remote.source import Source

PAGE = 1000
"""How many objects a request lists or deletes."""


@dataclass(frozen=True)
class Traffic:
    """What went over the line: requests by kind (get put head list delete), bytes of objects and roots."""

    requests: Mapping[str, int] = field(default_factory=dict)
    up_bytes: int = 0
    down_bytes: int = 0

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())


class Counts:
    """Sums that several threads and remotes add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}
        self._up = 0
        self._down = 0

    def request(self, kind: str, number: int = 1) -> None:
        with self._lock:
            self._requests[kind] = self._requests.get(kind, 0) + number

    def up(self, count: int) -> None:
        with self._lock:
            self._up += count

    def down(self, count: int) -> None:
        with self._lock:
            self._down += count

    def traffic(self) -> Traffic:
        """What has been counted so far."""
        with self._lock:
            return Traffic(dict(self._requests), self._up, self._down)


class Counting(Wrapper):
    """`inner`, counted as an object store bills: a call is a request; a list one for every thousand objects, and so on.

    Put it below `Retrying`, so that tries that failed count too. A `put` of what is there already takes a second
    request on most stores, counted as a head.
    """

    def __init__(self, inner: Remote, counts: Counts) -> None:
        super().__init__(inner)
        self.counts = counts

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self.counts.request("get")
        for block in self.inner.read(name, start, stop):
            self.counts.down(len(block))
            yield block

    def put(self, name: str, source: Source) -> bool:
        self.counts.request("put")
        written = self.inner.put(name, Watched(source, self.counts.up))
        if not written:
            self.counts.request("head")
        return written

    def stat(self, name: str) -> Stat | None:
        self.counts.request("head")
        return self.inner.stat(name)

    def list(self, prefix: str) -> Iterator[Stat]:
        self.counts.request("list")
        for number, stat in enumerate(self.inner.list(prefix)):
            if number and number % PAGE == 0:
                self.counts.request("list")
            yield stat

    def delete(self, names: Sequence[str]) -> None:
        self.counts.request("delete", -(-len(names) // PAGE))
        self.inner.delete(names)

    def read_root(self) -> Root | None:
        self.counts.request("get")
        root = self.inner.read_root()
        self.counts.down(len(root.data) if root else 0)
        return root

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self.counts.request("put")
        self.counts.up(len(data))
        return self.inner.swap_root(data, expected)

    def clock_ns(self) -> int:
        self.counts.request("head")
        return self.inner.clock_ns()

    def remove_root(self) -> None:
        self.counts.request("delete")
        self.inner.remove_root()

    def inside(self, name: str) -> Remote:
        return Counting(self.inner.inside(name), self.counts)
