"""Numbers apart into planes and back: whole chunks at a time, so that threads seldom meet over the interpreter.

Plane n holds byte n of every element, the least significant first. Of floats every element is first rotated left by
one bit, so that the sign joins the noise of the mantissa and the exponent is one whole plane. Against a base, an older
version of the same numbers, it is the wrap-around difference that is cut up, 128 added to each of its bytes with carry:
a small difference of either sign then has the same byte in all its higher planes. (A zigzag code comes out as long
and takes twice the passes.)

Where the low half of every element is noise it stays together as one plane of half elements, and only the high halves
are cut up: rotated among themselves, where elements are rotated.
"""

from __future__ import annotations

import numpy as np

from ckstore.codec.arrays import Array, ArrayRoom

UNSIGNED: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""The element types by width in bytes."""

Plane = int | Array
"""Bytes, one for each element, or the one byte that they all are."""


class Transposer:
    """Splits and joins elements of one width in buffers that are reused; for one thread at a time."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._bits = 8 * width
        self._type = UNSIGNED[width]
        self._bias = int.from_bytes(b"\x80" * width, "little")
        self._turned = ArrayRoom(self._type)
        self._part = ArrayRoom(self._type)
        self._planes = ArrayRoom(np.uint8)
        self._half: Transposer | None = None
        self._high = ArrayRoom(UNSIGNED[width // 2]) if width > 1 else self._planes

    def numbers(self, raw: memoryview) -> Array:
        """The whole elements in `raw`."""
        return np.frombuffer(raw, self._type, count=raw.nbytes // self.width)

    def room(self, count: int, *, halved: bool) -> list[Array]:
        """Arrays of bytes for the planes of `count` elements; `halved`: the low half is one."""
        low = self.width // 2 if halved else 1
        whole = self._planes.take(count * self.width)
        return [whole[: count * low], *(whole[count * place : count * (place + 1)] for place in range(low, self.width))]

    def turned(self, numbers: Array, base: Array | None, *, rotate: bool) -> Array:
        """The elements as their bytes go into planes: rotated, as differences to `base`, or as they are."""
        if base is not None:
            turned = np.subtract(numbers, base, out=self._turned.take(len(numbers)))
            return np.add(turned, self._bias, out=turned)
        return self._rotated(numbers) if rotate else numbers

    def split(self, numbers: Array, base: Array | None, planes: list[Array], *, rotate: bool, halved: bool) -> None:
        """Fill `planes`, which `room` gave."""
        if not halved:
            self._cut(self.turned(numbers, base, rotate=rotate), planes)
            return
        turned = self.turned(numbers, base, rotate=False)
        half = self._of_halves()
        np.copyto(planes[0].view(half._type), turned, casting="unsafe")
        high = np.right_shift(turned, self._bits // 2, out=self._high.take(len(turned)), casting="unsafe")
        half._cut(half.turned(high, None, rotate=rotate), planes[1:])

    def join(self, planes: list[Plane], target: Array, *, rotated: bool, halved: bool) -> None:
        """Fill `target` from planes."""
        if halved:
            half = self._of_halves()
            high = self._high.take(len(target))
            half.join(planes[1:], high, rotated=rotated, halved=False)
            np.left_shift(high, self._bits // 2, out=target, dtype=self._type)
            np.bitwise_or(target, _units(planes[0], half._type), out=target)
            return
        joined, constant = self._sum(planes, self._turned.take(len(target)) if rotated else target)
        if joined is None:
            target.fill(constant >> 1 | (constant & 1) << (self._bits - 1) if rotated else constant)
            return
        if constant:
            np.bitwise_or(joined, constant, out=joined)
        if rotated:
            part = np.left_shift(joined, self._bits - 1, out=self._part.take(len(target)))
            np.right_shift(joined, 1, out=joined)
            np.bitwise_or(joined, part, out=target)

    def add(self, planes: list[Plane], target: Array, *, halved: bool) -> None:
        """Add the differences that planes stand for to `target`, which holds the base."""
        room = self._turned.take(len(target))
        varying: Array | None = room
        constant = 0
        if halved:
            self.join(planes, room, rotated=False, halved=True)
        else:
            varying, constant = self._sum(planes, room)
        constant = (constant - self._bias) % (1 << self._bits)
        if constant:
            np.add(target, constant, out=target)
        if varying is not None:
            np.add(target, varying, out=target)

    def _rotated(self, numbers: Array) -> Array:
        turned = np.left_shift(numbers, 1, out=self._turned.take(len(numbers)))
        part = np.right_shift(numbers, self._bits - 1, out=self._part.take(len(numbers)))
        return np.bitwise_or(turned, part, out=turned)

    def _cut(self, turned: Array, planes: list[Array]) -> None:
        np.copyto(planes[0], turned, casting="unsafe")
        for place, plane in enumerate(planes[1:], start=1):
            np.right_shift(turned, 8 * place, out=plane, casting="unsafe")

    def _sum(self, planes: list[Plane], target: Array) -> tuple[Array | None, int]:
        """The planes put together: those that vary in `target` (None where there is none), the rest as a number."""
        found: Array | None = None
        constant = 0
        for place, plane in enumerate(planes):
            if isinstance(plane, int):
                constant |= plane << 8 * place
                continue
            part = target if found is None else self._part.take(len(target))
            if place:
                np.left_shift(plane, 8 * place, out=part, dtype=self._type)
            else:
                np.copyto(part, plane)
            found = part if found is None else np.bitwise_or(found, part, out=found)
        return found, constant

    def _of_halves(self) -> Transposer:
        if self._half is None:
            self._half = Transposer(self.width // 2)
        return self._half


def _units(plane: Plane, kind: type[np.unsignedinteger]) -> int | Array:
    """The elements in a plane of half elements."""
    return plane * (np.iinfo(kind).max // 255) if isinstance(plane, int) else plane.view(kind)
