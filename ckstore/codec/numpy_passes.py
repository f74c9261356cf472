"""The passes with numpy alone: what there is where nothing was compiled, and what says what the compiled ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckstore.codec.arrays import copy, same
from ckstore.codec.chunker import parts
from ckstore.codec.packing import Packing
from ckstore.codec.passes import Packed
from ckstore.codec.transpose import Transposer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec import transpose
    from ckstore.codec.arrays import Array
    from ckstore.codec.passes import Plane


class NumpyPasses:
    """`Passes`, about ten numpy passes a chunk."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._packing = Packing()
        self._transposer = Transposer(width)
        self._planes: list[Array] = []

    def copy(self, sources: Sequence[memoryview], target: memoryview) -> None:
        """See `Passes`."""
        for source, part in zip(sources, parts(target, [source.nbytes for source in sources]), strict=True):
            copy(source, part)

    def sample(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> Array:
        """See `Passes`."""
        numbers = self._transposer.numbers(raw)[::step]
        olds = None if base is None else self._transposer.numbers(base)[::step]
        turned = np.ascontiguousarray(self._transposer.turned(numbers, olds, rotate=rotate))
        columns = turned.view(np.uint8).reshape(-1, self.width)
        return np.array([np.bincount(columns[:, place], minlength=256) for place in range(self.width)])

    def split(self, raw: memoryview, base: memoryview | None, *, rotate: bool, halved: bool) -> list[Array]:
        """See `Passes`."""
        numbers = self._transposer.numbers(raw)
        olds = None if base is None else self._transposer.numbers(base)
        self._planes = self._transposer.room(len(numbers), halved=halved)
        self._transposer.split(numbers, olds, self._planes, rotate=rotate, halved=halved)
        return self._planes

    def is_constant(self, place: int) -> bool:
        """See `Passes`."""
        plane = self._planes[place]
        return bool((plane == plane[0]).all())

    def pack(self, plane: Array, ends: Sequence[int], bits: int, low: int) -> tuple[list[Array], list[Array]]:
        """See `Passes`."""
        return self._packing.pack(plane, ends, bits, low)

    def join(self, planes: list[Plane], target: memoryview, *, rotated: bool, halved: bool, difference: bool) -> None:
        """See `Passes`."""
        numbers = self._transposer.numbers(target)
        rooms = self._transposer.room(len(numbers), halved=halved)
        opened: list[transpose.Plane] = [self._opened(one, room) for one, room in zip(planes, rooms, strict=True)]
        if difference:
            self._transposer.add(opened, numbers, halved=halved)
        else:
            self._transposer.join(opened, numbers, rotated=rotated, halved=halved)

    def same(self, one: bytes | memoryview | Array, other: Array) -> bool:
        """See `Passes`."""
        return same(np.frombuffer(one, np.uint8), other)

    def _opened(self, plane: Plane, room: Array) -> transpose.Plane:
        if isinstance(plane, int):
            return plane
        return self._packing.unpack(plane, room) if isinstance(plane, Packed) else np.frombuffer(plane, np.uint8)
