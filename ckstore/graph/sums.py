"""Sums over elements: what the parts of a tensor add up to, and the figures that come of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Number = int | float


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over some elements; all but the counts are of finite ones.

    `mean`, and `squares`, the sum of squared distances from it, are of values times 2 ** `shift`.
    """

    finite: int = 0
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    minimum: Number | None = None
    maximum: Number | None = None
    mean: float = 0.0
    squares: float = 0.0
    shift: int = 0


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over some elements of two tensors; all but the counts are of those that are finite in both.

    `before` and `after` are sums of squares, `change` that of the differences, `product` the sum of products, all of
    values times 2 ** `shift`; `largest` is the largest absolute difference as it is. `differing_bytes` are those of
    the portions in which anything differs.
    """

    elements: int = 0
    differing: int = 0
    differing_bytes: int = 0
    left_out: int = 0
    nans_before: int = 0
    nans_after: int = 0
    infs_before: int = 0
    infs_after: int = 0
    before: float = 0.0
    after: float = 0.0
    product: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    shift: int = 0


@dataclass(frozen=True)
class Statistics:
    """Figures of one tensor.

    `minimum`, `maximum`, `mean` and `std` (of the whole population: over the count, not one less) are of the finite
    elements, None where there is none; of complex numbers they are of the absolute values. `zero_share` is the share
    of all elements that are zero, from 0 to 1. `nans` and `infs` count elements; a complex one with a NaN is a NaN.
    """

    elements: int
    minimum: Number | None
    maximum: Number | None
    mean: float | None
    std: float | None
    zero_share: float
    nans: int
    infs: int


@dataclass(frozen=True)
class Change:
    """Figures of what became of one tensor.

    `differing_share` is the share of elements whose bits differ, from 0 to 1. `relative_change` is the Euclidean norm
    of the change over that of the older tensor (None where that is zero), `largest_change` the largest absolute change
    of an element, `cosine` that of the angle between the two as vectors (None where one is zero; a complex element is
    two). These three leave out the `left_out` elements that are NaN or infinite in either tensor, or of a dtype that
    is no number, and are None where none is left. `nans` and `infs` count elements, as they were and as they are.
    """

    elements: int
    differing: int
    differing_share: float
    relative_change: float | None
    largest_change: float | None
    cosine: float | None
    left_out: int
    nans_before: int
    nans_after: int
    infs_before: int
    infs_after: int


def added_up(parts: Iterable[Summary]) -> Summary:
    """What the parts of a tensor add up to (Chan, Golub and LeVeque, 1979)."""
    return reduce(_joined, parts, None) or Summary()


def _joined(one: Summary | None, other: Summary) -> Summary:
    if one is None:
        return other
    finite = one.finite + other.finite
    shift = _shift((one.shift, bool(one.mean or one.squares)), (other.shift, bool(other.mean or other.squares)))
    mean, apart = _scaled(one.mean, shift - one.shift), 0.0
    squares = _scaled(one.squares, 2 * (shift - one.shift)) + _scaled(other.squares, 2 * (shift - other.shift))
    if other.finite:
        apart = _scaled(other.mean, shift - other.shift) - mean
        mean += apart * (other.finite / finite)
        squares += apart * apart * one.finite * (other.finite / finite)
    lows = [value for value in (one.minimum, other.minimum) if value is not None]
    highs = [value for value in (one.maximum, other.maximum) if value is not None]
    return Summary(
        finite,
        one.zeros + other.zeros,
        one.nans + other.nans,
        one.infs + other.infs,
        min(lows, default=None),
        max(highs, default=None),
        mean,
        squares,
        shift,
    )


def pairs_added_up(parts: Iterable[PairSums]) -> PairSums:
    """What the parts of a pair of tensors add up to."""
    return reduce(_paired, parts, None) or PairSums()


def _paired(one: PairSums | None, other: PairSums) -> PairSums:
    if one is None:
        return other
    shift = _shift((one.shift, bool(one.before or one.after)), (other.shift, bool(other.before or other.after)))
    left, right = 2 * (shift - one.shift), 2 * (shift - other.shift)
    return PairSums(
        one.elements + other.elements,
        one.differing + other.differing,
        one.differing_bytes + other.differing_bytes,
        one.left_out + other.left_out,
        one.nans_before + other.nans_before,
        one.nans_after + other.nans_after,
        one.infs_before + other.infs_before,
        one.infs_after + other.infs_after,
        _scaled(one.before, left) + _scaled(other.before, right),
        _scaled(one.after, left) + _scaled(other.after, right),
        _scaled(one.product, left) + _scaled(other.product, right),
        _scaled(one.change, left) + _scaled(other.change, right),
        max(one.largest, other.largest),
        shift,
    )


def statistics(sums: Summary, repeats: int) -> Statistics:
    """The figures of a tensor that shows each of the elements `repeats` times."""
    elements = sums.finite + sums.nans + sums.infs
    std = math.sqrt(max(sums.squares, 0.0) / sums.finite) if sums.finite else None
    return Statistics(
        elements=elements * repeats,
        minimum=sums.minimum,
        maximum=sums.maximum,
        mean=_scaled(sums.mean, -sums.shift) if sums.finite else None,
        std=None if std is None else _scaled(std, -sums.shift),
        zero_share=sums.zeros / elements if elements else 0.0,
        nans=sums.nans * repeats,
        infs=sums.infs * repeats,
    )


def change(sums: PairSums, repeats: int) -> Change:
    """The figures of a pair of tensors that show each of the elements `repeats` times."""
    some = sums.elements > sums.left_out
    norms = math.sqrt(sums.before), math.sqrt(sums.after)
    cosine = sums.product / norms[0] / norms[1] if all(norms) else None
    return Change(
        elements=sums.elements * repeats,
        differing=sums.differing * repeats,
        differing_share=sums.differing / sums.elements if sums.elements else 0.0,
        relative_change=math.sqrt(sums.change) / norms[0] if some and norms[0] else None,
        largest_change=sums.largest if some else None,
        cosine=max(-1.0, min(1.0, cosine)) if some and cosine is not None else None,
        left_out=sums.left_out * repeats,
        nans_before=sums.nans_before * repeats,
        nans_after=sums.nans_after * repeats,
        infs_before=sums.infs_before * repeats,
        infs_after=sums.infs_after * repeats,
    )


def _shift(*parts: tuple[int, bool]) -> int:
    """The exponent both parts can be brought to without going beyond a float; what is all zero has none of its own."""
    return min((shift for shift, counts in parts if counts), default=0)


def _scaled(value: float, exponent: int) -> float:
    """`value` times 2 ** `exponent`; infinite where that is beyond a float."""
    try:
        return math.ldexp(value, exponent) if exponent else value
    except OverflowError:
        return math.copysign(math.inf, value)
