"""Retention policies as a line of text, for settings and the command line.

    last=3 best=2:val/loss:min every=10000 within=7d budget=200GB no-tags auto optimizer:last=2

Rules are separated by spaces or commas. `all` keeps every commit; `COMPONENT:RULE` is a rule for a component alone. In
names, a sign that would be taken for the syntax (space, comma, %) is written as in a URL: `val%20loss`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ckstore.errors import InvalidInput, nearest
from ckstore.graph.policy import EXAMPLE, MODES, Best, Curve, Policies, Policy, size_of, span_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = ("tags", "no-tags", "auto")
_RULES = (*_FLAGS, "all", "last", "best", "every", "within", "budget")
_NUMBER = re.compile(r"[0-9]{1,15}(?:_[0-9]{1,3}){0,5}")


def parse(text: str) -> Policy:
    """The policy that a line of text says; `str` of a policy is such a line. Raises `InvalidInput`, naming the word."""
    rules: list[Policy] = []
    flags: set[str] = set()
    parts: defaultdict[str, list[Policy]] = defaultdict(list)
    for word in filter(None, re.split(r"[\s,]+", text)):
        key = word.partition("=")[0]
        component = key.rpartition(":")[0]
        if component:
            parts[_name(component)].append(_rule(word, word.removeprefix(f"{component}:")))
        elif word in _FLAGS:
            flags.add(word)
        else:
            rules.append(_rule(word, word))
    components = {name: _joined(found, {}) for name, found in parts.items()}
    return replace(_joined(rules, components), tags="no-tags" not in flags, auto="auto" in flags)


def parse_policies(for_all: str | None, own: Mapping[str, str]) -> Policies:
    """The policies that settings say: one for all branches, and those of branches by name. Raises `InvalidInput`."""
    return Policies(
        None if for_all is None else _of(for_all, "retention.keep"),
        {branch: _of(text, f"keep.{branch}") for branch, text in sorted(own.items())},
    )


def _of(text: str, setting: str) -> Policy:
    try:
        return parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"the setting {setting}: {error.what}", hint=error.hint) from None


def _joined(rules: Sequence[Policy], components: Mapping[str, Policy]) -> Policy:
    return replace(reduce(or_, rules), components=components) if rules else Policy(components=components)


def _rule(word: str, text: str) -> Policy:
    """A policy of one rule."""
    rule, _, value = text.partition("=")
    if text == "all":
        return Policy(all=True)
    if rule == "last" and value:
        return Policy(last=_number(word, value))
    if rule == "every" and value:
        return Policy(every_steps=(_number(word, value),))
    if rule == "within" and value:
        return Policy(within_ns=span_of(value))
    if rule == "best" and value:
        count, _, curve = value.partition(":")
        found = _curve(word, curve)
        return Policy(best=(Best(_number(word, count), found.metric, found.mode),))
    if rule == "budget" and value:
        size, colon, curve = value.partition(":")
        return Policy(budget_bytes=size_of(size), budget_by=(_curve(word, curve),) if colon else ())
    if rule in _FLAGS:
        raise InvalidInput(f"{word!r} is no rule of a policy", hint=f"write {rule} alone; it is a rule for commits")
    hint = nearest(rule, _RULES) if rule not in _RULES else None
    raise InvalidInput(f"{word!r} is no rule of a policy", hint=hint or f"a policy reads: {EXAMPLE}")


def _number(word: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidInput(f"{word!r} has no number", hint=f"a policy reads: {EXAMPLE}")
    return int(text)


def _curve(word: str, text: str) -> Curve:
    """A metric and, after its last colon, a mode if there is one."""
    metric, _, mode = text.rpartition(":")
    if not metric or mode not in MODES:
        metric, mode = text, ""
    if not metric:
        raise InvalidInput(f"{word!r} names no metric", hint=f"a policy reads: {EXAMPLE}")
    return Curve(_name(metric), mode or None)


def _name(text: str) -> str:
    return unquote(text, errors="surrogatepass")
