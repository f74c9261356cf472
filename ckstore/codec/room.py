"""A buffer that grows and is used again: fresh memory for every chunk would cost more in page faults than the work."""

from __future__ import annotations


class Room:
    """Bytes for one thread; what `take` gave is overwritten by the next `take`."""

    def __init__(self, size_bytes: int = 0) -> None:
        self._buffer = bytearray(size_bytes)

    def take(self, length: int) -> memoryview:
        """`length` bytes with whatever is in them."""
        if len(self._buffer) < length:
            self._buffer = bytearray(length)
        return memoryview(self._buffer)[:length]
