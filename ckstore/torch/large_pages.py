"""Asks for large memory pages: taking 512 small ones in turn costs more than filling them."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGE = 2 << 20
_LEAST_BYTES = 2 * _LARGE
_MADV_HUGEPAGE = 14


def prefer_large_pages(address: int, length: int) -> None:
    """Tell the system that the memory there may come in large pages as far as it has whole ones. A hint, no more."""
    start = -(-address // _LARGE) * _LARGE
    end = (address + length) // _LARGE * _LARGE
    if length >= _LEAST_BYTES and end > start:
        _advise()(start, end - start)


@cache
def _advise() -> Callable[[int, int], object]:
    call = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if call is None:
        return lambda _start, _length: None
    call.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    return lambda start, length: call(start, length, _MADV_HUGEPAGE)
