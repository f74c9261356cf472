"""A limit on the rate of transfers, shared by all threads, around any remote."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.remote.source import Watched
from ckstore.remote.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.remote.interface import Remote, Root, Version
    from ckstore.remote.source import Source

_BURST_S = 0.1


class RateLimit:
    """A bucket that fills with `bytes_per_s` tokens a second, a tenth of that at most; a byte costs one.

    Whoever takes more than there is, is served, and all wait until that is paid off, in the order they came.
    """

    def __init__(
        self,
        bytes_per_s: float,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not bytes_per_s > 0:
            raise InvalidInput(f"a rate of {bytes_per_s:g} bytes a second moves nothing", hint="write 50M, or 500k")
        self.bytes_per_s = bytes_per_s
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_s = monotonic_s()

    def take(self, count: int) -> None:
        """Pay for `count` bytes that are about to move, or just did: sleeps until they are due."""
        with self._lock:
            now = self._monotonic_s()
            self._paid_s = max(self._paid_s, now - _BURST_S) + count / self.bytes_per_s
            wait_s = self._paid_s - now
        if wait_s > 0:
            self._sleep(wait_s)


class Throttled(Wrapper):
    """`inner`, with all bytes that go up and come down paid for at `limit`; the names in requests are free."""

    def __init__(self, inner: Remote, limit: RateLimit) -> None:
        super().__init__(inner)
        self.limit = limit

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        for block in self.inner.read(name, start, stop):
            self.limit.take(len(block))
            yield block

    def put(self, name: str, source: Source) -> bool:
        return self.inner.put(name, Watched(source, self.limit.take))

    def read_root(self) -> Root | None:
        root = self.inner.read_root()
        self.limit.take(len(root.data) if root else 0)
        return root

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self.limit.take(len(data))
        return self.inner.swap_root(data, expected)

    def inside(self, name: str) -> Remote:
        return Throttled(self.inner.inside(name), self.limit)
