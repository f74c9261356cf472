"""Plain Python values as leaves and back: what needs neither torch nor numpy."""

from __future__ import annotations

import pathlib
import struct
from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.objects.draft import DraftBlob, held
from ckstore.objects.encoding import bits_float, float_bits
from ckstore.objects.leaf import (
    INLINE_LIMIT,
    MAX_KEY_DEPTH,
    BigInt,
    Blob,
    Bytes,
    Complex,
    FilePath,
    Float,
    Key,
    Leaf,
    Text,
    TupleKey,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_TWO_DOUBLES = struct.Struct(">dd")
_PATH = type(pathlib.Path())

NOT_PLAIN = object()
"""What `to_leaf` and `to_key` return for a value they do not know."""


def to_leaf(value: object) -> object:
    """The leaf for a plain value, a DraftBlob where its payload must be chunked, or NOT_PLAIN.

    Exact types only: a subclass of int or str is another type and would not come back as it was.
    """
    cls = type(value)
    if value is None or cls is bool:
        return value
    if isinstance(value, int) and cls is int:
        return value if _INT_MIN <= value <= _INT_MAX else with_blob(int_bytes(value), BigInt)
    if isinstance(value, float) and cls is float:
        return Float(float_bits(value))
    if isinstance(value, str) and cls is str:
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            return with_blob(value.encode("utf-8", "surrogatepass"), Text)
        return value if len(encoded) <= INLINE_LIMIT else with_blob(encoded, Text)
    if isinstance(value, bytes) and cls is bytes:
        return with_blob(value, _immutable)
    if isinstance(value, bytearray) and cls is bytearray:
        return with_blob(bytes(value), _mutable)
    if isinstance(value, complex) and cls is complex:
        return Complex(_TWO_DOUBLES.pack(value.real, value.imag))
    if isinstance(value, pathlib.PurePath):
        return _path_leaf(value)
    return NOT_PLAIN


def with_blob(data: bytes, make: Callable[[Blob], Leaf]) -> object:
    """The leaf `make` builds of `data`: at once if that is short, else as a DraftBlob."""
    return make(data) if len(data) <= INLINE_LIMIT else DraftBlob(len(data), held(data), make)


def _immutable(blob: Blob) -> Bytes:
    return Bytes(blob, mutable=False)


def _mutable(blob: Blob) -> Bytes:
    return Bytes(blob, mutable=True)


def int_bytes(value: int) -> bytes:
    """Shortest two's complement of `value`, big-endian."""
    return value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)


def _path_leaf(value: pathlib.PurePath) -> object:
    if type(value) is _PATH:
        flavour = "Path"
    elif type(value) is pathlib.PurePosixPath:
        flavour = "PurePosixPath"
    elif type(value) is pathlib.PureWindowsPath:
        flavour = "PureWindowsPath"
    else:
        return NOT_PLAIN
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return NOT_PLAIN
    return FilePath(flavour, str(value))


def to_key(value: object, depth: int = 0) -> object:
    """The key for a plain dictionary key, or NOT_PLAIN. Tuples of keys are keys, MAX_KEY_DEPTH of them at most."""
    if isinstance(value, tuple) and type(value) is tuple:
        items = [to_key(item, depth + 1) if depth < MAX_KEY_DEPTH else NOT_PLAIN for item in value]
        return NOT_PLAIN if NOT_PLAIN in items else TupleKey(tuple(items))  # type: ignore[arg-type]
    leaf = to_leaf(value)
    if isinstance(leaf, DraftBlob) or (isinstance(leaf, Bytes) and leaf.mutable):
        return NOT_PLAIN
    return leaf


def from_plain(value: Leaf | Key, read: Callable[[Blob], bytes | bytearray], depth: int = 0) -> object:
    """The plain value a leaf or key stands for, or NOT_PLAIN. `read` fetches payloads. Raises `Format`."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Float):
        return bits_float(value.bits)
    if isinstance(value, Complex):
        if len(value.bits) != _TWO_DOUBLES.size:
            raise Format("a complex number is not sixteen bytes long")
        return complex(*_TWO_DOUBLES.unpack(value.bits))
    if isinstance(value, BigInt):
        return int.from_bytes(read(value.data), "big", signed=True)
    if isinstance(value, Text):
        try:
            return read(value.data).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise Format("a text is not UTF-8") from error
    if isinstance(value, Bytes):
        return bytearray(read(value.data)) if value.mutable else bytes(read(value.data))
    if isinstance(value, FilePath):
        flavours: dict[str, type[pathlib.PurePath]] = {
            "Path": pathlib.Path,
            "PurePosixPath": pathlib.PurePosixPath,
            "PureWindowsPath": pathlib.PureWindowsPath,
        }
        if value.flavour not in flavours:
            raise Format(f"a path has the unknown flavour {value.flavour!r}")
        return flavours[value.flavour](value.text)
    if isinstance(value, TupleKey):
        if depth >= MAX_KEY_DEPTH:
            raise Format(f"a key nests more than {MAX_KEY_DEPTH} tuples")
        return tuple(from_plain(item, read, depth + 1) for item in value.items)
    return NOT_PLAIN
