"""How the planes of some chunks are to be stored: decided on a sample.

Every plane is one of raw, compressed, or packed and compressed (`payload` says what these are).
"""

from __future__ import annotations

from typing import NamedTuple

from ckstore.codec.payload import Mode, may_halve

_NOISE = 0.985
"""Low halves of more entropy stay together."""

_SAME = 1.01
"""Elements that come to less than so many times the length are as good."""

_COVERED = 0.94
"""A window that holds more is worth packing."""

_FEW, _RARE, _NEARLY_ALL = 0.25, 0.94, 0.98
"""Shares of one value: below, there are no long runs of it; between, exceptions may be shorter; above, they are."""

_FLAT, _DENSE, _SPREAD = 0.004, 0.15, 0.6
"""Entropies: below, zstd does best by long repeats; between the last two, packing does best; above, none fits."""


class Look(NamedTuple):
    """What a sample says of one byte of every element.

    `entropy` is a share of eight bits: 0 for a constant, 1 for noise. Of windows of 15, of 3 and of 1 values it tells
    where the fullest begins, and what share of all values it holds.
    """

    entropy: float
    low15: int
    share15: float
    low3: int
    share3: float
    low1: int
    share1: float


class Way(NamedTuple):
    """How one plane is stored, and where its window begins if it is packed, or what it mostly is if it is sparse.

    `literal`: zstd need not look for repeats, where it can be told, unless a look at the plane shows some.
    """

    mode: Mode
    low: int = 0
    literal: bool = False


RAW, ZSTD, LITERAL = Way(Mode.RAW), Way(Mode.ZSTD), Way(Mode.ZSTD, literal=True)


class Plan(NamedTuple):
    """How the planes are stored. A plane that does not come to less than `worth` of its length stays raw after all.

    `rotate`: elements are rotated; `halved`: their low half is one plane. `ways`: of every plane those that may be the
    shortest, of which the one is taken that comes out shortest on a piece from the middle; the first of equals. A plane
    not raw that is the same all over is stored as that.
    """

    rotate: bool
    halved: bool
    worth: float
    ways: list[list[Way]]


def estimate(looks: list[Look], worth: float) -> float:
    """The share of the raw length that the planes would about come to."""
    return sum(look.entropy if look.entropy < worth else 1.0 for look in looks) / len(looks)


def compressible(looks: list[Look], worth: float) -> int:
    """How many planes are worth compressing."""
    return sum(look.entropy < worth for look in looks)


def easier(plain: list[Look], rotated: list[Look], worth: float) -> bool:
    """Whether elements as they are leave fewer planes to compress than rotated ones, at about the same length.

    Numbers that all have one sign do: rotated, that sign makes a second plane a little less than noise.
    """
    fewer = compressible(plain, worth) < compressible(rotated, worth)
    return fewer and estimate(plain, worth) < _SAME * estimate(rotated, worth)


def candidates(looks: list[Look], worth: float) -> tuple[bool, list[list[Way]]]:
    """Whether the low half stays together, and of every plane the ways that may be the shortest."""
    width = len(looks)
    low = width // 2
    halved = may_halve(width) and all(look.entropy > _NOISE for look in looks[:low])
    ways = [_ways(look, worth) for look in looks[low if halved else 0 :]]
    return halved, [[RAW], *ways] if halved else ways


def _ways(look: Look, worth: float) -> list[Way]:
    share = look.entropy
    if share > worth:
        return [RAW]
    if look.share1 > _NEARLY_ALL:
        return [Way(Mode.SPARSE, look.low1)]
    whole = LITERAL if share > _DENSE and look.share1 < _FEW else ZSTD  # few of each value make no long runs
    if share < _FLAT or share > _SPREAD:
        return [whole]
    windows = []
    if look.share15 > _COVERED:
        windows.append(Way(Mode.PACKED4, look.low15))
    if look.share3 > _COVERED:
        windows.append(Way(Mode.PACKED2, look.low3))
    if len(windows) == 1 and share > _DENSE:
        return windows
    if look.share1 > _RARE:
        windows = [Way(Mode.SPARSE, look.low1)]
    return [whole, *windows]
