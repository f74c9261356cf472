"""Revisions: how a person names a commit.

main  heads/main      the tip of a branch          last              the newest commit of all
v1  tags/v1           a tag                        best:METRIC:min   the best of all by a metric (or max)
HEAD                  the current branch's tip     best:METRIC       the same, where settings say which way
3f9c2a1               an id's first digits (4+)    step:12000        the newest one of that step
REV~3  REV^  REV^2    third parent back, first     @2h               the newest one at least so old
                      parent, second parent
"""

from __future__ import annotations

import math
import re
import shlex
from typing import TYPE_CHECKING, Protocol

from ckstore.errors import InvalidInput, NoRevision
from ckstore.graph.history import ancestry
from ckstore.objects.encoding import bits_float
from ckstore.objects.structure import nearest
from ckstore.units import SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.objects.commit import Commit

_STEPS = re.compile(r"(?:~\d*|\^\d*)*$")
_STEP = re.compile(r"([~^])(\d*)")
_MOST_DIGITS = 18
_HEX = re.compile(r"[0-9a-f]{4,64}")
_AGE = re.compile(r"@(\d+(?:\.\d+)?)(s|m|h|d|w)")
_BAD_REF = re.compile(r"[\x00-\x20~^:?*\[\\@\x7f]|\.\.|//|^[-/.]|[/.]$|\.lock$")
_RESERVED = frozenset({"HEAD", "last"})
_REF_LIMIT = 200
_MOST_NAMES = 10


class Commits(Protocol):
    """What revisions are resolved against. Refs are by full name: `heads/main`, `tags/v1`.

    `metric_mode` says which way a metric is better, `min` or `max`; None where nobody said.
    """

    @property
    def head(self) -> bytes | None: ...

    @property
    def refs(self) -> Mapping[str, bytes]: ...

    def read_commit(self, id: bytes) -> Commit: ...

    def ids_beginning(self, prefix: str) -> list[bytes]: ...

    def metric_mode(self, metric: str, /) -> str | None: ...


def resolve(revision: str, commits: Commits, now_ns: int) -> bytes:
    """The id of the commit that `revision` names. Raises `NoRevision`, or `InvalidInput` for a malformed one."""
    steps = _STEPS.search(revision)
    assert steps is not None
    base = revision[: steps.start()] or "HEAD"
    id = _base(base, commits, now_ns)
    for mark, digits in _STEP.findall(steps.group()):
        if len(digits) > _MOST_DIGITS:
            raise NoRevision(f"{base!r} has no parents that far back")
        count = int(digits or 1)
        if mark == "^":
            id = _parent(id, count - 1, commits, revision) if count else id
        else:
            for _ in range(count):
                id = _parent(id, 0, commits, revision)
    return id


def check_ref_name(name: str, what: str) -> None:
    """Raise `InvalidInput` unless `name` can name a branch or tag."""
    try:
        long = len(name.encode()) > _REF_LIMIT
    except (UnicodeEncodeError, AttributeError):
        long = True
    if not name or long or not name.isprintable() or _BAD_REF.search(name) or name in _RESERVED:
        raise InvalidInput(
            f"{name!r} cannot name a {what}",
            hint="use letters, digits, and - _ . / inside the name; no spaces, no ~ ^ : ? * [ @ and no leading -",
        )


def _base(base: str, commits: Commits, now_ns: int) -> bytes:
    if base == "HEAD":
        if commits.head is None:
            raise NoRevision("HEAD has no commit yet", hint="make the first commit")
        return commits.head
    for name in (base, f"heads/{base}", f"tags/{base}", f"remotes/{base}"):
        if name in commits.refs:
            return commits.refs[name]
    if base == "last":
        return _newest(commits, base)
    if base.startswith("best:"):
        return _best(base, commits)
    if base.startswith("step:"):
        return _at_step(base, commits)
    age = _AGE.fullmatch(base)
    if age:
        return _newest(commits, base, now_ns - float(age[1]) * SECONDS[age[2]] * 1e9)
    return _by_prefix(base, commits)


def _by_prefix(base: str, commits: Commits) -> bytes:
    if _HEX.fullmatch(base):
        found = commits.ids_beginning(base)
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(id.hex()[: len(base) + 4] for id in found[:5])
            raise InvalidInput(f"{base} is ambiguous: {len(found)} commits begin so", hint=f"one of {shown}")
    names = [name.partition("/")[2] for name in commits.refs]
    raise NoRevision(
        f"no revision {base!r}", hint=nearest(base, names) or "`ckstore log --all` shows the commits and their names"
    )


def _parent(id: bytes, number: int, commits: Commits, revision: str) -> bytes:
    parents = commits.read_commit(id).parents
    if number >= len(parents):
        raise NoRevision(f"{revision!r} goes back beyond {id.hex()[:12]}, which has {len(parents)} parents")
    return parents[number]


def _newest(commits: Commits, base: str, before_ns: float = math.inf) -> bytes:
    for id, commit in ancestry(commits.refs.values(), commits.read_commit):
        if commit.time_ns <= before_ns:
            return id
    raise NoRevision(f"no commit is {base!r}", hint="`ckstore log --all` shows the commits and their times")


def _at_step(base: str, commits: Commits) -> bytes:
    try:
        step = int(base.removeprefix("step:"))
    except ValueError:
        raise InvalidInput(f"{base!r} is no revision", hint="write step:12000") from None
    known: list[int] = []
    for id, commit in ancestry(commits.refs.values(), commits.read_commit):
        if commit.step == step:
            return id
        if commit.step is not None:
            known.append(commit.step)
    near = sorted(known, key=lambda other: abs(other - step))[:3]
    raise NoRevision(f"no commit of step {step}", hint=f"the nearest steps are {near}" if near else None)


def _best(base: str, commits: Commits) -> bytes:
    metric, mode = _metric(base)
    known = list(ancestry(commits.refs.values(), commits.read_commit))
    names = sorted({entry.name for _, commit in known for entry in commit.metrics})
    if mode is None and metric in names:
        mode = commits.metric_mode(metric)
        if mode is None:
            setting = shlex.quote(f"metrics.{metric}")
            raise InvalidInput(
                f"{base!r} does not say what is better",
                hint=f"write {base}:min or {base}:max, or once for all `ckstore config set {setting} min`",
            )
    sign = 1 if mode == "min" else -1
    best: tuple[float, bytes] | None = None
    for id, commit in known:
        for entry in commit.metrics:
            value = sign * bits_float(entry.bits)
            if entry.name == metric and not math.isnan(value) and (best is None or value < best[0]):
                best = (value, id)
    if best is None:
        others = f"known are {', '.join(names[:_MOST_NAMES])}" if names else None
        raise NoRevision(f"no commit has the metric {metric!r}", hint=nearest(metric, names) or others)
    return best[1]


def _metric(base: str) -> tuple[str, str | None]:
    """The metric that `best:...` names, and the mode if it says one. Raises `InvalidInput`."""
    text = base.removeprefix("best:")
    metric, _, mode = text.rpartition(":")
    named = mode in ("min", "max")
    if not (metric if named else text):
        raise InvalidInput(f"{base!r} names no metric", hint="write best:val/loss:min")
    return (metric, mode) if named else (text, None)
