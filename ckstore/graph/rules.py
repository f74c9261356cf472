"""What the policy of one branch says of its commits, rule by rule; all rules but the budget."""

from __future__ import annotations

import heapq
import math
import shlex
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput, nearest
from ckstore.graph.history import ancestry
from ckstore.objects.encoding import bits_float
from ckstore.units import span_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckstore.graph.policy import Policy
    from ckstore.graph.reached import Reached
    from ckstore.objects.commit import Commit

History = list[tuple[bytes, "Commit"]]
"""Commits with their ids, newest first."""

_MOST_NAMES = 10


@dataclass(eq=False)
class Ruled:
    """A branch: its commits, those that rules keep, with why, and the components that go, by commit, with why.

    Whoever spends a budget adds to `keeps`. `warnings` say what a person may not have meant.
    """

    name: str
    policy: Policy | None
    history: History
    keeps: dict[bytes, list[str]]
    drops: dict[bytes, dict[str, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Rules:
    """Applies policies to the branches of `found` at `now_ns`; `metric_mode` says what nobody else does."""

    def __init__(self, found: Reached, now_ns: int, metric_mode: Callable[[str], str | None]) -> None:
        self._found = found
        self._now_ns = now_ns
        self.metric_mode = metric_mode

    def apply(self, branch: str, policy: Policy | None) -> Ruled:
        """What a policy says of a branch; None keeps everything. Raises `InvalidInput` as `mode_of`."""
        history = list(ancestry([self._found.branches[branch]], self._found.commits.__getitem__))
        if policy is None:
            return Ruled(branch, None, history, {id: [f"{branch} has no policy"] for id, _ in history})
        here = [(id, commit) for id, commit in history if not self._found.is_absent(id)]
        ruled = Ruled(branch, policy, history, self._kept_by(branch, policy, here, history))
        for name, part in sorted(policy.components.items()):
            having = [(id, commit) for id, commit in here if name in self._found.components(id)]
            if not any(one.name == name for _, commit in history for one in commit.components):
                ruled.warnings.append(f"no commit of {branch} has the component {name!r}")
            kept = self._kept_by(branch, part, having, history)
            for id, _ in having:
                if id not in kept:
                    reason = f"{branch}: none of {', '.join(part.rules())} keeps its {name}"
                    ruled.drops.setdefault(id, {})[name] = reason
        return ruled

    def mode_of(self, branch: str, metric: str, mode: str | None, history: History) -> str:
        """Which way a metric is better. Raises `InvalidInput` where nobody said, or no commit of the branch has it."""
        known = metric_names(history)
        if metric not in known:
            others = f"known are {', '.join(known[:_MOST_NAMES])}" if known else "none of them has any metric"
            own = f"or give it a policy of its own: `ckstore config set keep.{shlex.quote(branch)} all`"
            hint = f"{nearest(metric, known) or others}; {own}"
            raise InvalidInput(f"no commit of {branch} has the metric {metric!r}", hint=hint)
        found = mode if mode is not None else self.metric_mode(metric)
        if found is None:
            setting = shlex.quote(f"metrics.{metric}")
            raise InvalidInput(
                f"the policy of {branch} does not say what is better of {metric!r}",
                hint=f"write {metric}:min or {metric}:max, or once for all `ckstore config set {setting} min`",
            )
        return found

    def _kept_by(self, branch: str, policy: Policy, among: History, history: History) -> dict[bytes, list[str]]:
        kept: defaultdict[bytes, list[str]] = defaultdict(list)
        for id, reason in self._reasons(branch, policy, among, history):
            kept[id].append(reason)
        return dict(kept)

    def _reasons(self, branch: str, policy: Policy, among: History, history: History) -> Iterator[tuple[bytes, str]]:
        if policy.all:
            yield from ((id, "all") for id, _ in among)
        if policy.last is not None:
            yield from ((id, f"last {policy.last}") for id, _ in among[: policy.last])
        for best in policy.best:
            mode = self.mode_of(branch, best.metric, best.mode, history)
            yield from _best(best.count, best.metric, mode, among)
        for number in policy.every_steps:
            yield from _every(number, among)
        if policy.within_ns is not None:
            reason, oldest_ns = f"within {span_text(policy.within_ns)}", self._now_ns - policy.within_ns
            yield from ((id, reason) for id, commit in among if commit.time_ns >= oldest_ns)


def metric_names(history: History) -> list[str]:
    """Every metric that some commit has."""
    return sorted({metric.name for _, commit in history for metric in commit.metrics})


def curve(history: History, metric: str) -> list[float | None]:
    """A metric along a history; None where it was not measured."""
    return [next((bits_float(one.bits) for one in commit.metrics if one.name == metric), None) for _, commit in history]


def _best(count: int, metric: str, mode: str, among: History) -> Iterator[tuple[bytes, str]]:
    """The best by a metric; of equal ones the newer. NaN is never best."""
    sign = 1 if mode == "min" else -1
    values = [
        (sign * value, place)
        for place, value in enumerate(curve(among, metric))
        if value is not None and not math.isnan(value)
    ]
    for value, place in heapq.nsmallest(count, values):
        yield among[place][0], f"best {count} by {metric} ({mode}): {sign * value:.4g}"


def _every(number: int, among: History) -> Iterator[tuple[bytes, str]]:
    """The first commit at or after each multiple; of equal steps the older."""
    steps: Sequence[tuple[int, int]] = sorted(
        (commit.step, -place) for place, (_, commit) in enumerate(among) if commit.step is not None
    )
    reached: int | None = None
    for step, place in steps:
        if reached is None or step // number > reached:
            yield among[-place][0], f"every {number} steps: step {step}"
            reached = step // number
