"""When a run commits: its triggers at work, and the metrics that they and its policy look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.objects.encoding import bits_float
from ckstore.train.triggers import BestWatch, Never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckstore.graph.policy import Policy
    from ckstore.objects.commit import Commit
    from ckstore.train.triggers import Moment, Trigger


class Pace:
    """Asks the triggers. Raises `InvalidInput` for a metric of which nobody said which way is better.

    `mode_of` knows that from the settings.
    """

    def __init__(
        self, every: Trigger | None, keep: Policy | None, begin: Moment, mode_of: Callable[[str], str | None]
    ) -> None:
        trigger = Never() if every is None else every
        self._watch = trigger.watch(begin, mode_of)
        self._bests = [leaf for leaf in self._watch.leaves() if isinstance(leaf, BestWatch)]
        self._rules = [(watch.metric, watch.mode) for watch in self._bests]
        for curve in () if keep is None else keep.curves():
            mode = curve.mode or mode_of(curve.metric)
            if mode is None:
                raise InvalidInput(
                    f"is a smaller or a larger {curve.metric!r} better?",
                    hint=f'keep(..., mode="min"), or `ckstore config set metrics.{curve.metric} min`',
                )
            self._rules.append((curve.metric, mode))
        self.wanted = frozenset(metric for metric, _ in self._rules)

    def due(self, moment: Moment) -> tuple[bool, bool]:
        """Whether to commit now, and whether that must not be skipped."""
        return self._watch.due(moment), self._watch.urgent

    def improved(self, moment: Moment) -> bool:
        """Whether what was logged after a step was done is better than at any commit; the step itself has been seen."""
        seen = [watch.due(moment) for watch in self._bests]
        return any(seen)

    def committed(self, moment: Moment) -> None:
        """Note that a commit was begun."""
        self._watch.committed(moment)

    def memory(self) -> list[tuple[float | None, float | None]]:
        """What the triggers on metrics know, for `put_back`."""
        return [watch.memory for watch in self._bests]

    def put_back(self, memory: list[tuple[float | None, float | None]]) -> None:
        """Know only that again: the commit that was begun since then has failed."""
        for watch, known in zip(self._bests, memory, strict=True):
            watch.memory = known

    def best_values(self) -> dict[str, float]:
        """The best committed values, by `metric:mode`."""
        return {f"{one.metric}:{one.mode}": one.best for one in self._bests if one.best is not None}

    def remember(self, best: Mapping[str, float]) -> None:
        """Go on from the best values of an earlier process."""
        for watch in self._bests:
            watch.best = best.get(f"{watch.metric}:{watch.mode}")

    def best_of(self, commits: Iterator[tuple[bytes, Commit]]) -> tuple[bytes, Commit] | None:
        """The best of some commits by the first metric of triggers and policy; None where none has it."""
        found: tuple[bytes, Commit] | None = None
        best = math.nan
        for metric, mode in self._rules[:1]:
            for id, commit in commits:
                value = next((bits_float(one.bits) for one in commit.metrics if one.name == metric), math.nan)
                better = value < best if mode == "min" else value > best
                if better or (found is None and not math.isnan(value)):
                    found, best = (id, commit), value
        return found
