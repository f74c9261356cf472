"""The payload of a chunk of numbers: its planes, one after another.

payload = flags (bit 0: rotated, bit 1: difference, bit 2: the low half is one plane), width, then for each plane
          its mode and length, zeros up to a multiple of 8, the planes, the bytes after the last whole element
plane   = raw       the bytes
          zstd      one zstd frame
          constant  one byte
          packed    low (1 byte), number of escapes (4 bytes), a zstd frame of packed bytes, the escapes
          sparse    low (1 byte), number of exceptions (4 bytes), a zstd frame of gaps and exceptions

zstd codes a plane of few distinct values slowly, because it keeps finding chance repeats, and no symbol in less than
one bit. Where nearly all values lie in a window of 15 (or of 3), two (or four) of them are therefore packed into one
byte first; the few outside are escapes, kept apart. A packed value is the byte minus `low`; all ones stand for the next
escape. The first value is in the lowest bits.

A plane that is `low` nearly all over is kept as the exceptions: of each, how many bytes after the one before it stands
(255 stands for so many more, and the next byte counts on), then what they are.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

ROTATED, DIFFERENCE, HALVED = 1, 2, 4
COUNTED = struct.Struct("<BI")
"""What a packed or sparse plane begins with."""

FAR = 255
"""A gap of at least so many bytes goes on in the next one."""

CUT_SHORT = "a payload of byte planes is cut short"
UNKNOWN_HEADER = "a payload of byte planes has an unknown header"
UNKNOWN_MODE = "a byte plane has an unknown mode or the wrong length"
TOO_MANY = "a byte plane names more escapes than it holds"
OTHER_LENGTH = "a payload of byte planes has another length than its element"
OTHER_KIND = "a payload of byte planes is no difference, or is one, and its frame says otherwise"
DAMAGED = "a compressed payload is damaged"
UNEVEN = "a byte plane has another number of escapes than it says"
BROKEN = "a plane does not come back from its encoding"

_HEADER = struct.Struct("<BB")
_PLANE = struct.Struct("<BI")
_KNOWN = frozenset({0, ROTATED, DIFFERENCE, HALVED, HALVED | ROTATED, HALVED | DIFFERENCE})
_KEPT_APART = 2
"""Elements wider than this may keep their low half together."""


class Mode(IntEnum):
    """How a plane is stored; the values are part of the format. A packed one's is the bits of a packed value."""

    RAW = 0
    ZSTD = 1
    PACKED2 = 2
    CONSTANT = 3
    PACKED4 = 4
    SPARSE = 5


class Coded(NamedTuple):
    """A plane whose bytes, packed bytes or exceptions are in a zstd frame; it has `number` exceptions or escapes."""

    mode: int
    low: int
    number: int
    frame: memoryview
    escapes: memoryview


Plane = int | memoryview | Coded
"""A plane as a payload has it: the one value that all its bytes have, the bytes, or a compressed one."""


class Payload(NamedTuple):
    """`length` bytes in several pieces, which are views of reused buffers; `busy` bytes lie in planes that vary."""

    pieces: Sequence[bytes | memoryview]
    length: int
    busy: int


class Opened(NamedTuple):
    """A payload taken apart: its flags, its planes, and the bytes after the last whole element."""

    flags: int
    planes: list[Plane]
    tail: memoryview


def may_halve(width: int) -> bool:
    """Whether elements so wide may keep their low half as one plane."""
    return width > _KEPT_APART


def head(flags: int, width: int, planes: Sequence[tuple[Mode, int]]) -> bytes:
    """What stands before the planes, of which the modes and lengths are given."""
    modes = b"".join([_PLANE.pack(mode, length) for mode, length in planes])
    return (_HEADER.pack(flags, width) + modes).ljust(_start(len(planes)), b"\0")


def open_payload(payload: memoryview, width: int, raw_length: int, *, difference: bool) -> Opened:
    """A payload of elements of `width` bytes, or of differences, for `raw_length` bytes. Raises `Integrity`."""
    if payload.nbytes < _HEADER.size:
        raise Integrity(CUT_SHORT)
    flags, found = _HEADER.unpack_from(payload)
    halved = bool(flags & HALVED)
    if found != width or flags not in _KNOWN or (halved and not may_halve(width)):
        raise Integrity(UNKNOWN_HEADER)
    count = raw_length // width
    lengths = [count * (width // 2)] + [count] * (width // 2) if halved else [count] * width
    start = _start(len(lengths))
    if payload.nbytes < start:
        raise Integrity(CUT_SHORT)
    planes: list[Plane] = []
    for number, plane_length in enumerate(lengths):
        mode, length = _PLANE.unpack_from(payload, _HEADER.size + number * _PLANE.size)
        body = payload[start : start + length]
        if body.nbytes != length:
            raise Integrity(CUT_SHORT)
        planes.append(_plane(mode, body, plane_length))
        start += length
    tail = payload[start:]
    if tail.nbytes != raw_length - count * width:
        raise Integrity(OTHER_LENGTH)
    if bool(flags & DIFFERENCE) != difference:
        raise Integrity(OTHER_KIND)
    return Opened(flags, planes, tail)


def _plane(mode: int, body: memoryview, length: int) -> Plane:
    if mode == Mode.RAW and body.nbytes == length:
        return body
    if mode == Mode.CONSTANT and body.nbytes == 1:
        return body[0]
    if mode == Mode.ZSTD:
        return Coded(mode, 0, 0, body, body[:0])
    if mode not in (Mode.PACKED2, Mode.PACKED4, Mode.SPARSE):
        raise Integrity(UNKNOWN_MODE)
    if body.nbytes < COUNTED.size:
        raise Integrity(CUT_SHORT)
    low, count = COUNTED.unpack_from(body)
    end = body.nbytes if mode == Mode.SPARSE else body.nbytes - count
    if end < COUNTED.size or count > length:
        raise Integrity(TOO_MANY)
    return Coded(mode, low, count, body[COUNTED.size : end], body[end:])


def _start(planes: int) -> int:
    """Where the planes begin: at a multiple of 8, as half elements need it."""
    return -(-(_HEADER.size + planes * _PLANE.size) // 8) * 8
