"""Arrays that are used again, and whether two are the same."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class ArrayRoom:
    """Elements of one type for one thread; what `take` gave is overwritten by the next `take`."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._array: Array = np.empty(0, dtype)

    def take(self, count: int) -> Array:
        """`count` elements with whatever is in them."""
        if len(self._array) < count:
            self._array = np.empty(count, self._array.dtype)
        return self._array[:count]


def copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes while other threads run."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def same(one: Array, other: Array) -> bool:
    """Whether two arrays of bytes are equal; compared eight at a time."""
    whole = len(one) // 8 * 8
    if len(one) != len(other) or not np.array_equal(one[whole:], other[whole:]):
        return False
    return bool((one[:whole].view(np.uint64) == other[:whole].view(np.uint64)).all())
