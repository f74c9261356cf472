"""Planes of few values near each other, packed to four or two bits a value and back, with numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckstore.codec.arrays import ArrayRoom
from ckstore.codec.payload import UNEVEN
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from ckstore.codec.arrays import Array


class Packing:
    """Packs and unpacks in buffers that are reused; for one thread at a time."""

    def __init__(self) -> None:
        self._shifted = ArrayRoom(np.uint8)
        self._flags = ArrayRoom(np.bool_)
        self._wide = ArrayRoom(np.uint16)
        self._packed = ArrayRoom(np.uint8)

    def pack(self, plane: Array, bits: int, low: int) -> tuple[Array, Array]:
        """The packed bytes, in a buffer that the next call overwrites, and the escapes."""
        escape = (1 << bits) - 1
        shifted = self._shifted.take(-(-len(plane) // 4) * 4)
        values = shifted[: len(plane)]
        np.subtract(plane, low, out=values)
        shifted[len(plane) :] = 0
        outside = np.flatnonzero(np.greater_equal(values, escape, out=self._flags.take(len(plane))))
        values[outside] = escape
        packed = self._fold(self._fold(shifted, 2), 4) if bits == 2 else self._fold(shifted, 4)
        return packed, plane[outside]

    def unpack(self, data: bytes, escapes: memoryview, bits: int, low: int, target: Array) -> Array:
        """`target`, filled. Raises `Integrity` where escapes do not come out even."""
        room = self._shifted.take(-(-len(target) // 4) * 4)
        packed = np.frombuffer(data, np.uint8)
        if bits == 2:
            packed = self._unfold(packed, 4, room)
        values = self._unfold(packed, bits, room)[: len(target)]
        np.add(values, low, out=target)
        count = len(escapes)
        escape = (1 << bits) - 1
        outside = np.flatnonzero(np.equal(values, escape, out=self._flags.take(len(target)))) if count else ()
        if len(outside) != count or (not count and values.max(initial=0) == escape):
            raise Integrity(UNEVEN)
        if count:
            target[outside] = np.frombuffer(escapes, np.uint8)
        return target

    def _fold(self, values: Array, bits: int) -> Array:
        """Two neighbours of `bits` bits in one byte."""
        pairs = values.view(np.uint16)
        wide = self._wide.take(len(pairs))
        np.right_shift(pairs, 8 - bits, out=wide)
        packed = self._packed.take(len(pairs))
        return np.bitwise_or(wide, pairs, out=packed, casting="unsafe")

    def _unfold(self, packed: Array, bits: int, room: Array) -> Array:
        """The neighbours apart again, at the beginning of `room`, which `packed` may lie in."""
        wide = self._wide.take(len(packed))
        np.copyto(wide, packed)
        target = room[: 2 * len(packed)]
        pairs = target.view(np.uint16)
        np.left_shift(wide, 8 - bits, out=pairs)
        np.bitwise_or(pairs, wide, out=pairs)
        np.bitwise_and(pairs, ((1 << bits) - 1) * 0x0101, out=pairs)
        return target
