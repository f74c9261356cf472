"""The payload of a chunk of numbers: its planes, one after another.

payload = flags (bit 0: rotated, bit 1: difference, bit 2: the low half is one plane), width, then for each plane
          its mode and length, zeros up to a multiple of 8, the planes, the bytes after the last whole element
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ckstore.codec.compiled import passes_of
from ckstore.codec.plane import Mode, PlaneCoder, entropy
from ckstore.codec.transpose import UNSIGNED
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckstore.codec.arrays import Array
    from ckstore.codec.passes import Passes, Plane
    from ckstore.codec.plane import Stored

_HEADER = struct.Struct("<BB")
_PLANE = struct.Struct("<BI")
_ROTATED, _DIFFERENCE, _HALVED = 1, 2, 4
_SAMPLE = 2048
_NOISE = 0.985

_KEPT_APART = 2
"""Elements wider than this may keep their low half together."""


class Survey(NamedTuple):
    """What a sample of turned elements says: the shares of the 256 values in each byte, and each byte's entropy.

    Entropies are shares of eight bits: 0 for a constant, 1 for noise.
    """

    shares: Array
    entropies: Array

    def estimate(self, worth: float) -> float:
        """The share of the raw length that the planes would about come to."""
        return float(np.where(self.entropies < worth, self.entropies, 1.0).mean())


class Payload(NamedTuple):
    """`length` bytes in several pieces, which are views of reused buffers; `busy` bytes lie in planes that vary."""

    pieces: Sequence[bytes | memoryview]
    length: int
    busy: int


class Planes:
    """Encodes and decodes chunks of numbers of `width` bytes; for one thread at a time."""

    def __init__(self, passes: Passes) -> None:
        self._width = passes.width
        self._passes = passes
        self._coder = PlaneCoder(passes)
        self.copy = passes.copy

    def survey(self, raw: memoryview, base: memoryview | None = None, *, rotate: bool, sample: int = _SAMPLE) -> Survey:
        """A look at about `sample` elements of `raw`, or at their differences to `base`."""
        step = max(1, raw.nbytes // self._width // sample) | 1  # odd: rows of a table have even lengths
        return _survey(self._passes.sample(raw, base, step, rotate=rotate))

    def same(self, one: memoryview, other: memoryview) -> bool:
        """Whether the bytes of two are the same."""
        return self._passes.same(one, np.frombuffer(other, np.uint8))

    def encode(
        self, raw: memoryview, lengths: Sequence[int], base: memoryview | None = None, *, rotate: bool, worth: float
    ) -> list[Payload]:
        """The payloads of the chunks that make up `raw`, by themselves or as the differences to those in `base`.

        `lengths` are theirs in bytes; all but the last divide by four elements. One look at all of them decides how
        each plane is stored. Every compressed plane has been decoded again and compared. The pieces last until the
        next call.
        """
        found = self.survey(raw, base, rotate=rotate)
        low = self._width // 2
        halved = self._width > _KEPT_APART and bool((found.entropies[:low] > _NOISE).all())
        planes = self._passes.split(raw, base, rotate=rotate, halved=halved)
        ends = [end // self._width for end in accumulate(lengths)]
        columns: list[list[Stored]] = []
        for number, plane in enumerate(planes):
            place = number + low - 1 if halved else number
            kept = halved and not number
            share = 1.0 if kept else float(found.entropies[place])
            bounds = [end * low for end in ends] if kept else ends
            columns.append(self._coder.encode(plane, number, bounds, found.shares[place], share, worth))
        flags = (_DIFFERENCE if base is not None else _ROTATED * rotate) | _HALVED * halved
        tail = raw[raw.nbytes // self._width * self._width :]
        last = len(lengths) - 1
        return [
            self._payload(flags, stored, length, tail if number == last else raw[:0])
            for number, (length, *stored) in enumerate(zip(lengths, *columns, strict=True))
        ]

    def _payload(self, flags: int, stored: Sequence[Stored], raw_length: int, tail: memoryview) -> Payload:
        modes = b"".join([_PLANE.pack(one.mode, one.length) for one in stored])
        header = (_HEADER.pack(flags, self._width) + modes).ljust(_start(len(stored)), b"\0")
        constant = sum(one.mode is Mode.CONSTANT for one in stored) * (raw_length // self._width)
        pieces = [header, *(piece for one in stored for piece in one.pieces), tail]
        length = len(header) + sum(one.length for one in stored) + tail.nbytes
        return Payload(pieces, length, raw_length - constant)

    def decode(self, payload: memoryview, target: memoryview) -> None:
        """Fill `target` exactly. Raises `Integrity`; every length is checked before it is used."""
        self._decode(payload, target, difference=False)

    def add(self, payload: memoryview, target: memoryview) -> None:
        """Turn the base in `target` into what `payload` was encoded from. Raises `Integrity`, as `decode`."""
        self._decode(payload, target, difference=True)

    def _decode(self, payload: memoryview, target: memoryview, *, difference: bool) -> None:
        flags, planes, tail = self._open(payload, target.nbytes)
        if bool(flags & _DIFFERENCE) != difference:
            what = "is a difference" if flags & _DIFFERENCE else "is no difference"
            raise Integrity(f"a payload of byte planes {what}, and its frame says otherwise")
        rotated, halved = bool(flags & _ROTATED), bool(flags & _HALVED)
        self._passes.join(planes, target, rotated=rotated, halved=halved, difference=difference)
        if tail:
            target[target.nbytes - tail.nbytes :] = tail

    def _open(self, payload: memoryview, raw_length: int) -> tuple[int, list[Plane], memoryview]:
        """Flags, planes and the bytes after the last element of a payload that stands for `raw_length` bytes."""
        if payload.nbytes < _HEADER.size:
            raise Integrity("a payload of byte planes is cut short")
        flags, width = _HEADER.unpack_from(payload)
        halved = bool(flags & _HALVED)
        known = flags in (0, _ROTATED, _DIFFERENCE, _HALVED, _HALVED | _ROTATED, _HALVED | _DIFFERENCE)
        if width != self._width or not known or (halved and width <= _KEPT_APART):
            raise Integrity("a payload of byte planes has an unknown header")
        count = raw_length // width
        lengths = [count * (width // 2)] + [count] * (width // 2) if halved else [count] * width
        start = _start(len(lengths))
        if payload.nbytes < start:
            raise Integrity("a payload of byte planes is cut short")
        planes: list[Plane] = []
        for number, plane_length in enumerate(lengths):
            mode, length = _PLANE.unpack_from(payload, _HEADER.size + number * _PLANE.size)
            body = payload[start : start + length]
            if body.nbytes != length:
                raise Integrity("a payload of byte planes is cut short")
            planes.append(self._coder.decode(mode, body, plane_length))
            start += length
        tail = payload[start:]
        if tail.nbytes != raw_length - count * width:
            raise Integrity("a payload of byte planes has another length than its element")
        return flags, planes, tail


def _start(planes: int) -> int:
    """Where the planes begin: at a multiple of 8, as half elements need it."""
    return -(-(_HEADER.size + planes * _PLANE.size) // 8) * 8


def _survey(counts: Array) -> Survey:
    count = max(1, int(counts[0].sum()))
    shares = counts / count
    # What a sample of n says of k values is too low by (k - 1) / 2n nats (Miller and Madow).
    seen = np.count_nonzero(counts, axis=1)
    missed = np.maximum(0, seen - 1) / (2 * count * np.log(2) * 8)
    return Survey(shares, np.minimum(entropy(shares) + missed, 1.0))


def planes_of(width: int, passes: Callable[[int], Passes] = passes_of) -> Planes:
    """A coder for elements of that width. Raises `Integrity` where there are none such."""
    if width not in UNSIGNED:
        raise Integrity(f"a frame claims elements of {width} bytes")
    return Planes(passes(width))
