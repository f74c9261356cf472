"""Byte planes: the n-th bytes of all elements stand together, each plane compressed, raw, or one byte if constant.

In a float's bytes the mantissa is noise and the exponent is not: apart, the noise stays raw and the rest shrinks.
Floats are rotated left by one bit first, so that the sign joins the noise and the exponent is one whole plane.

Against a base, an older version of the same numbers, it is the wrap-around integer difference that is cut into planes,
zigzagged so that small differences of both signs have small values.

    payload = flags (bit 0: rotated, bit 1: difference), width, then for each plane its mode and length, then the
              planes, then the bytes after the last whole element
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import zstandard

from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

_HEADER = struct.Struct("<BB")
_PLANE = struct.Struct("<BI")
_ROTATED, _DIFFERENCE = 1, 2
_RAW, _ZSTD, _CONSTANT = range(3)
_WORTH = 0.97
_BLOCK = 1 << 16
_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    hash_log=6,
    min_match=7,
    target_length=0,
    window_log=20,
    write_content_size=True,
)
"""Settings under which zstd is an entropy coder that passes over noise at memory speed."""

_Array = np.ndarray[Any, np.dtype[Any]]


class Planes:
    """Encodes and decodes with buffers that are reused; for one thread at a time."""

    def __init__(self) -> None:
        self._zstd = Zstd(ENTROPY)
        self._planes = np.empty(0, np.uint8)
        self._check = np.empty(0, np.uint8)
        self._turned: dict[int, tuple[_Array, _Array]] = {}

    def encode(self, raw: memoryview, width: int, *, rotate: bool, base: memoryview | None = None) -> bytes:
        """The payload of `raw`, numbers of `width` bytes, by itself or as the difference to `base`, which is as long.

        Every compressed plane is decoded again and compared.
        """
        count = raw.nbytes // width
        planes = self._room(count, width)
        self._split(raw, planes, width, rotate=rotate, base=base)
        flags = _ROTATED * rotate if base is None else _DIFFERENCE
        header = [_HEADER.pack(flags, width)]
        bodies: list[bytes | memoryview] = []
        for plane in planes:
            mode, body = self._encode_plane(plane)
            header.append(_PLANE.pack(mode, len(body)))
            bodies.append(body)
        return b"".join([*header, *bodies, raw[count * width :]])

    def entropy(self, raw: memoryview, width: int, *, rotate: bool, base: memoryview | None = None) -> float:
        """What `encode` would about come to: bytes of order-0 entropy, plane by plane."""
        count = raw.nbytes // width
        if not count:
            return 0.0
        planes = self._room(count, width)
        self._split(raw, planes, width, rotate=rotate, base=base)
        total = 0.0
        for plane in planes:
            shares = np.bincount(plane, minlength=256) / count
            total -= float(shares @ np.log2(shares, out=np.zeros(256), where=shares > 0))
        return total * count / 8

    def decode(self, payload: memoryview, target: memoryview, base: memoryview | None = None) -> None:
        """Fill `target` exactly; `base` is the one it was encoded against. Raises `Integrity`.

        Every length is checked before it is used.
        """
        if payload.nbytes < _HEADER.size:
            raise Integrity("a payload of byte planes is cut short")
        flags, width = _HEADER.unpack_from(payload)
        expected = (0, _ROTATED) if base is None else (_DIFFERENCE,)
        if width not in _WIDTHS or flags not in expected or (base is not None and base.nbytes != target.nbytes):
            raise Integrity("a payload of byte planes has an unknown header")
        count = target.nbytes // width
        start = _HEADER.size + width * _PLANE.size
        if payload.nbytes < start:
            raise Integrity("a payload of byte planes is cut short")
        planes = self._room(count, width)
        for number, plane in enumerate(planes):
            mode, length = _PLANE.unpack_from(payload, _HEADER.size + number * _PLANE.size)
            body = payload[start : start + length]
            if body.nbytes != length:
                raise Integrity("a payload of byte planes is cut short")
            self._decode_plane(mode, body, plane)
            start += length
        tail = target[count * width :]
        if payload.nbytes - start != tail.nbytes:
            raise Integrity("a payload of byte planes has another length than its element")
        self._join(planes, target[: count * width], width, rotated=flags == _ROTATED, base=base)
        tail[:] = payload[start:]

    def _room(self, count: int, width: int) -> list[_Array]:
        if self._planes.nbytes < count * width:
            self._planes = np.empty(count * width, np.uint8)
        return [self._planes[number * count : (number + 1) * count] for number in range(width)]

    def _scratch(self, width: int) -> tuple[_Array, _Array]:
        """Two blocks of elements that stay in the core's cache."""
        if width not in self._turned:
            self._turned[width] = (np.empty(_BLOCK, _WIDTHS[width]), np.empty(_BLOCK, _WIDTHS[width]))
        return self._turned[width]

    def _split(
        self, raw: memoryview, planes: list[_Array], width: int, *, rotate: bool, base: memoryview | None
    ) -> None:
        numbers = np.frombuffer(raw, _WIDTHS[width], count=len(planes[0]))
        olds = None if base is None else np.frombuffer(base, _WIDTHS[width], count=len(planes[0]))
        turned, shifted = self._scratch(width)
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            size = len(block)
            if olds is not None:
                source = turned[:size]
                np.subtract(block, olds[start : start + size], out=source)
                np.right_shift(source, 8 * width - 1, out=shifted[:size])
                np.negative(shifted[:size], out=shifted[:size])
                np.left_shift(source, 1, out=source)
                np.bitwise_xor(source, shifted[:size], out=source)
            elif rotate:
                source = turned[:size]
                np.left_shift(block, 1, out=source)
                np.right_shift(block, 8 * width - 1, out=shifted[:size])
                np.bitwise_or(source, shifted[:size], out=source)
            else:
                source = block
            for number, plane in enumerate(planes):
                if number:
                    np.right_shift(source, 8 * number, out=shifted[:size])
                np.copyto(plane[start : start + size], shifted[:size] if number else source, casting="unsafe")

    def _join(
        self, planes: list[_Array], target: memoryview, width: int, *, rotated: bool, base: memoryview | None
    ) -> None:
        numbers = np.frombuffer(target, _WIDTHS[width])
        olds = None if base is None else np.frombuffer(base, _WIDTHS[width], count=len(numbers))
        turned, shifted = self._scratch(width)
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            size = len(block)
            joined = turned[:size] if rotated or olds is not None else block
            part = shifted[:size]
            np.copyto(joined, planes[0][start : start + size])
            for number in range(1, width):
                np.copyto(part, planes[number][start : start + size])
                np.left_shift(part, 8 * number, out=part)
                np.bitwise_or(joined, part, out=joined)
            if rotated:
                np.left_shift(joined, 8 * width - 1, out=part)
                np.right_shift(joined, 1, out=joined)
                np.bitwise_or(joined, part, out=block)
            elif olds is not None:
                np.bitwise_and(joined, 1, out=part)
                np.negative(part, out=part)
                np.right_shift(joined, 1, out=joined)
                np.bitwise_xor(joined, part, out=joined)
                np.add(joined, olds[start : start + size], out=block)

    def _encode_plane(self, plane: _Array) -> tuple[int, bytes | memoryview]:
        body = plane.data
        if not len(plane):
            return _RAW, body
        if plane[0] == plane[-1] and not np.any(plane != plane[0]):
            return _CONSTANT, bytes(body[:1])
        packed = self._zstd.compress(body)
        if len(packed) > _WORTH * len(plane):
            return _RAW, body
        if self._check.nbytes < len(plane):
            self._check = np.empty(len(plane), np.uint8)
        again = self._check[: len(plane)]
        self._zstd.decompress_into(packed, again.data)
        if not np.array_equal(again, plane):
            raise Integrity("a plane changed between compressing and checking it", hint="check this machine's memory")
        return _ZSTD, packed

    def _decode_plane(self, mode: int, body: memoryview, plane: _Array) -> None:
        if mode == _CONSTANT and body.nbytes == 1:
            plane.fill(body[0])
        elif mode == _RAW and body.nbytes == len(plane):
            np.copyto(plane, np.frombuffer(body, np.uint8))
        elif mode == _ZSTD:
            self._zstd.decompress_into(body, plane.data)
        else:
            raise Integrity("a byte plane has an unknown mode or the wrong length")
