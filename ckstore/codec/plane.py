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

from ckstore.codec.passes import Packed
from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec.arrays import Array
    from ckstore.codec.passes import Passes, Plane

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

    def __init__(self, passes: Passes) -> None:
        self._zstd = Zstd(ENTROPY)
        self._passes = passes

    def encode(
        self, plane: Array, place: int, ends: Sequence[int], shares: Array, share: float, worth: float
    ) -> list[Stored]:
        """The parts of `plane` that end at `ends`, each in the shortest way. All lengths but the last divide by 4.

        `place` is the plane's among those that were split last. `shares` are those of the 256 values in a sample of
        it, `share` their entropy (1 for noise). Whatever was compressed has been decoded again and compared. The pieces
        may be views of `plane`: use them before it changes.
        """
        parts = [plane[start:end] for start, end in zip((0, *ends), ends, strict=False)]
        if not len(plane) or share > worth:
            return [_raw(part) for part in parts]
        if share == 0.0 and self._passes.is_constant(place):
            return [Stored(Mode.CONSTANT, 1, (plane[:1].tobytes(),))] * len(parts)
        mode, low = self._choose(plane, shares, share)
        if mode is Mode.ZSTD:
            frames = self._compress(parts)
            stored = [Stored(Mode.ZSTD, len(frame), (frame,)) for frame in frames]
        else:
            stored = self._encode_packed(plane, ends, mode, low)
        return [one if one.length <= worth * len(part) else _raw(part) for one, part in zip(stored, parts, strict=True)]

    def decode(self, mode: int, body: memoryview, length: int) -> Plane:
        """The plane of `length` bytes that `body` stands for. Raises `Integrity`; allocates nothing much longer."""
        if mode == Mode.RAW and body.nbytes == length:
            return body
        if mode == Mode.CONSTANT and body.nbytes == 1:
            return body[0]
        if mode == Mode.ZSTD:
            return self._zstd.decompress(body, length)
        if mode not in (Mode.PACKED2, Mode.PACKED4):
            raise Integrity("a byte plane has an unknown mode or the wrong length")
        if body.nbytes < _PACKED.size:
            raise Integrity("a packed byte plane is cut short")
        low, count = _PACKED.unpack_from(body)
        end = body.nbytes - count
        if end < _PACKED.size or count > length:
            raise Integrity("a packed byte plane names more escapes than it holds")
        packed = self._zstd.decompress(body[_PACKED.size : end], -(-length // 4) * mode // 2)
        return Packed(mode, low, packed, body[end:])

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
            (packed,), (escapes,) = self._passes.pack(sample, [len(sample)], *window)
            length = len(self._zstd.compress(packed.data)) + len(escapes)
            if length < best:
                best, chosen = length, window
        return chosen

    def _encode_packed(self, plane: Array, ends: Sequence[int], mode: Mode, low: int) -> list[Stored]:
        packed, escapes = self._passes.pack(plane, ends, mode, low)
        frames = self._compress(packed)
        stored = []
        for frame, outside in zip(frames, escapes, strict=True):
            head = _PACKED.pack(low, len(outside))
            length = len(head) + len(frame) + len(outside)
            stored.append(Stored(mode, length, (head, frame, outside.data)))
        return stored

    def _compress(self, parts: Sequence[Array]) -> Sequence[bytes]:
        """A frame for each, decoded again and compared."""
        frames = self._zstd.compress_all([part.data for part in parts])
        for raw, part in zip(self._zstd.decompress_own(frames, [len(part) for part in parts]), parts, strict=True):
            if not self._passes.same(raw, part):
                raise Integrity("a plane does not come back from its encoding", hint="check this machine's memory")
        return frames


def entropy(shares: Array) -> Any:
    """Order-0 entropy as a share of eight bits, over the last axis."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=-1) / 8


def _raw(part: Array) -> Stored:
    return Stored(Mode.RAW, len(part), (part.data,))
