"""A remote in the memory of this process: for tests, simulations, and authors of plug-ins."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Integrity, NotFound
from ckstore.remote.interface import (
    BLOCK_BYTES,
    MAX_ROOT_BYTES,
    Remote,
    Root,
    RootMoved,
    Stat,
    Version,
    check_name,
    check_range,
    check_size,
    other_length,
    too_short,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckstore.remote.source import Source


class _Held(NamedTuple):
    data: bytes
    version: Version
    modified_ns: int


class MemoryPlace:
    """What several `MemoryRemote`s share: the objects. `clock_ns` stands in for a server's clock."""

    def __init__(self, name: str = "", clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.name = name
        self.clock_ns = clock_ns
        self.lock = threading.Lock()
        self.objects: dict[str, _Held] = {}
        self.root: _Held | None = None
        self.writes = 0
        self.places: dict[str, MemoryPlace] = {}

    def hold(self, data: bytes) -> _Held:
        """`data` as the newest thing written here. For whoever has the lock."""
        self.writes += 1
        return _Held(data, Version(str(self.writes)), self.clock_ns())


_PLACES: dict[str, MemoryPlace] = {}
_PLACES_LOCK = threading.Lock()


def memory_place(name: str) -> MemoryPlace:
    """The place of that name in this process, made on first use: `memory://NAME` leads to it."""
    with _PLACES_LOCK:
        return _PLACES.setdefault(name, MemoryPlace(name))


class MemoryRemote(Remote):
    """A client of a `MemoryPlace`, which promises all that `Remote` asks for, a power cut apart."""

    def __init__(self, place: MemoryPlace) -> None:
        self.place = place

    @property
    def url(self) -> str:
        return f"memory://{self.place.name}"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_name(name)
        check_range(start, stop)
        with self.place.lock:
            held = self.place.objects.get(name)
        if held is None:
            raise NotFound(f"{self.url} has no {name}")
        end = len(held.data) if stop is None else stop
        if max(start, end) > len(held.data):
            raise too_short(self.url, name, max(start, end), len(held.data))
        for at in range(start, end, BLOCK_BYTES):
            yield held.data[at : min(at + BLOCK_BYTES, end)]

    def put(self, name: str, source: Source) -> bool:
        check_name(name)
        check_size(name, source.size_bytes)
        data = b"".join(source.blocks())
        with self.place.lock:
            there = self.place.objects.get(name)
            if there is None:
                self.place.objects[name] = self.place.hold(data)
                return True
        if len(there.data) != len(data):
            raise other_length(self.url, name, len(there.data), len(data))
        return False

    def stat(self, name: str) -> Stat | None:
        check_name(name)
        with self.place.lock:
            held = self.place.objects.get(name)
        return None if held is None else Stat(name, len(held.data), held.version, held.modified_ns)

    def list(self, prefix: str) -> Iterator[Stat]:
        with self.place.lock:
            found = sorted((name, held) for name, held in self.place.objects.items() if name.startswith(prefix))
        for name, held in found:
            yield Stat(name, len(held.data), held.version, held.modified_ns)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            check_name(name)
        with self.place.lock:
            for name in names:
                self.place.objects.pop(name, None)

    def read_root(self) -> Root | None:
        with self.place.lock:
            held = self.place.root
        if held is not None and len(held.data) > MAX_ROOT_BYTES:
            raise Integrity(f"the root of {self.url} has {len(held.data):,} bytes")
        return None if held is None else Root(held.data, held.version)

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        with self.place.lock:
            there = None if self.place.root is None else self.place.root.version
            if there != expected:
                raise RootMoved(f"the root of {self.url} is not at {expected} any more, but at {there}")
            self.place.root = self.place.hold(bytes(data))
            return self.place.root.version

    def clock_ns(self) -> int:
        return self.place.clock_ns()

    def remove_root(self) -> None:
        with self.place.lock:
            self.place.root = None

    def inside(self, name: str) -> MemoryRemote:
        check_name(name)
        with self.place.lock:
            within = MemoryPlace(f"{self.place.name}/.{name}", self.place.clock_ns)
            return MemoryRemote(self.place.places.setdefault(name, within))

    def close(self) -> None:
        """Nothing is open: the place stays."""
