"""The opcodes of a pickle that push a value standing in the pickle itself.

Each reads at a position and gives the value and the position after it. Raises ValueError, IndexError or
struct.error where the pickle ends too soon.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Read = tuple[object, int]

_U2 = struct.Struct("<H")
_I4 = struct.Struct("<i")
_U4 = struct.Struct("<I")
_U8 = struct.Struct("<Q")
_DOUBLE = struct.Struct(">d")


def piece(data: memoryview, start: int, length: int) -> memoryview:
    """Exactly `length` bytes at `start`."""
    stop = start + length
    if length < 0 or stop > len(data):
        raise ValueError(f"{length} bytes are asked for where {len(data) - start} are left")
    return data[start:stop]


def length1(data: memoryview, at: int) -> tuple[int, int]:
    """A length of one byte, and the position after it."""
    return data[at], at + 1


def length4(data: memoryview, at: int) -> tuple[int, int]:
    """A length of four bytes, and the position after it."""
    length: int = _U4.unpack_from(data, at)[0]
    return length, at + 4


def length8(data: memoryview, at: int) -> tuple[int, int]:
    """A length of eight bytes, and the position after it."""
    length: int = _U8.unpack_from(data, at)[0]
    return length, at + 8


def _int1(data: memoryview, at: int) -> Read:
    return data[at], at + 1


def _int2(data: memoryview, at: int) -> Read:
    return _U2.unpack_from(data, at)[0], at + 2


def _int4(data: memoryview, at: int) -> Read:
    return _I4.unpack_from(data, at)[0], at + 4


def _float(data: memoryview, at: int) -> Read:
    return _DOUBLE.unpack_from(data, at)[0], at + 8


def _long1(data: memoryview, at: int) -> Read:
    length = data[at]
    return int.from_bytes(piece(data, at + 1, length), "little", signed=True), at + 1 + length


def _long4(data: memoryview, at: int) -> Read:
    length: int = _I4.unpack_from(data, at)[0]
    return int.from_bytes(piece(data, at + 4, length), "little", signed=True), at + 4 + length


def _text(length_at: Callable[[memoryview, int], tuple[int, int]]) -> Callable[[memoryview, int], Read]:
    def read(data: memoryview, at: int) -> Read:
        length, start = length_at(data, at)
        return str(piece(data, start, length), "utf-8", "surrogatepass"), start + length

    return read


def _binary(
    length_at: Callable[[memoryview, int], tuple[int, int]], kind: type[bytes | bytearray]
) -> Callable[[memoryview, int], Read]:
    def read(data: memoryview, at: int) -> Read:
        length, start = length_at(data, at)
        return kind(piece(data, start, length)), start + length

    return read


def _new(make: Callable[[], object]) -> Callable[[memoryview, int], Read]:
    def read(data: memoryview, at: int) -> Read:
        return make(), at

    return read


def _constant(value: object) -> Callable[[memoryview, int], Read]:
    def read(data: memoryview, at: int) -> Read:
        return value, at

    return read


LITERALS: dict[int, Callable[[memoryview, int], Read]] = {
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(()),
    ord("]"): _new(list),
    ord("}"): _new(dict),
    0x8F: _new(set),
    ord("J"): _int4,
    ord("K"): _int1,
    ord("M"): _int2,
    0x8A: _long1,
    0x8B: _long4,
    ord("G"): _float,
    0x8C: _text(length1),
    ord("X"): _text(length4),
    0x8D: _text(length8),
    ord("C"): _binary(length1, bytes),
    ord("B"): _binary(length4, bytes),
    0x8E: _binary(length8, bytes),
    0x96: _binary(length8, bytearray),
}
"""Opcode -> how its value is read."""
