"""numpy scalars and arrays in a pickle, of dtypes without fields and without objects."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.parsed import damaged
from ckstore.files.pickle_values import GlobalRef, NotUnderstoodError, NumpyArray, NumpyDtype
from ckstore.objects import leaf
from ckstore.objects.draft import DraftBlob, held

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.files.pickle_limits import Limits

    Args = tuple[object, ...]

MAX_DIMS = 64

_NUMBER = re.compile("b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)")
_TEXT = re.compile("[US][0-9]{1,7}", re.ASCII)
_ORDERS = frozenset("<>|")
_NAMES = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}


def _item_size(code: str) -> int | None:
    """Bytes an element has, or None for a code that is not known."""
    if _NUMBER.fullmatch(code):
        return int(code[1:])
    if _TEXT.fullmatch(code):
        return int(code[1:]) * (4 if code[0] == "U" else 1)
    return None


def _hint(dtype: str) -> str:
    """The dtype's name in torch, for the codec; numpy's own where torch has none."""
    kind, size = dtype[1], dtype[2:]
    name = "bool" if kind == "b" else f"{_NAMES.get(kind, '')}{size and int(size) * 8}"
    return name if dtype[0] != ">" and name in ITEM_SIZE else dtype


def _dtype(args: Args, limits: Limits) -> object:
    match args:
        case (str(code), *_) if _item_size(code) is not None:
            return NumpyDtype(code)
    return None


def set_dtype(target: NumpyDtype, state: object) -> None:
    """Give a dtype its byte order. Raises NotUnderstoodError for one with fields, a shape or metadata."""
    match state:
        case (3, str(order), None, None, None, int(), int(), int()) if order in _ORDERS:
            target.text = order + target.code
        case _:
            raise NotUnderstoodError("a numpy dtype with parts")


def _scalar(args: Args, limits: Limits) -> object:
    match args:
        case (NumpyDtype(code=code, text=str(dtype)), bytes(data)) if len(data) <= leaf.INLINE_LIMIT:
            if len(data) != _item_size(code):
                raise damaged("a numpy scalar in the file has the wrong length", f"{len(data)} bytes as {dtype}")
            return leaf.NumpyScalar(dtype, data)
    return None


def _reconstruct(args: Args, limits: Limits) -> object:
    match args:
        case (GlobalRef(module="numpy", name="ndarray"), (0,), bytes()):
            return NumpyArray()
    return None


def _from_buffer(args: Args, limits: Limits) -> object:
    match args:
        case (bytes() | bytearray() as data, NumpyDtype() as dtype, tuple(shape), "C" | "F" as order):
            return NumpyArray(_array(dtype, shape, data, limits, fortran=order == "F"))
    return None


def set_array(target: NumpyArray, state: object, limits: Limits) -> None:
    """Give an array its shape, dtype and bytes. Raises `Format` where they disagree, NotUnderstoodError for objects."""
    match state:
        case (1, tuple(shape), NumpyDtype() as dtype, bool(fortran), bytes() | bytearray() as data):
            target.leaf = _array(dtype, shape, data, limits, fortran=fortran)
        case _:
            raise NotUnderstoodError("a numpy array with an unknown state")


def _array(
    dtype: NumpyDtype, shape: tuple[object, ...], data: bytes | bytearray, limits: Limits, *, fortran: bool
) -> object:
    size = _item_size(dtype.code)
    if dtype.text is None or size is None or len(shape) > MAX_DIMS:
        raise NotUnderstoodError("a numpy array of an unknown dtype")
    sizes = [number for number in shape if type(number) is int and 0 <= number < 1 << 63]
    for number in sizes:
        size *= number
    if len(sizes) != len(shape) or size != len(data):
        raise damaged("a numpy array in the file has the wrong length", f"{len(data)} bytes as {dtype.text}")
    make = partial(leaf.NumpyArray, dtype.text, tuple(sizes), fortran)
    if len(data) <= leaf.INLINE_LIMIT:
        limits.take(1, len(data))
        return make(bytes(data))
    return DraftBlob(len(data), held(memoryview(data)), make, _hint(dtype.text))


CALLS: dict[tuple[str, str], Callable[[Args, Limits], object]] = {
    ("numpy", "dtype"): _dtype,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
}
