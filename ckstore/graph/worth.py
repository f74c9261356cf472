"""What a commit is worth keeping, and the choice of commits that are worth most for their stored bytes.

    worth = 1.0 * goodness + 0.5 * spike + 1.0 * distance

goodness  1 / (1 + rank) by a metric, the best commit having rank 0; of several metrics the largest
spike     how far a metric is from the median of itself and up to 5 commits on each side, in units of the median of
          all such distances (MAD * 1.4826; their mean * 1.2533 where that is 0): 0 up to 3 units, 1 from 10 units on,
          or where the metric is not finite; the largest of the commit itself and of those right before and after it
distance  from the nearest kept commit of the branch, in steps (or commits, where some have no step), as a share of half
          the branch's length, 1 at most

Each is from 0 to 1. Taken is, again and again, what is worth most for a byte: distance and bytes depend on what has
been taken before, so a neighbour of a kept commit loses its worth, and one that shares its chunks costs little.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GOODNESS = 1.0
SPIKE = 0.5
DISTANCE = 1.0
WINDOW = 5
"""Commits on either side that a local median takes in."""

_QUIET, _LOUD = 3.0, 10.0
_MAD, _MEAN = 1.4826, 1.2533


class Costs(Protocol):
    """What commits take in packs, given those taken before; of each only the named components count."""

    def marginal(self, id: bytes, components: Sequence[str], /) -> int:
        """The stored bytes that keeping the commit would add."""

    def take(self, id: bytes, components: Sequence[str], /) -> None:
        """From now on the commit is kept."""


@dataclass(frozen=True)
class Candidate:
    """A commit that may be kept: the components that would be, and its worth apart from distance."""

    id: bytes
    components: tuple[str, ...]
    merit: float


@dataclass(frozen=True)
class Choice:
    """What was chosen, with the bytes each adds, and what it takes together with what was kept anyway."""

    added: Mapping[bytes, int]
    stored_bytes: int


class Line:
    """A branch as places on a line: how far a commit is from the nearest kept one."""

    def __init__(self, ids: Sequence[bytes], steps: Sequence[int | None]) -> None:
        """`ids` newest first, with the step of each."""
        known = [step for step in steps if step is not None]
        places = known if len(known) == len(ids) else list(range(len(ids), 0, -1))
        self._place = dict(zip(ids, places, strict=True))
        self._half = max((max(places, default=0) - min(places, default=0)) / 2, 1)
        self._kept: list[int] = []

    def __contains__(self, id: bytes) -> bool:
        return id in self._place

    def keep(self, id: bytes) -> None:
        """Note that a commit of the line is kept."""
        insort(self._kept, self._place[id])

    def distance(self, id: bytes) -> float:
        """0 for a commit at the place of a kept one, 1 for one far from all."""
        place = self._place[id]
        after = bisect_left(self._kept, place)
        near = self._kept[max(after - 1, 0) : after + 1]
        return min(min((abs(place - other) for other in near), default=math.inf) / self._half, 1.0)


def merits(count: int, curves: Sequence[tuple[Sequence[float | None], str | None]]) -> list[float]:
    """What `count` commits are worth apart from distance, by metrics along a branch and which way each is better.

    A metric has a value for each commit, or None where it was not measured.
    """
    good, loud = [0.0] * count, [0.0] * count
    for values, mode in curves:
        if mode is not None:
            good = list(map(max, good, goodness(values, mode)))
        loud = list(map(max, loud, spikes(values)))
    return [GOODNESS * one + SPIKE * other for one, other in zip(good, loud, strict=True)]


def goodness(values: Sequence[float | None], mode: str) -> list[float]:
    """1 for the best, 1/2 for the next, 1/3, ...; equal values have one rank. 0 for NaN and what was not measured."""
    sign = 1 if mode == "min" else -1
    finite = [sign * value for value in values if value is not None and not math.isnan(value)]
    rank = {value: place for place, value in enumerate(sorted(set(finite)))}
    return [0.0 if value is None or math.isnan(value) else 1 / (1 + rank[sign * value]) for value in values]


def spikes(values: Sequence[float | None]) -> list[float]:
    """How much of a spike each is or is next to, from 0 to 1."""
    places = [place for place, value in enumerate(values) if value is not None]
    measured = [value for value in values if value is not None]
    away = [math.inf] * len(measured)
    for place, value in enumerate(measured):
        side = min(WINDOW, place, len(measured) - 1 - place)  # the same on both sides: a slope is no spike
        around = [one for one in measured[place - side : place + side + 1] if math.isfinite(one)]
        if math.isfinite(value):
            away[place] = abs(value - median(around))
    finite = [one for one in away if math.isfinite(one)] or [0.0]
    unit = _MAD * median(finite) or _MEAN * fmean(finite)
    strength = [_strength(one, unit) for one in away]
    found = [0.0] * len(values)
    for place, where in enumerate(places):
        found[where] = max(strength[max(place - 1, 0) : place + 2])
    return found


def _strength(away: float, unit: float) -> float:
    if not math.isfinite(away):
        return 1.0
    if not away or not math.isfinite(unit):
        return 0.0
    return min(max((away / unit - _QUIET) / (_LOUD - _QUIET), 0.0), 1.0)


def choose(
    candidates: Sequence[Candidate], spent_bytes: int, budget_bytes: int, lines: Sequence[Line], costs: Costs
) -> Choice:
    """The candidates worth most, until they and the `spent_bytes` of what is kept anyway take the budget.

    `lines` and `costs` know what is kept anyway, and then what was chosen. Of two that are worth the same for a byte
    the earlier in `candidates` is taken.
    """
    picking = _Picking(lines, costs, budget_bytes, spent_bytes)
    waiting = list(candidates)
    while waiting:  # what did not fit may fit once what it shares with others has been taken
        before = len(picking.added)
        waiting = picking.run(waiting)
        if len(picking.added) == before:
            break
    return Choice(picking.added, picking.stored)


def take(id: bytes, components: Sequence[str], lines: Sequence[Line], costs: Costs) -> None:
    """Tell both that a commit is kept."""
    costs.take(id, components)
    for line in lines:
        if id in line:
            line.keep(id)


@dataclass
class _Picking:
    """A choice under way."""

    lines: Sequence[Line]
    costs: Costs
    budget_bytes: int
    stored: int
    added: dict[bytes, int] = field(default_factory=dict)

    def run(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Take what is worth most for a byte while it fits; what did not fit.

        Worth falls as others are taken, so a place in the heap is checked when it comes up (lazy greedy; Minoux, 1978).
        """
        heap = [(-self._rate(one)[0], place) for place, one in enumerate(candidates)]
        heapq.heapify(heap)
        left = []
        while heap:
            _, place = heapq.heappop(heap)
            one = candidates[place]
            rate, cost = self._rate(one)
            if heap and (-rate, place) > heap[0]:
                heapq.heappush(heap, (-rate, place))
            elif self.stored + cost > self.budget_bytes:
                left.append(one)
            else:
                self.stored += cost
                self.added[one.id] = cost
                take(one.id, one.components, self.lines, self.costs)
        return left

    def _rate(self, one: Candidate) -> tuple[float, int]:
        """The worth of a byte, and the bytes."""
        cost = self.costs.marginal(one.id, one.components)
        far = min((line.distance(one.id) for line in self.lines if one.id in line), default=1.0)
        return (one.merit + DISTANCE * far) / max(cost, 1), cost
