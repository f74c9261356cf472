"""The first difference between a run that was never interrupted and one that was killed and went on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.testing.resume_stretches import After

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.testing.resume_stretches import Stretch

    Facts = Mapping[str, str]

_NOTHING = "(nothing)"


@dataclass(frozen=True)
class Difference:
    """What is not as it was: `where` in words, `what` by path, both values, and how many paths more differ there."""

    where: str
    what: str
    expected: str
    found: str
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}\n  expected: {self.expected}\n  found:    {self.found}"
        if self.more:
            rest = f" and {len(self.more) - 5} more" if len(self.more) > 5 else ""
            text += f"\n  differ too: {', '.join(self.more[:5])}{rest}"
        return text


def restored(stretch: Stretch) -> Difference | None:
    """Whether a resume brought back what the commit holds."""
    begun = stretch.begun
    now = {path: fact for path, fact in begun.facts.items() if path in begun.expected or path.startswith("gradients.")}
    return _difference(f"right after resuming from {begun.commit[:12]} (step {begun.steps})", begun.expected, now)


def repeated(straight: Stretch, stretch: Stretch) -> Difference | None:
    """Whether a stretch is like that part of the run that was never interrupted."""
    return next(filter(None, _differences(straight, stretch)), None)


def _differences(straight: Stretch, stretch: Stretch) -> Iterator[Difference | None]:
    first = stretch.begun.steps
    for done in range(first, stretch.last + 1):
        was, now = straight.after.get(done, After()), stretch.after.get(done, After())
        if done > straight.last:
            yield Difference("steps", "their number", f"{straight.last}", f"{done} and more")
            return
        if now.state is not None:
            yield _difference(f"after step {done}", was.state or {}, now.state)
        cut = stretch.cut and done == stretch.last
        if was.batches and not now.batches and not cut:
            yield Difference(f"step {done + 1}", "batch: how many", str(len(was.batches)), "0")
        yield _lists(f"step {done + 1}", "batch", was.batches, now.batches, begun=done == first, cut=cut)
        yield _lists(f"step {done + 1}", "metrics", was.logged, now.logged, begun=done == first, cut=cut)
    if stretch.cut:
        return
    if stretch.last != straight.last:
        yield Difference("at the end", "steps done", f"{straight.last}", f"{stretch.last}")
    if straight.end is not None and stretch.end is not None:
        yield _difference("at the end", straight.end.facts, stretch.end.facts)


def _lists(
    where: str, what: str, was: Sequence[Facts], now: Sequence[Facts], *, begun: bool, cut: bool
) -> Difference | None:
    """Compare what happened between two steps; `begun`: the beginning may lack, `cut`: the end may."""
    least = 0 if cut or len(now) > len(was) else len(was) - len(now)
    starts = range(least, max(least, len(was) - len(now)) + 1) if begun else range(1)
    found: Difference | None = None
    for start in starts:
        found = _sequence(where, what, was[start:], now, cut=cut)
        if found is None:
            return None
    return found


def _sequence(where: str, what: str, was: Sequence[Facts], now: Sequence[Facts], *, cut: bool) -> Difference | None:
    for expected, found in zip(was, now, strict=False):
        difference = _difference(where, expected, found)
        if difference is not None:
            return difference
    if len(now) > len(was) or (len(now) < len(was) and not cut):
        return Difference(where, f"{what}: how many", str(len(was)), str(len(now)))
    return None


def _difference(where: str, expected: Facts, found: Facts) -> Difference | None:
    paths = [
        path for path in dict.fromkeys((*expected, *found)) if expected.get(path, _NOTHING) != found.get(path, _NOTHING)
    ]
    if not paths:
        return None
    what, *more = paths
    return Difference(where, what, expected.get(what, _NOTHING), found.get(what, _NOTHING), tuple(more))


def compared(stretch: Stretch) -> int:
    """Steps whose state after it was compared."""
    return sum(after.state is not None for after in stretch.after.values())
