"""The passes with numpy alone: what there is where nothing was compiled, and what says what the compiled ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ckstore.codec import payload as layout
from ckstore.codec.arrays import copy, same
from ckstore.codec.packing import Packing
from ckstore.codec.payload import COUNTED, FAR, Coded, Mode, Payload
from ckstore.codec.plan import Look
from ckstore.codec.transpose import Transposer
from ckstore.codec.zstd import ENTROPY, Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec import transpose
    from ckstore.codec.arrays import Array
    from ckstore.codec.payload import Plane
    from ckstore.codec.plan import Plan, Way


_TRIED = 4096
"""Elements that a plane is tried on where several ways may be the shortest."""

_RARE = 8
"""More than one exception or escape in so many bytes are too many."""


class _Stored(NamedTuple):
    """A plane as it goes into a payload: `length` bytes in several pieces."""

    mode: Mode
    length: int
    pieces: tuple[bytes | memoryview, ...]


class NumpyPasses:
    """`Passes`, about ten numpy passes a chunk."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._packing = Packing()
        self._transposer = Transposer(width)
        self._zstd = Zstd(ENTROPY)

    def copy(self, source: memoryview, target: memoryview) -> None:
        """See `Passes`."""
        copy(source, target)

    def same(self, one: memoryview, other: memoryview) -> bool:
        """See `Passes`."""
        return same(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))

    def survey(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> list[Look]:
        """See `Passes`."""
        numbers = self._transposer.numbers(raw)[::step]
        olds = None if base is None else self._transposer.numbers(base)[::step]
        turned = np.ascontiguousarray(self._transposer.turned(numbers, olds, rotate=rotate))
        columns = turned.view(np.uint8).reshape(-1, self.width)
        return [_look(np.bincount(columns[:, place], minlength=256)) for place in range(self.width)]

    def encode(self, raw: memoryview, base: memoryview | None, plan: Plan) -> Payload:
        """See `Passes`."""
        numbers = self._transposer.numbers(raw)
        olds = None if base is None else self._transposer.numbers(base)
        ways = self._shortest(numbers, olds, plan)
        planes = self._split(numbers, olds, plan)
        stored = [self._encode(plane, way, plan.worth) for plane, way in zip(planes, ways, strict=True)]
        flags = (layout.DIFFERENCE if base is not None else layout.ROTATED * plan.rotate) | layout.HALVED * plan.halved
        return self._payload(flags, stored, raw.nbytes, raw[len(numbers) * self.width :])

    def decode(self, payload: memoryview, target: memoryview, *, difference: bool) -> None:
        """See `Passes`."""
        flags, planes, tail = layout.open_payload(payload, self.width, target.nbytes, difference=difference)
        rotated, halved = bool(flags & layout.ROTATED), bool(flags & layout.HALVED)
        numbers = self._transposer.numbers(target)
        rooms = self._transposer.room(len(numbers), halved=halved)
        opened: list[transpose.Plane] = [self._opened(one, room) for one, room in zip(planes, rooms, strict=True)]
        if difference:
            self._transposer.add(opened, numbers, halved=halved)
        else:
            self._transposer.join(opened, numbers, rotated=rotated, halved=halved)
        if tail:
            target[target.nbytes - tail.nbytes :] = tail

    def _split(self, numbers: Array, olds: Array | None, plan: Plan) -> list[Array]:
        planes = self._transposer.room(len(numbers), halved=plan.halved)
        self._transposer.split(numbers, olds, planes, rotate=plan.rotate, halved=plan.halved)
        return planes

    def _shortest(self, numbers: Array, olds: Array | None, plan: Plan) -> list[Way]:
        """Of each plane the way that comes out shortest on a piece from the middle."""
        if all(len(several) == 1 for several in plan.ways):
            return [way for (way,) in plan.ways]
        start = (len(numbers) - min(len(numbers), _TRIED)) // 2
        piece = slice(start, start + _TRIED)
        planes = self._split(numbers[piece], None if olds is None else olds[piece], plan)
        return [
            min(several, key=lambda way: self._encode(plane, way, 1.0).length)
            for plane, several in zip(planes, plan.ways, strict=True)
        ]

    def _encode(self, plane: Array, way: Way, worth: float) -> _Stored:
        mode, low, _ = way
        if mode is not Mode.RAW and len(plane) and plane[0] == plane[-1] and bool((plane == plane[0]).all()):
            return _Stored(Mode.CONSTANT, 1, (plane[:1].tobytes(),))
        stored = None
        if mode is Mode.SPARSE:
            stored = self._encode_sparse(plane, low)
        elif mode in (Mode.PACKED2, Mode.PACKED4):
            stored = self._encode_packed(plane, way)
        if stored is None and mode is not Mode.RAW:
            frame = self._compress(plane)
            stored = _Stored(Mode.ZSTD, len(frame), (frame,))
        if stored is None or stored.length > worth * len(plane):
            return _Stored(Mode.RAW, len(plane), (plane.data,))
        return stored

    def _encode_sparse(self, plane: Array, low: int) -> _Stored | None:
        gaps, exceptions = _exceptions(plane, low)
        if len(exceptions) > len(plane) // _RARE:
            return None
        frame = self._compress(np.concatenate([gaps, exceptions]))
        return _Stored(Mode.SPARSE, COUNTED.size + len(frame), (COUNTED.pack(low, len(exceptions)), frame))

    def _encode_packed(self, plane: Array, way: Way) -> _Stored | None:
        packed, escapes = self._packing.pack(plane, way.mode, way.low)
        if len(escapes) > len(plane) // _RARE:
            return None
        frame = self._compress(packed)
        head = COUNTED.pack(way.low, len(escapes))
        return _Stored(way.mode, COUNTED.size + len(frame) + len(escapes), (head, frame, escapes.data))

    def _compress(self, plane: Array) -> bytes:
        """A frame, decoded again and compared."""
        frame = self._zstd.compress(plane.data)
        if not same(np.frombuffer(self._zstd.decompress(frame, len(plane)), np.uint8), plane):
            raise Integrity(layout.BROKEN)
        return frame

    def _payload(self, flags: int, stored: Sequence[_Stored], raw_length: int, tail: memoryview) -> Payload:
        header = layout.head(flags, self.width, [(one.mode, one.length) for one in stored])
        constant = sum(one.mode is Mode.CONSTANT for one in stored) * (raw_length // self.width)
        pieces = [header, *(piece for one in stored for piece in one.pieces), tail]
        length = len(header) + sum(one.length for one in stored) + tail.nbytes
        return Payload(pieces, length, raw_length - constant)

    def _put_back(self, plane: Coded, room: Array) -> Array:
        """`room`, filled with a sparse plane. Raises `Integrity` where its exceptions do not come out even."""
        size = self._zstd.declared(plane.frame)
        if not 0 <= size - plane.number <= plane.number + len(room) // FAR:
            raise Integrity(layout.UNEVEN)
        stream = np.frombuffer(self._zstd.decompress(plane.frame, size), np.uint8)
        gaps = stream[: size - plane.number]
        ends = gaps != FAR
        steps = gaps.astype(np.int64) + ends
        places = np.cumsum(steps)[ends] - 1
        if len(places) != plane.number or int(steps.sum()) > len(room):
            raise Integrity(layout.UNEVEN)
        room.fill(plane.low)
        room[places] = stream[size - plane.number :]
        return room

    def _opened(self, plane: Plane, room: Array) -> transpose.Plane:
        if isinstance(plane, int):
            return plane
        if not isinstance(plane, Coded):
            return np.frombuffer(plane, np.uint8)
        if plane.mode == Mode.ZSTD:
            return np.frombuffer(self._zstd.decompress(plane.frame, len(room)), np.uint8)
        if plane.mode == Mode.SPARSE:
            return self._put_back(plane, room)
        packed = self._zstd.decompress(plane.frame, -(-len(room) // 4) * plane.mode // 2)
        return self._packing.unpack(packed, plane.escapes, plane.mode, plane.low, room)


def _exceptions(plane: Array, low: int) -> tuple[Array, Array]:
    """The gaps before what is not `low`, as bytes, and what it is."""
    places = np.flatnonzero(plane != low)
    distances = np.diff(places, prepend=-1) - 1
    far = distances // FAR
    gaps = np.full(len(places) + int(far.sum()), FAR, np.uint8)
    gaps[np.cumsum(far + 1) - 1] = distances % FAR
    return gaps, plane[places]


def _look(counts: Array) -> Look:
    """What the counts of 256 values say."""
    number = max(1, int(counts.sum()))
    around = np.concatenate([[0], np.cumsum(np.concatenate([counts, counts]))])
    windows: list[Any] = [_entropy(counts, number)]
    for width in (15, 3, 1):
        held = around[width : width + 256] - around[:256]
        low = int(held.argmax())
        windows += [low, int(held[low]) / number]
    return Look(*windows)


def _entropy(counts: Array, number: int) -> float:
    """Order-0 entropy as a share of eight bits.

    What a sample of n says of k values is too low by (k - 1) / 2n nats (Miller and Madow).
    """
    seen = counts[counts > 0].astype(np.float64)
    if len(seen) < 2:
        return 0.0
    share = (np.log2(number) - float((seen * np.log2(seen)).sum()) / number) / 8
    return min(1.0, float(share + (len(seen) - 1) / (2 * number * np.log(2) * 8)))
