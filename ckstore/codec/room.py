"""A buffer that grows and is used again: fresh memory for every chunk would cost more in page faults than the work."""

from __future__ import annotations

import mmap
from contextlib import suppress

_LARGE_PAGE = 2 << 20


class Room:
    """Bytes for one thread; what `take` gave is overwritten by the next `take`."""

    def __init__(self, size_bytes: int = 0) -> None:
        self._buffer = _memory(size_bytes)

    def take(self, length: int) -> memoryview:
        """`length` bytes with whatever is in them."""
        if len(self._buffer) < length:
            self._buffer = _memory(length)
        return self._buffer[:length]


def _memory(length: int) -> memoryview:
    """At least `length` bytes; many in large pages where the system has some, as work on them is faster."""
    if length < _LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(length))
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a forked child writes into memory of its own
    room = mmap.mmap(-1, -(-length // _LARGE_PAGE) * _LARGE_PAGE, flags=private)
    with suppress(OSError):
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)
