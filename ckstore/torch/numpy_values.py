"""numpy scalars and arrays as leaves and back. Object arrays are refused: they hold Python objects."""

from __future__ import annotations

import ast
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from ckstore.errors import Format
from ckstore.objects.draft import DraftBlob, held
from ckstore.objects.leaf import INLINE_LIMIT, Blob, NumpyArray, NumpyScalar
from ckstore.objects.plain import NOT_PLAIN, with_blob

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_TEXT = 1 << 16
"""Characters the name of a dtype may have."""


def array_leaf(array: np.ndarray) -> object:
    """The leaf of an array, a DraftBlob for a long one, or NOT_PLAIN for a dtype that does not come back."""
    dtype = _dtype_text(array.dtype)
    if dtype is None:
        return NOT_PLAIN
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = _contiguous(array.T if fortran else array)
    shape = tuple(array.shape)
    if array.nbytes <= INLINE_LIMIT:
        return NumpyArray(dtype, shape, fortran, flat.tobytes())
    data = memoryview(flat.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return DraftBlob(data.nbytes, held(data), lambda blob: NumpyArray(dtype, shape, fortran, blob), str(array.dtype))


def _contiguous(array: np.ndarray) -> np.ndarray:
    """`array` in C order; what lies between the fields of a copy is zero."""
    if array.flags.c_contiguous or array.dtype.fields is None:
        return np.ascontiguousarray(array).reshape(array.shape)
    made = np.zeros(array.shape, array.dtype)
    made[...] = array
    return made


def scalar_leaf(scalar: np.generic) -> object:
    """The leaf of a numpy scalar, a DraftBlob for a long one, or NOT_PLAIN."""
    dtype, data = _dtype_text(scalar.dtype), scalar.tobytes()
    # Texts are kept by value: as an element of an array they would lose what ends in zeros.
    if isinstance(scalar, np.bytes_):
        data = bytes(scalar)
        dtype = f"|S{len(data)}"
    elif isinstance(scalar, np.str_):
        data = str.encode(scalar, "utf-32-le", "surrogatepass")
        dtype = f"<U{len(data) // 4}"
    return NOT_PLAIN if dtype is None else with_blob(data, partial(NumpyScalar, dtype))


def from_numpy_leaf(value: NumpyScalar | NumpyArray, read: Callable[[Blob], bytes | bytearray]) -> object:
    """The scalar or array of a leaf. Raises `Format`."""
    dtype = _dtype_of(value.dtype)
    shape = value.shape if isinstance(value, NumpyArray) else ()
    order: Literal["C", "F"] = "F" if isinstance(value, NumpyArray) and value.fortran else "C"
    data = read(value.data)
    if any(n < 0 for n in shape) or prod(shape) * dtype.itemsize != len(data):
        raise Format(f"a numpy value of shape {shape} and dtype {dtype} has {len(data)} bytes")
    try:
        if isinstance(value, NumpyScalar) and dtype.kind == "S":
            return np.bytes_(data)
        if isinstance(value, NumpyScalar) and dtype.kind == "U":
            return np.str_(data.decode("utf-32-le", "surrogatepass"))
        held = data if isinstance(data, bytearray) else bytearray(data)
        made = np.ndarray(shape, dtype, held or bytearray(1), order=order)
        return made[()] if isinstance(value, NumpyScalar) else made
    except (ValueError, TypeError, OverflowError) as error:
        raise Format(f"a numpy value of shape {shape} and dtype {dtype} cannot be made: {error}") from error


def _dtype_text(dtype: np.dtype) -> str | None:
    if dtype.hasobject:
        return None
    try:
        text = dtype.str if dtype.fields is None else repr(np.lib.format.dtype_to_descr(dtype))
        return text if _dtype_of(text) == dtype else None
    except (Format, ValueError, TypeError):
        return None


def _dtype_of(text: str) -> np.dtype:
    if len(text) > _MOST_TEXT:
        raise Format("the name of a numpy dtype is too long")
    try:
        if text.startswith(("[", "(", "{")):
            dtype = np.lib.format.descr_to_dtype(ast.literal_eval(text))
        else:
            dtype = np.dtype(text)
    except _BAD_DTYPE as error:
        raise Format(f"unknown numpy dtype {text[:80]!r}") from error
    if dtype.hasobject or dtype.subdtype is not None:
        raise Format(f"a numpy value cannot have the dtype {text[:80]!r}")
    return dtype


_BAD_DTYPE = (
    TypeError,
    ValueError,
    SyntaxError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
