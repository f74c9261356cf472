"""The passes compiled from `kernel.c`, where that was built; else those of numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckstore.codec.arrays import ArrayRoom
from ckstore.codec.numpy_passes import NumpyPasses
from ckstore.codec.passes import uneven
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from ckstore.codec.arrays import Array
    from ckstore.codec.passes import Passes, Plane

KERNEL: ModuleType | None
"""What was compiled; None where it was not."""
try:
    from ckstore.codec import _kernel
except ImportError:
    KERNEL = None
else:
    KERNEL = _kernel


class CompiledPasses:
    """`Passes` by `kernel`: one pass over the bytes each, and other threads run meanwhile."""

    def __init__(self, width: int, kernel: ModuleType) -> None:
        self.width = width
        self._kernel = kernel
        self._room = ArrayRoom(np.uint8)
        self._packed = ArrayRoom(np.uint8)
        self._escapes = ArrayRoom(np.uint8)
        self._varying = 0
        self._first = 0

    def copy(self, sources: Sequence[memoryview], target: memoryview) -> None:
        """See `Passes`."""
        self._kernel.copy(list(sources), target)

    def sample(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> Array:
        """See `Passes`."""
        counts = self._kernel.sample(raw, base, self.width, step, rotate)
        return np.frombuffer(counts, np.uint32).reshape(self.width, 256)

    def split(self, raw: memoryview, base: memoryview | None, *, rotate: bool, halved: bool) -> list[Array]:
        """See `Passes`."""
        count = raw.nbytes // self.width
        whole = self._room.take(count * self.width)
        self._first = 1 if halved else 0
        self._varying = self._kernel.split(raw, base, self.width, rotate, halved, whole)
        low = self.width // 2 if halved else 1
        return [whole[: count * low], *(whole[count * place : count * (place + 1)] for place in range(low, self.width))]

    def is_constant(self, place: int) -> bool:
        """See `Passes`."""
        return not self._varying >> 8 * (place - self._first) & 0xFF

    def pack(self, plane: Array, ends: Sequence[int], bits: int, low: int) -> tuple[list[Array], list[Array]]:
        """See `Passes`."""
        packed = self._packed.take(-(-len(plane) // 4) * bits // 2)
        room = self._escapes.take(len(plane))
        bounds = self._kernel.pack(plane, list(ends), bits, low, packed, room)
        escapes = room[: bounds[-1]].copy()
        per_byte = 8 // bits
        parts = [
            packed[start // per_byte : -(-end // 4) * 4 // per_byte]
            for start, end in zip((0, *ends[:-1]), ends, strict=True)
        ]
        return parts, [escapes[start:end] for start, end in zip((0, *bounds), bounds, strict=False)]

    def join(self, planes: list[Plane], target: memoryview, *, rotated: bool, halved: bool, difference: bool) -> None:
        """See `Passes`."""
        if not self._kernel.join(planes, target, self.width, rotated, halved, difference):
            raise Integrity(uneven())

    def same(self, one: bytes | memoryview | Array, other: Array) -> bool:
        """See `Passes`."""
        same: bool = self._kernel.same(one, other)
        return same


def passes_of(width: int) -> Passes:
    """The best passes that there are here for elements of that width."""
    return NumpyPasses(width) if KERNEL is None else CompiledPasses(width, KERNEL)
