"""One plane of some chunks: the same byte of every element, stored raw, as a constant, or entropy-coded by zstd.

zstd codes a plane of few distinct values slowly, because it keeps finding chance repeats, and no symbol in less than
one bit. Where nearly all values lie in a window of 15 (or of 3), two (or four) of them are therefore packed into one
byte first; the few outside are escapes, kept apart.

    raw       the bytes
    zstd      one zstd frame
    constant  one byte
    packed    low (1 byte), number of escapes (4 bytes), a zstd frame of packed bytes, the escapes. A packed value is
              the byte minus `low`; all ones stand for the next escape. The first value is in the lowest bits.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import zstandard

from ckstore.codec.arrays import ArrayRoom, same
from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec.arrays import Array

ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    hash_log=6,
    min_match=7,
    target_length=0,
    window_log=20,
    write_content_size=True,
)
"""Settings under which zstd is an entropy coder that passes over noise at memory speed."""

_PACKED = struct.Struct("<BI")
_SAMPLE_BYTES = 4 << 10
_COVERED = 0.94
_FLAT, _DENSE, _SPREAD = 0.004, 0.15, 0.6
"""Entropies: below, zstd does best by long repeats; between the last two, packing does best; above, none fits."""


class Mode(IntEnum):
    """How a plane is stored; the values are part of the format. A packed one's is the bits of a packed value."""

    RAW = 0
    ZSTD = 1
    PACKED2 = 2
    CONSTANT = 3
    PACKED4 = 4


class Stored(NamedTuple):
    """A plane as it goes into a payload: `length` bytes in several pieces."""

    mode: Mode
    length: int
    pieces: tuple[bytes | memoryview, ...]


class PlaneCoder:
    """Encodes and decodes planes in buffers that are reused; for one thread at a time."""

    def __init__(self) -> None:
        self._zstd = Zstd(ENTROPY)
        self._shifted = ArrayRoom(np.uint8)
        self._flags = ArrayRoom(np.bool_)
        self._wide = ArrayRoom(np.uint16)
        self._packed = ArrayRoom(np.uint8)

    def encode(self, plane: Array, ends: Sequence[int], shares: Array, share: float, worth: float) -> list[Stored]:
        """The parts of `plane` that end at `ends`, each in the shortest way. All lengths but the last divide by 4.

        `shares` are those of the 256 values in a sample of it, `share` their entropy (1 for noise). Whatever was
        compressed has been decoded again and compared. The pieces may be views of `plane`: use them before it changes.
        """
        parts = [plane[start:end] for start, end in zip((0, *ends), ends, strict=False)]
        if not len(plane) or share > worth:
            return [_raw(part) for part in parts]
        if share == 0.0 and (plane == plane[0]).all():
            return [Stored(Mode.CONSTANT, 1, (plane[:1].tobytes(),))] * len(parts)
        mode, low = self._choose(plane, shares, share)
        if mode is Mode.ZSTD:
            frames = [self._zstd.compress(part.data) for part in parts]
            self._compare(frames, parts)
            stored = [Stored(Mode.ZSTD, len(frame), (frame,)) for frame in frames]
        else:
            stored = self._encode_packed(plane, ends, mode, low)
        return [one if one.length <= worth * len(part) else _raw(part) for one, part in zip(stored, parts, strict=True)]

    def decode(self, mode: int, body: memoryview, target: Array) -> int | Array:
        """The plane that `body` stands for: `target`, filled, or as long as it, or the value that all its bytes have.

        Raises `Integrity`; allocates nothing that `target` does not bound.
        """
        if mode == Mode.RAW and body.nbytes == len(target):
            return np.frombuffer(body, np.uint8)
        if mode == Mode.CONSTANT and body.nbytes == 1:
            return body[0]
        if mode == Mode.ZSTD:
            return np.frombuffer(self._zstd.decompress(body, len(target)), np.uint8)
        if mode not in (Mode.PACKED2, Mode.PACKED4):
            raise Integrity("a byte plane has an unknown mode or the wrong length")
        self._decode_packed(mode, body, target)
        return target

    def _choose(self, plane: Array, shares: Array, share: float) -> tuple[Mode, int]:
        """The mode that the plane comes out shortest in, and where its window begins: tried on a piece of it."""
        if share < _FLAT or share > _SPREAD:
            return Mode.ZSTD, 0
        windows: list[tuple[Mode, int]] = []
        around = np.concatenate([[0.0], np.cumsum(np.concatenate([shares, shares[:16]]))])
        for mode in (Mode.PACKED4, Mode.PACKED2):
            width = (1 << mode) - 1
            covered = around[width : width + 256] - around[:256]
            low = int(covered.argmax())
            if covered[low] > _COVERED:
                windows.append((mode, low))
        if len(windows) == 1 and share > _DENSE:
            return windows[0]
        start = max(0, len(plane) // 2 - _SAMPLE_BYTES // 2)
        sample = plane[start : start + _SAMPLE_BYTES]
        best, chosen = len(self._zstd.compress(sample.data)), (Mode.ZSTD, 0)
        for window in windows:
            (packed,), (escapes,) = self._pack(sample, [len(sample)], *window)
            length = len(self._zstd.compress(packed.data)) + len(escapes)
            if length < best:
                best, chosen = length, window
        return chosen

    def _encode_packed(self, plane: Array, ends: Sequence[int], mode: Mode, low: int) -> list[Stored]:
        packed, escapes = self._pack(plane, ends, mode, low)
        frames = [self._zstd.compress(part.data) for part in packed]
        self._compare(frames, packed)
        stored = []
        for frame, outside in zip(frames, escapes, strict=True):
            head = _PACKED.pack(low, len(outside))
            length = len(head) + len(frame) + len(outside)
            stored.append(Stored(mode, length, (head, frame, outside.data)))
        return stored

    def _pack(self, plane: Array, ends: Sequence[int], mode: Mode, low: int) -> tuple[list[Array], list[Array]]:
        """The packed bytes of each part, in a buffer that the next call overwrites, and its escapes."""
        escape = (1 << mode) - 1
        shifted = self._shifted.take(-(-len(plane) // 4) * 4)
        values = shifted[: len(plane)]
        np.subtract(plane, low, out=values)
        shifted[len(plane) :] = 0
        outside = np.flatnonzero(np.greater_equal(values, escape, out=self._flags.take(len(plane))))
        values[outside] = escape
        packed = self._fold(self._fold(shifted, 2), 4) if mode is Mode.PACKED2 else self._fold(shifted, 4)
        per_byte = 8 // mode
        starts = (0, *ends[:-1])
        parts = [
            packed[start // per_byte : -(-end // 4) * 4 // per_byte] for start, end in zip(starts, ends, strict=True)
        ]
        return parts, np.split(plane[outside], np.searchsorted(outside, ends[:-1]))

    def _fold(self, values: Array, bits: int) -> Array:
        """Two neighbours of `bits` bits in one byte."""
        pairs = values.view(np.uint16)
        wide = self._wide.take(len(pairs))
        np.right_shift(pairs, 8 - bits, out=wide)
        packed = self._packed.take(len(pairs))
        return np.bitwise_or(wide, pairs, out=packed, casting="unsafe")

    def _decode_packed(self, mode: int, body: memoryview, target: Array) -> None:
        if body.nbytes < _PACKED.size:
            raise Integrity("a packed byte plane is cut short")
        low, count = _PACKED.unpack_from(body)
        end = body.nbytes - count
        if end < _PACKED.size or count > len(target):
            raise Integrity("a packed byte plane names more escapes than it holds")
        room = self._shifted.take(-(-len(target) // 4) * 4)
        packed = np.frombuffer(self._zstd.decompress(body[_PACKED.size : end], len(room) * mode // 8), np.uint8)
        if mode == Mode.PACKED2:
            packed = self._unfold(packed, 4, room)
        values = self._unfold(packed, mode, room)[: len(target)]
        np.add(values, low, out=target)
        escape = (1 << mode) - 1
        outside = np.flatnonzero(np.equal(values, escape, out=self._flags.take(len(target)))) if count else ()
        if len(outside) != count or (not count and values.max(initial=0) == escape):
            raise Integrity("a packed byte plane has another number of escapes than it says")
        if count:
            target[outside] = np.frombuffer(body[end:], np.uint8)

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

    def _compare(self, frames: Sequence[bytes], wanted: Sequence[Array]) -> None:
        for frame, part in zip(frames, wanted, strict=True):
            if not same(np.frombuffer(self._zstd.decompress(frame, len(part)), np.uint8), part):
                raise Integrity("a plane does not come back from its encoding", hint="check this machine's memory")


def entropy(shares: Array) -> Any:
    """Order-0 entropy as a share of eight bits, over the last axis."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=-1) / 8


def _raw(part: Array) -> Stored:
    return Stored(Mode.RAW, len(part), (part.data,))
