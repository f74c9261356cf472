"""Retention policies as values: which commits of a branch are kept. `policy_text` reads the line that one writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from ckstore.errors import InvalidInput
from ckstore.units import parse_size, parse_span, size_text, span_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MODES = ("min", "max")
EXAMPLE = "last=3 best=2:val/loss:min every=10000 within=7d budget=200GB optimizer:last=2"
_ENDS_LIKE_A_MODE = re.compile(r":(?=(?:min|max)$)")


@dataclass(frozen=True)
class Curve:
    """A metric, and which way it is better; None leaves that to the settings."""

    metric: str
    mode: str | None = None


@dataclass(frozen=True)
class Best:
    """The `count` commits that are best by a metric."""

    count: int
    metric: str
    mode: str | None = None


@dataclass(frozen=True)
class Policy:
    """Which commits of a branch are kept: those that any rule keeps. `a | b` has the rules of both.

    `last` keeps the newest so many, `best` the best by a metric, `every_steps` the first at or after each multiple of
    so many steps (several: of each), `within_ns` those no older, `all` every one, `budget_bytes` those worth most for
    their bytes (`budget_by`: by which metrics) until the kept ones take so much. `tags`: what has a tag is kept. With
    `auto`, gc runs by itself after a commit on the branch. A component of a commit that is kept is kept too, unless
    `components` has a policy for it, which then must keep it as well. Raises `InvalidInput`.
    """

    last: int | None = None
    best: tuple[Best, ...] = ()
    every_steps: tuple[int, ...] = ()
    within_ns: int | None = None
    tags: bool = True
    budget_bytes: int | None = None
    components: Mapping[str, Policy] = field(default_factory=dict, hash=False)
    auto: bool = False
    all: bool = False
    budget_by: tuple[Curve, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what keeps nothing or cannot be meant."""
        _check_number("last", self.last)
        for best in self.best:
            _check_number("best", best.count)
        for number in self.every_steps:
            _check_number("every", number)
        for curve in self.curves():
            _check_curve(curve.metric, curve.mode)
        _check_number("within_ns", self.within_ns)
        _check_number("budget_bytes", self.budget_bytes)
        if self.budget_by and self.budget_bytes is None:
            raise InvalidInput("a metric says nothing without best or budget", hint="add best=1, or budget=200GB")
        if not self.rules():
            hint = "add all, to keep every commit" if self.components else f"give it a rule: {EXAMPLE}"
            raise InvalidInput("a policy that keeps nothing", hint=hint)
        for name, policy in self.components.items():
            _check_component(name, policy)

    def __or__(self, other: Policy) -> Policy:
        """The policy that keeps what either keeps; a component that only one of them names follows the commit."""
        shared = self.components.keys() & other.components.keys()
        return Policy(
            last=_larger(self.last, other.last),
            best=_joined_best((*self.best, *other.best)),
            every_steps=_joined_steps((*self.every_steps, *other.every_steps)),
            within_ns=_larger(self.within_ns, other.within_ns),
            tags=self.tags or other.tags,
            budget_bytes=_larger(self.budget_bytes, other.budget_bytes),
            components={name: self.components[name] | other.components[name] for name in sorted(shared)},
            auto=self.auto or other.auto,
            all=self.all or other.all,
            budget_by=tuple(dict.fromkeys((*self.budget_by, *other.budget_by))),
        )

    def rules(self) -> tuple[str, ...]:
        """What keeps commits, each as it is written."""
        return tuple(self._rules())

    def curves(self) -> tuple[Curve, ...]:
        """The metrics it names."""
        return tuple(dict.fromkeys((*(Curve(best.metric, best.mode) for best in self.best), *self.budget_by)))

    def _rules(self) -> Iterator[str]:
        if self.all:
            yield "all"
        if self.last is not None:
            yield f"last={self.last}"
        yield from (f"best={best.count}:{_curve_text(best.metric, best.mode)}" for best in self.best)
        yield from (f"every={number}" for number in self.every_steps)
        if self.within_ns is not None:
            yield f"within={span_text(self.within_ns)}"
        if self.budget_bytes is not None:
            size = size_text(self.budget_bytes)
            yield from (f"budget={size}:{_curve_text(one.metric, one.mode)}" for one in self.budget_by)
            if not self.budget_by:
                yield f"budget={size}"

    def __str__(self) -> str:
        """The line that `parse` reads back."""
        items = [*self._rules(), *(["no-tags"] if not self.tags else []), *(["auto"] if self.auto else [])]
        for name, policy in sorted(self.components.items()):
            items += [f"{_escaped(name, ':=')}:{rule}" for rule in policy.rules()]
        return " ".join(items)


@dataclass(frozen=True)
class Policies:
    """The policy of each branch: its own, or else the one for all; None keeps everything.

    A budget in the one for all is shared by the branches that have none of their own.
    """

    for_all: Policy | None = None
    own: Mapping[str, Policy] = field(default_factory=dict, hash=False)

    def of(self, branch: str) -> Policy | None:
        """The policy that counts for a branch."""
        return self.own.get(branch, self.for_all)


def keep(
    *,
    last: int | None = None,
    best: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
    every_steps: int | None = None,
    within: str | None = None,
    tags: bool = True,
    budget: str | int | None = None,
    components: Mapping[str, Policy] | None = None,
    auto: bool = False,
    all: bool = False,
) -> Policy:
    """Which commits of a branch are kept: those that any of these keeps; the tip, tags and pins in any case.

    `last`: the newest so many. `best`: the best so many by `metric`, where `mode`, `min` or `max`, says which way is
    better (None: the setting `metrics.<name>`). `every_steps`: the first at or after each multiple. `within`: those no
    older (`7d`; s m h d w). `budget`: those worth most for their stored bytes (`200GB`), by `metric` if it is given.
    `tags=False`: a tag keeps nothing. `components`: for a component by name, which of the kept commits keep it.
    `auto`: gc runs by itself after each commit on the branch. `all`: every commit. Policies add up with `|`.
    Raises `InvalidInput` for a policy that keeps nothing, or what cannot be meant.
    """
    if metric is None and (best is not None or mode is not None):
        raise InvalidInput("best and mode are by a metric", hint='add metric="val/loss"')
    if metric is not None and best is None and budget is None:
        raise InvalidInput("a metric says nothing without best or budget", hint="add best=1")
    return Policy(
        last=last,
        best=() if best is None or metric is None else (Best(best, metric, mode),),
        every_steps=() if every_steps is None else (every_steps,),
        within_ns=None if within is None else span_of(within),
        tags=tags,
        budget_bytes=None if budget is None else size_of(budget),
        components=dict(components or {}),
        auto=auto,
        all=all,
        budget_by=(Curve(metric, mode),) if metric is not None and best is None else (),
    )


def _larger(one: int | None, other: int | None) -> int | None:
    return max((number for number in (one, other) if number is not None), default=None)


def _joined_best(parts: Iterable[Best]) -> tuple[Best, ...]:
    """One for each metric and mode: the largest."""
    found: dict[Curve, Best] = {}
    for one in parts:
        curve = Curve(one.metric, one.mode)
        held = found.get(curve)
        found[curve] = one if held is None else replace(one, count=max(one.count, held.count))
    return tuple(found.values())


def _joined_steps(parts: Iterable[int]) -> tuple[int, ...]:
    """In order, without those that a divisor of theirs covers."""
    found: list[int] = []
    for number in sorted(set(parts)):
        if not any(number % smaller == 0 for smaller in found):
            found.append(number)
    return tuple(found)


def _check_number(noun: str, number: object) -> None:
    if number is not None and (type(number) is not int or number < 1):
        hint = f"leave {noun} out, or give a number from 1 up; a policy that keeps nothing is refused"
        raise InvalidInput(f"{noun}={number!r} keeps nothing", hint=hint)


def _check_curve(metric: object, mode: object) -> None:
    if not isinstance(metric, str) or not metric:
        raise InvalidInput(f"{metric!r} is no metric", hint="name one: val/loss")
    if mode is not None and mode not in MODES:
        raise InvalidInput(f"{mode!r} is no mode", hint=f"use one of {', '.join(MODES)}")


def _check_component(name: object, policy: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{name!r} is no component", hint="name one: optimizer")
    if not isinstance(policy, Policy):
        raise InvalidInput(
            f"the policy of {name!r} is {policy!r}", hint=f"write keep(components={{{name!r}: keep(last=2)}})"
        )
    if policy.components or policy.auto or policy.budget_bytes is not None or not policy.tags:
        hint = "a component has last, best, every_steps and within"
        raise InvalidInput(f"tags, budget, auto and components are no rules for {name!r} alone", hint=hint)


def span_of(text: object) -> int:
    found = parse_span(text) if isinstance(text, str) else None
    if not found:
        raise InvalidInput(f"{text!r} is no span of time", hint="write 7d, 36h or 30m (s m h d w)")
    return found


def size_of(said: object) -> int:
    found = said if type(said) is int else parse_size(said) if isinstance(said, str) else None
    if found is None or found < 1:
        raise InvalidInput(f"{said!r} is no size", hint="write 200GB, 500MB or 1.5TB")
    return found


def _curve_text(metric: str, mode: str | None) -> str:
    """A metric and its mode as they are written."""
    text = _escaped(metric, "")
    return f"{text}:{mode}" if mode is not None else _ENDS_LIKE_A_MODE.sub("%3A", text)


def _escaped(name: str, also: str) -> str:
    """A name without what ends a word, and without the signs in `also`."""
    return "".join(
        quote(sign, safe="", errors="surrogatepass")
        if sign.isspace() or not sign.isprintable() or sign in f",%{also}"
        else sign
        for sign in name
    )
