"""When a run commits by itself: values that compose with `|` and `&`, and what watches for them while it runs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_MODES = ("min", "max")


@dataclass(frozen=True)
class Moment:
    """A point between two steps. `logged` are the metrics logged since the last one that was looked at.

    `now_s` is the monotonic clock; `signalled`: the process was asked to save. `epoch` counts whole epochs.
    """

    step: int
    epoch: int
    now_s: float
    epoch_ended: bool = False
    logged: Mapping[str, float] = field(default_factory=dict)
    signalled: bool = False


class Trigger(ABC):
    """Says when a run commits. `a | b`: when either does; `a & b`: when both do at the same time."""

    def __or__(self, other: Trigger) -> Trigger:
        return _Any(self, _trigger(other))

    def __and__(self, other: Trigger) -> Trigger:
        return _All(self, _trigger(other))

    @abstractmethod
    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        """Begin to watch. `mode_of` knows which way a metric is better. Raises `InvalidInput`."""

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset()


class Watch(ABC):
    """A trigger at work. What is `urgent` must not be skipped because an earlier save is still under way."""

    urgent = False

    @abstractmethod
    def due(self, moment: Moment) -> bool:
        """Whether to commit now. Called once for every moment, in order."""

    def committed(self, moment: Moment) -> None:  # noqa: B027
        """Note that a commit was begun at that moment, whyever."""

    def leaves(self) -> Iterator[Watch]:
        """What it is composed of."""
        yield self


@dataclass(frozen=True)
class Steps(Trigger):
    """Every `count` steps."""

    count: int

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _At(lambda moment: moment.step % self.count == 0 and not moment.epoch_ended)


@dataclass(frozen=True)
class Epochs(Trigger):
    """At the end of every `count` epochs."""

    count: int

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _At(lambda moment: moment.epoch_ended and moment.epoch % self.count == 0)


@dataclass(frozen=True)
class Minutes(Trigger):
    """When so many minutes have gone by since the last commit."""

    minutes: float

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _Elapsed(self.minutes * 60, begin.now_s)


@dataclass(frozen=True)
class BestOf(Trigger):
    """When `metric` is better than at any commit before."""

    metric: str
    mode: str | None = None

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        mode = self.mode or mode_of(self.metric)
        if mode is None:
            raise InvalidInput(
                f"is a smaller or a larger {self.metric!r} better?",
                hint=f'best({self.metric!r}, "min"), or `ckstore config set metrics.{self.metric} min`',
            )
        return BestWatch(self.metric, mode)

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset({self.metric})


@dataclass(frozen=True)
class AtSteps(Trigger):
    """At these steps."""

    numbers: frozenset[int]

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _At(lambda moment: moment.step in self.numbers and not moment.epoch_ended, urgent=True)


@dataclass(frozen=True)
class Signals(Trigger):
    """When the process is asked to by a signal."""

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _Signalled()


@dataclass(frozen=True)
class _Any(Trigger):
    one: Trigger
    other: Trigger

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _Composed(any, self.one.watch(begin, mode_of), self.other.watch(begin, mode_of))

    @property
    def metrics(self) -> frozenset[str]:
        return self.one.metrics | self.other.metrics


@dataclass(frozen=True)
class _All(Trigger):
    one: Trigger
    other: Trigger

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _Composed(all, self.one.watch(begin, mode_of), self.other.watch(begin, mode_of))

    @property
    def metrics(self) -> frozenset[str]:
        return self.one.metrics | self.other.metrics


class _At(Watch):
    """Due at single moments; one that is missed is over."""

    def __init__(self, holds: Callable[[Moment], bool], *, urgent: bool = False) -> None:
        self._holds = holds
        self.urgent = urgent

    def due(self, moment: Moment) -> bool:
        return self._holds(moment)


class _Elapsed(Watch):
    def __init__(self, seconds: float, begin_s: float) -> None:
        self._seconds = seconds
        self._since_s = begin_s

    def due(self, moment: Moment) -> bool:
        return moment.now_s - self._since_s >= self._seconds

    def committed(self, moment: Moment) -> None:
        self._since_s = moment.now_s


class BestWatch(Watch):
    """Due while the value logged last is better than `best`, the best that was committed. NaN never is."""

    urgent = True

    def __init__(self, metric: str, mode: str) -> None:
        self.metric = metric
        self.mode = mode
        self.best: float | None = None
        self._last: float | None = None

    def due(self, moment: Moment) -> bool:
        self._last = moment.logged.get(self.metric, self._last)
        return self._better()

    def committed(self, moment: Moment) -> None:
        if self._better():
            self.best = self._last
        self._last = None

    @property
    def memory(self) -> tuple[float | None, float | None]:
        """The best that was committed, and what was logged last since then."""
        return self.best, self._last

    @memory.setter
    def memory(self, known: tuple[float | None, float | None]) -> None:
        best, last = known
        self.best, self._last = best, last if self._last is None else self._last

    def _better(self) -> bool:
        if self._last is None or math.isnan(self._last):
            return False
        if self.best is None:
            return True
        return self._last < self.best if self.mode == "min" else self._last > self.best


class _Signalled(Watch):
    urgent = True

    def due(self, moment: Moment) -> bool:
        return moment.signalled


class _Composed(Watch):
    def __init__(self, rule: Callable[[Iterator[bool]], bool], *parts: Watch) -> None:
        self._rule = rule
        self._parts = parts
        self._due = [False] * len(parts)

    @property
    def urgent(self) -> bool:  # type: ignore[override]
        """Whether one of those that are due is."""
        return any(part.urgent for part, due in zip(self._parts, self._due, strict=True) if due)

    def due(self, moment: Moment) -> bool:
        self._due = [part.due(moment) for part in self._parts]  # all of them: each has to see every moment
        return self._rule(iter(self._due))

    def committed(self, moment: Moment) -> None:
        for part in self._parts:
            part.committed(moment)

    def leaves(self) -> Iterator[Watch]:
        for part in self._parts:
            yield from part.leaves()


class Never(Trigger):
    """No commit but those that are asked for."""

    def watch(self, begin: Moment, mode_of: Callable[[str], str | None]) -> Watch:
        return _At(lambda _: False)


def steps(count: int) -> Trigger:
    """Commit every `count` steps: at their multiples, wherever the run began. Raises `InvalidInput`."""
    return Steps(_count("steps", count))


def epochs(count: int) -> Trigger:
    """Commit at the end of every `count` epochs of the run's data, when the next is begun. Raises `InvalidInput`."""
    return Epochs(_count("epochs", count))


def minutes(time: float) -> Trigger:
    """Commit at the first step that is `time` minutes or more after the last commit. Raises `InvalidInput`."""
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 < time < math.inf:
        raise InvalidInput(f"minutes({time!r}) is no time", hint="give a number above 0")
    return Minutes(float(time))


def best(metric: str, mode: str | None = None) -> Trigger:
    """Commit when `metric` was logged and is better than at any commit before; a resumed run remembers.

    `mode`, `min` or `max`, says which way is better (None: the setting `metrics.<name>`). Such a commit waits for
    one that is under way, since a step later the state would be another. Raises `InvalidInput`.
    """
    if not isinstance(metric, str) or not metric:
        raise InvalidInput(f"{metric!r} is no metric", hint='name one: best("val/loss", "min")')
    if mode is not None and mode not in _MODES:
        raise InvalidInput(f"{mode!r} is no mode", hint=f"use one of {', '.join(_MODES)}")
    return BestOf(metric, mode)


def at(*numbers: int) -> Trigger:
    """Commit at these steps. Raises `InvalidInput`."""
    return AtSteps(frozenset(_count("at", number) for number in numbers))


def signals() -> Trigger:
    """Commit when the process gets SIGUSR1, at the next step's end, and go on. A run does so even without this."""
    return Signals()


def _count(noun: str, count: object) -> int:
    if type(count) is not int or count < 1:
        raise InvalidInput(f"{noun}({count!r}) is no count", hint="give a number from 1 up")
    return count


def _trigger(other: object) -> Trigger:
    if not isinstance(other, Trigger):
        raise InvalidInput(f"{other!r} is no trigger", hint="compose steps(500) | minutes(15)")
    return other
