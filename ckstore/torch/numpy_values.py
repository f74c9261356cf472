"""numpy scalars and arrays as leaves and back. Object arrays are refused: they hold Python objects."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

import numpy as np

from ckstore.errors import Format
from ckstore.objects.draft import DraftBlob, held
from ckstore.objects.leaf import INLINE_LIMIT, Blob, NumpyArray, NumpyScalar
from ckstore.objects.plain import NOT_PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable


def array_leaf(array: np.ndarray) -> object:
    """The leaf of an array, a DraftBlob for a long one, or NOT_PLAIN for a dtype that does not come back."""
    dtype = _dtype_text(array.dtype)
    if dtype is None:
        return NOT_PLAIN
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = array.T if fortran else array
    shape = tuple(array.shape)
    if array.nbytes <= INLINE_LIMIT:
        return NumpyArray(dtype, shape, fortran, flat.tobytes())
    data = memoryview(np.ascontiguousarray(flat).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return DraftBlob(data.nbytes, held(data), lambda blob: NumpyArray(dtype, shape, fortran, blob), str(array.dtype))


def scalar_leaf(scalar: np.generic) -> object:
    """The leaf of a numpy scalar, or NOT_PLAIN."""
    dtype = _dtype_text(scalar.dtype)
    return NOT_PLAIN if dtype is None else NumpyScalar(dtype, scalar.tobytes()[:INLINE_LIMIT])


def from_numpy_leaf(value: NumpyScalar | NumpyArray, read: Callable[[Blob], bytes | bytearray]) -> object:
    """The scalar or array of a leaf. Raises `Format`."""
    dtype = _dtype_of(value.dtype)
    shape = value.shape if isinstance(value, NumpyArray) else ()
    data = read(value.data)
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise Format(f"a numpy value of shape {shape} and dtype {dtype} has {len(data)} bytes")
    if dtype.itemsize == 0:
        flat = np.empty(math.prod(shape), dtype=dtype)
    else:
        flat = np.frombuffer(bytearray(data), dtype=dtype)
    if isinstance(value, NumpyScalar):
        return flat[0]
    return flat.reshape(shape[::-1]).T if value.fortran else flat.reshape(shape)


def _dtype_text(dtype: np.dtype) -> str | None:
    if dtype.hasobject:
        return None
    text = dtype.str if dtype.fields is None else repr(np.lib.format.dtype_to_descr(dtype))
    try:
        return text if _dtype_of(text) == dtype else None
    except Format:
        return None


def _dtype_of(text: str) -> np.dtype:
    try:
        if text.startswith(("[", "(", "{")):
            dtype = np.lib.format.descr_to_dtype(ast.literal_eval(text))
        else:
            dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Format(f"unknown numpy dtype {text[:80]!r}") from error
    if dtype.hasobject:
        raise Format("a numpy value claims to hold Python objects")
    return dtype
