"""Which commits a person asks for, and in what order: `step>1000`, `val/loss<0.5`, `branch=main`, `message~warm`."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import InvalidInput
from ckstore.objects.structure import nearest
from ckstore.units import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckstore.graph.history import CommitInfo

_CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")

_NUMBERS: dict[str, Callable[[CommitInfo], float | None]] = {
    "step": lambda info: info.step,
    "epoch": lambda info: info.epoch,
    "time": lambda info: info.time_ns,
}
_TEXTS: dict[str, Callable[[CommitInfo], tuple[str, ...]]] = {
    "id": lambda info: (info.id,),
    "message": lambda info: (info.message,),
    "author": lambda info: (info.author,),
    "branch": lambda info: info.branches,
    "tag": lambda info: info.tags,
    "component": lambda info: info.components,
}

FIELDS = (*_NUMBERS, *_TEXTS, "age")
"""What can be asked of a commit besides its metrics."""


class Condition(NamedTuple):
    """`field` compared with `value`."""

    field: str
    operator: str
    value: str


def parse(text: str) -> Condition:
    """A condition as it is written. Raises `InvalidInput`."""
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise InvalidInput(f"{text!r} is no condition", hint="write it as 'step>1000', 'val/loss<0.5', 'message~warm'")
    return Condition(match[1], "==" if match[2] == "=" else match[2], match[3])


def select(commits: Sequence[CommitInfo], conditions: Iterable[Condition], now_ns: int) -> list[CommitInfo]:
    """The commits that meet all conditions, in their order. Raises `InvalidInput` for a field nobody has."""
    found = list(commits)
    for condition in conditions:
        meets = _test(condition, commits, now_ns)
        found = [info for info in found if meets(info)]
    return found


def ordered(commits: Sequence[CommitInfo], field: str, *, descending: bool) -> list[CommitInfo]:
    """The commits by a field; those that lack it, or have NaN, come last. Raises `InvalidInput`."""
    if field in _TEXTS:
        named = sorted((info for info in commits if _TEXTS[field](info)), key=_TEXTS[field], reverse=descending)
        return named + [info for info in commits if not _TEXTS[field](info)]
    number = _number_of(field, commits)
    having = [(value, info) for info in commits if (value := number(info)) is not None and not math.isnan(value)]
    having.sort(key=lambda pair: pair[0], reverse=descending)
    missing = [info for info in commits if (value := number(info)) is None or math.isnan(value)]
    return [info for _, info in having] + missing


def _test(condition: Condition, commits: Sequence[CommitInfo], now_ns: int) -> Callable[[CommitInfo], bool]:
    field, operator, value = condition
    if field in _TEXTS:
        return _text_test(_TEXTS[field], operator, value, whole=field != "id")
    if operator == "~":
        raise InvalidInput(f"{field!r} is a number", hint="~ searches in texts: " + ", ".join(_TEXTS))
    if field == "age":
        age = _AGE.fullmatch(value)
        if age is None:
            raise InvalidInput(f"{value!r} is no age", hint="write it as 'age<2h' (s m h d w)")
        limit = float(age[1]) * SECONDS[age[2]] * 1e9
        return lambda info: _compare(now_ns - info.time_ns, operator, limit)
    number = _number_of(field, commits)
    try:
        wanted = float(value)
    except ValueError:
        raise InvalidInput(f"{value!r} is no number", hint=f"{field} is one: write '{field}{operator}1.5'") from None
    return lambda info: (found := number(info)) is not None and _compare(found, operator, wanted)


def _text_test(
    texts: Callable[[CommitInfo], tuple[str, ...]], operator: str, value: str, *, whole: bool
) -> Callable[[CommitInfo], bool]:
    if operator == "~":
        return lambda info: any(value in text for text in texts(info))
    if operator == "==":
        return lambda info: any(text == value or (not whole and text.startswith(value)) for text in texts(info))
    if operator == "!=":
        return lambda info: value not in texts(info)
    raise InvalidInput(f"texts are not compared with {operator}", hint="use =, != or ~ (contains)")


def _compare(found: float, operator: str, wanted: float) -> bool:
    match operator:
        case "<":
            return found < wanted
        case "<=":
            return found <= wanted
        case ">":
            return found > wanted
        case ">=":
            return found >= wanted
        case "!=":
            return found != wanted
    return found == wanted


def _number_of(field: str, commits: Sequence[CommitInfo]) -> Callable[[CommitInfo], float | None]:
    """The number in a field, or the metric of that name. Raises `InvalidInput` where no commit has such."""
    if field in _NUMBERS:
        return _NUMBERS[field]
    metrics = {name for info in commits for name in info.metrics}
    if commits and field not in metrics:
        known = [*FIELDS, *sorted(metrics)]
        raise InvalidInput(f"no commit has {field!r}", hint=nearest(field, known) or f"there are {', '.join(known)}")
    return lambda info: info.metrics.get(field)
