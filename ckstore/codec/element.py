"""What a dtype's numbers are: how wide, and whether they are floats."""

from __future__ import annotations

WIDTHS = frozenset({1, 2, 4, 8})
"""How wide, in bytes, the numbers are that can be cut into planes."""

_FLOATS = {
    "float8": 1,
    "bfloat16": 2,
    "float16": 2,
    "half": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 2,
    "complex64": 4,
    "complex128": 8,
}
_INTEGERS = {"int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8}


def element(dtype: str) -> tuple[int, bool] | None:
    """Width in bytes of the numbers that `dtype` is made of, and whether they are floats; None for no such numbers."""
    name = "float8" if dtype.startswith("float8") else dtype
    if name in _FLOATS:
        return _FLOATS[name], True
    return (_INTEGERS[name], False) if name in _INTEGERS else None
