"""Giving up, around any remote: what goes on in the background ends when its owner does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import RemoteFailed
from ckstore.remote.source import Watched
from ckstore.remote.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckstore.remote.interface import Remote, Root, Stat, Version
    from ckstore.remote.source import Source


class Ending(Wrapper):
    """`inner` until `ended()`: from then on every request, and every transfer under way, raises `RemoteFailed`.

    A move of the root that has been sent is waited for.
    """

    def __init__(self, inner: Remote, ended: Callable[[], bool]) -> None:
        super().__init__(inner)
        self._ended = ended

    def _check(self, _: int = 0) -> None:
        if self._ended():
            raise RemoteFailed(f"transfers with {self.url} were given up", hint="the next one goes on where it was")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._check()
        for block in self.inner.read(name, start, stop):
            self._check()
            yield block

    def put(self, name: str, source: Source) -> bool:
        self._check()
        return self.inner.put(name, Watched(source, self._check))

    def stat(self, name: str) -> Stat | None:
        self._check()
        return self.inner.stat(name)

    def list(self, prefix: str) -> Iterator[Stat]:
        self._check()
        return self.inner.list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        self._check()
        self.inner.delete(names)

    def read_root(self) -> Root | None:
        self._check()
        return self.inner.read_root()

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self._check()
        return self.inner.swap_root(data, expected)

    def inside(self, name: str) -> Remote:
        return Ending(self.inner.inside(name), self._ended)
