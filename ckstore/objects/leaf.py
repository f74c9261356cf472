"""Leaves: the non-tensor values a tree keeps natively.

None, bool, short str and integers of 64 bits are MessagePack values as they are; the rest are the
structs below. Floats are kept as their bits, so that -0.0 and NaN payloads come back.
"""

from __future__ import annotations

from msgspec import Struct

INLINE_LIMIT = 4096
"""Payloads longer than this many bytes are cut into chunks."""

MAX_KEY_DEPTH = 16
"""Tuples inside tuples in a dictionary key, at most."""


class Chunks(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Bytes kept as chunks: `length` bytes in all, `ids` the 32-byte chunk ids one after another."""

    length: int
    ids: bytes


Blob = bytes | Chunks
"""Bytes inline up to INLINE_LIMIT, else chunked."""


class Float(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """IEEE 754 double, 8 bytes big-endian."""

    bits: bytes


class Complex(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Two doubles, real then imaginary, 16 bytes big-endian."""

    bits: bytes


class BigInt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """An integer beyond 64 bits: shortest two's complement, big-endian."""

    data: Blob


class Text(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """A str that is long, or holds lone surrogates: UTF-8 with `surrogatepass`."""

    data: Blob


class Bytes(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """bytes, or a bytearray (`mutable`)."""

    data: Blob
    mutable: bool


class FilePath(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """A pathlib path; `flavour` is the class it had: Path, PurePosixPath or PureWindowsPath."""

    flavour: str
    text: str


class Dtype(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """A torch dtype by its name without `torch.`."""

    name: str


class Device(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """A torch device, such as `cuda:0`."""

    name: str


class NumpyScalar(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """A numpy scalar: `dtype` as numpy writes it (`<f4`), its bytes."""

    dtype: str
    data: Blob


class NumpyArray(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """A numpy array in C order, or in Fortran order where `fortran` says so."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    data: Blob


class Pickled(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=12):
    """A pickle, written only on request (`allow_pickle=True`) and read only on request."""

    data: Blob


class TupleKey(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=13):
    """A tuple used as a dictionary key."""

    items: tuple[Key, ...]


class TorchConstant(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=14):
    """A torch layout or memory format by its name without `torch.`."""

    name: str


Leaf = (
    None
    | bool
    | int
    | str
    | Bytes
    | Float
    | Complex
    | BigInt
    | Text
    | FilePath
    | Dtype
    | Device
    | NumpyScalar
    | NumpyArray
    | Pickled
    | TorchConstant
)

Key = (
    None
    | bool
    | int
    | str
    | Bytes
    | Float
    | Complex
    | BigInt
    | Text
    | FilePath
    | Dtype
    | Device
    | NumpyScalar
    | TupleKey
)
"""What a dictionary key can be."""
