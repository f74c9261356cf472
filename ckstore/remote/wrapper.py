"""A remote around another one: what it does not change, it passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.remote.interface import Remote, Root, Stat, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.remote.source import Source


class Wrapper(Remote):
    """Passes every call on to `inner`; closing it closes `inner`."""

    def __init__(self, inner: Remote) -> None:
        self.inner = inner

    @property
    def url(self) -> str:
        return self.inner.url

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self.inner.read(name, start, stop)

    def put(self, name: str, source: Source) -> bool:
        return self.inner.put(name, source)

    def stat(self, name: str) -> Stat | None:
        return self.inner.stat(name)

    def list(self, prefix: str) -> Iterator[Stat]:
        return self.inner.list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        self.inner.delete(names)

    def read_root(self) -> Root | None:
        return self.inner.read_root()

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        return self.inner.swap_root(data, expected)

    def clock_ns(self) -> int:
        return self.inner.clock_ns()

    def remove_root(self) -> None:
        self.inner.remove_root()

    def inside(self, name: str) -> Remote:
        return self.inner.inside(name)

    def close(self) -> None:
        self.inner.close()
