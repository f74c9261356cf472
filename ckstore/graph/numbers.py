"""Elements as numbers: sums over the bytes of tensors, in double precision.

Numbers of every dtype become doubles a block at a time. float8 kinds come from tables made of their definitions
(Micikevicius and others, 2022; Open Compute Project, 2023). Blocks are so long that threads seldom wait for each
other, and short enough to stay in the caches.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ckstore.codec.arrays import ArrayRoom
from ckstore.graph.sums import PairSums, Summary, added_up, pairs_added_up

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 16
_BLAS_ALONE = 8192
"""So many elements a BLAS works through on the calling thread."""

_FAR = 2.0**300
"""Doubles beyond this, or below its inverse, are scaled before they are squared."""


class _Kind(NamedTuple):
    """Numbers of one dtype: bytes of an element, how many reals it is, and what makes doubles of bytes.

    `integer` is numpy's type of whole numbers; `wide` says that squares may leave a double's range.
    """

    size: int
    reals: int
    load: Callable[[Array, Array], object]
    integer: type[np.integer[Any]] | None = None
    wide: bool = False


def _as(dtype: type[np.generic]) -> Callable[[Array, Array], object]:
    return lambda raw, out: np.copyto(out, raw.view(dtype))


def _bfloat16(raw: Array, out: Array) -> None:
    np.copyto(out, (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32))


def _bool(raw: Array, out: Array) -> None:
    np.not_equal(raw, 0, out=out, casting="unsafe")


def _from(table: Array) -> Callable[[Array, Array], object]:
    return lambda raw, out: np.take(table, raw, out=out, mode="clip")


def _float8(exponent_bits: int, bias: int, *, special: str) -> Array:
    """All values of a float of eight bits: a sign, an exponent, the rest.

    `special`: `ieee` (the highest exponent is Inf and NaN), `fn` (all ones is NaN, no Inf), `fnuz` (minus zero is NaN).
    """
    mantissa_bits = 7 - exponent_bits
    values = []
    for code in range(256):
        exponent, mantissa = code >> mantissa_bits & (1 << exponent_bits) - 1, code & (1 << mantissa_bits) - 1
        fraction = mantissa / (1 << mantissa_bits)
        value = math.ldexp(fraction + 1, exponent - bias) if exponent else math.ldexp(fraction, 1 - bias)
        if special == "ieee" and exponent == (1 << exponent_bits) - 1:
            value = math.nan if mantissa else math.inf
        if (special == "fn" and code & 0x7F == 0x7F) or (special == "fnuz" and code == 0x80):
            value = math.nan
        values.append(-value if code & 0x80 else value)
    return np.array(values)


_EXPONENTS = np.array([2.0 ** (code - 127) for code in range(255)] + [math.nan])

_KINDS = {
    "bool": _Kind(1, 1, _bool, np.uint8),
    **{
        name: _Kind(np.dtype(name).itemsize, 1, _as(np.dtype(name).type), np.dtype(name).type)
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    },
    "float16": _Kind(2, 1, _as(np.float16)),
    "bfloat16": _Kind(2, 1, _bfloat16),
    "float32": _Kind(4, 1, _as(np.float32)),
    "float64": _Kind(8, 1, _as(np.float64), wide=True),
    "complex32": _Kind(4, 2, _as(np.float16)),
    "complex64": _Kind(8, 2, _as(np.float32)),
    "complex128": _Kind(16, 2, _as(np.float64), wide=True),
    "float8_e4m3fn": _Kind(1, 1, _from(_float8(4, 7, special="fn"))),
    "float8_e4m3fnuz": _Kind(1, 1, _from(_float8(4, 8, special="fnuz"))),
    "float8_e5m2": _Kind(1, 1, _from(_float8(5, 15, special="ieee"))),
    "float8_e5m2fnuz": _Kind(1, 1, _from(_float8(5, 16, special="fnuz"))),
    "float8_e8m0fnu": _Kind(1, 1, _from(_EXPONENTS)),
}


def is_numeric(dtype: str) -> bool:
    """Whether the elements of that dtype are numbers: packed and uninterpreted bits are not."""
    return dtype in _KINDS


class Scratch:
    """One thread's blocks, used again."""

    def __init__(self) -> None:
        self.before = ArrayRoom(np.float64)
        self.after = ArrayRoom(np.float64)
        self.change = ArrayRoom(np.float64)
        self.mask = ArrayRoom(np.bool_)


def summarise(dtype: str, data: memoryview, scratch: Scratch) -> Summary:
    """The sums over whole elements of a numeric dtype."""
    kind, raw = _KINDS[dtype], np.frombuffer(data, np.uint8)
    step = _BLOCK // kind.reals * kind.size
    with np.errstate(all="ignore"):
        return added_up(_summary(kind, raw[at : at + step], scratch) for at in range(0, len(raw), step))


def first_not_finite(dtype: str, data: memoryview) -> int | None:
    """The number of the first of whole elements of a numeric dtype that is NaN or infinite; None where none is."""
    kind, raw = _KINDS[dtype], np.frombuffer(data, np.uint8)
    step = _BLOCK // kind.reals * kind.size
    reals = np.empty(_BLOCK, np.float64)
    for at in range(0, len(raw), step):
        block = raw[at : at + step]
        values = reals[: len(block) // kind.size * kind.reals]
        kind.load(block, values)
        odd = np.flatnonzero(~np.isfinite(values))
        if len(odd):
            return at // kind.size + int(odd[0]) // kind.reals
    return None


def compare(dtype: str, item_size: int, before: memoryview, after: memoryview, scratch: Scratch) -> PairSums:
    """The sums over whole elements of two tensors, `item_size` bytes each; their bits alone where they are no numbers.

    `differing_bytes` is the length of all where any bit differs.
    """
    kind = _KINDS.get(dtype)
    old, new = np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)
    step = _BLOCK // (2 if kind and kind.reals == 2 else 1) * item_size
    with np.errstate(all="ignore"):
        sums = pairs_added_up(
            _pair(kind, item_size, old[at : at + step], new[at : at + step], scratch) for at in range(0, len(old), step)
        )
    return replace(sums, differing_bytes=len(old)) if sums.differing else sums


def row_major(data: memoryview, item_size: int, sizes: tuple[int, ...], steps: tuple[int, ...]) -> memoryview:
    """The elements that lie `steps` elements apart, in row-major order. Raises MemoryError."""
    flat = np.frombuffer(data, np.complex128 if item_size == 16 else f"u{item_size}")
    strides = tuple(step * item_size for step in steps)
    laid = np.lib.stride_tricks.as_strided(flat, sizes, strides, writeable=False)
    return memoryview(np.ascontiguousarray(laid).reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _summary(kind: _Kind, raw: Array, scratch: Scratch) -> Summary:
    count = len(raw) // kind.size
    reals = scratch.before.take(count * kind.reals)
    kind.load(raw, reals)
    values = reals if kind.reals == 1 else np.hypot(reals[::2], reals[1::2], out=scratch.after.take(count))
    nans = infs = 0
    total = float(values.sum())
    if not math.isfinite(total):  # also where finite ones add up to more than a double holds
        nan, inf = _not_finite(reals, kind.reals)
        nans, infs = int(np.count_nonzero(nan)), int(np.count_nonzero(inf))
        values = values[~(nan | inf)]
        total = float(values.sum())
    if not len(values):
        return Summary(nans=nans, infs=infs)
    low, high = float(values.min()), float(values.max())
    zeros = int(np.count_nonzero(np.equal(values, 0, out=scratch.mask.take(len(values)))))
    shift = _shift(kind, max(-low, high))
    scaled = np.ldexp(values, shift) if shift else values
    mean = (float(scaled.sum()) if shift else total) / len(values)
    apart = np.subtract(scaled, mean, out=scratch.change.take(len(values)))
    ends: tuple[int | float, int | float] = (low, high)
    if kind.integer is not None:
        whole = raw.view(kind.integer)
        ends = int(whole.min()), int(whole.max())
    return Summary(len(values), zeros, nans, infs, *ends, mean, _dot(apart, apart), shift)


def _pair(kind: _Kind | None, item_size: int, old: Array, new: Array, scratch: Scratch) -> PairSums:
    count, differing = len(old) // item_size, _differing(old, new, item_size, scratch)
    if kind is None:
        return PairSums(count, differing, left_out=count)
    before = after = scratch.before.take(count * kind.reals)
    kind.load(old, before)
    squares = others = _dot(before, before)
    if differing:
        after = scratch.after.take(count * kind.reals)
        kind.load(new, after)
        others = _dot(after, after)
    if not (_is_plain(kind, squares) and _is_plain(kind, others)):
        return _careful_pair(kind, PairSums(count, differing), before, after)
    if not differing:
        return PairSums(count, before=squares, after=squares, product=squares)
    change = np.subtract(after, before, out=scratch.change.take(count * kind.reals))
    if kind.integer is not None and kind.size == 8:
        apart = (new.view(np.uint64) - old.view(np.uint64)).view(np.int64)
        np.copyto(change, apart, where=np.abs(change) < 2.0**62)  # doubles have lost the last digits
    return PairSums(
        count,
        differing,
        before=squares,
        after=others,
        product=_dot(before, after),
        change=_dot(change, change),
        largest=_largest(kind, change),
    )


def _careful_pair(kind: _Kind, counts: PairSums, before: Array, after: Array) -> PairSums:
    """The sums of a block that holds NaN or Inf, or numbers whose squares no double holds."""
    nan_before, inf_before = _not_finite(before, kind.reals)
    nan_after, inf_after = _not_finite(after, kind.reals)
    kept = ~(nan_before | inf_before | nan_after | inf_after)
    old, new = (one.reshape(-1, kind.reals)[kept].reshape(-1) for one in (before, after))
    largest = _largest(kind, new - old) if len(old) else 0.0
    shift = _shift(kind, max(float(np.abs(one).max(initial=0.0)) for one in (old, new)))
    if shift:
        old, new = np.ldexp(old, shift), np.ldexp(new, shift)
    change = new - old
    return replace(
        counts,
        left_out=counts.elements - int(np.count_nonzero(kept)),
        nans_before=int(np.count_nonzero(nan_before)),
        nans_after=int(np.count_nonzero(nan_after)),
        infs_before=int(np.count_nonzero(inf_before)),
        infs_after=int(np.count_nonzero(inf_after)),
        before=_dot(old, old),
        after=_dot(new, new),
        product=_dot(old, new),
        change=_dot(change, change),
        largest=largest,
        shift=shift,
    )


def _not_finite(reals: Array, parts: int) -> tuple[Array, Array]:
    """Which elements are NaN in one of their parts, and which are not but infinite in one."""
    elements = reals.reshape(-1, parts)
    nan: Array = np.logical_or.reduce(np.isnan(elements), axis=1)
    inf: Array = np.logical_or.reduce(np.isinf(elements), axis=1)
    return nan, inf & ~nan


def _is_plain(kind: _Kind, squares: float) -> bool:
    """Whether a sum of squares is as exact as it looks: nothing in it was NaN, infinite, or lost."""
    return 1 / _FAR**2 < squares < _FAR**2 if kind.wide else math.isfinite(squares)


def _shift(kind: _Kind, largest: float) -> int:
    """The exponent of the power of two that brings numbers up to `largest` to about 1, where they need it."""
    needed = kind.wide and largest and not 1 / _FAR < largest < _FAR
    return -math.frexp(largest)[1] if needed else 0


def _largest(kind: _Kind, change: Array) -> float:
    if kind.reals == 2:
        return float(np.hypot(change[::2], change[1::2]).max())
    return abs(max(float(change.max()), -float(change.min())))


def _differing(old: Array, new: Array, item_size: int, scratch: Scratch) -> int:
    """How many elements have other bits."""
    word = np.dtype(f"u{min(item_size, 8)}")
    mask = scratch.mask.take(len(old) // word.itemsize)
    np.not_equal(old.view(word), new.view(word), out=mask)
    return int(np.count_nonzero(mask if item_size <= 8 else mask.reshape(-1, 2).any(axis=1)))


def _dot(one: Array, other: Array) -> float:
    """The sum of products; on this thread alone, whatever BLAS would do."""
    whole = len(one) // _BLAS_ALONE * _BLAS_ALONE
    total = float(np.dot(one[whole:], other[whole:]))
    if whole:
        rows = np.matmul(one[:whole].reshape(-1, 1, _BLAS_ALONE), other[:whole].reshape(-1, _BLAS_ALONE, 1))
        total += float(rows.sum())
    return total
