"""Commits made up for retention: histories without any data, and what their bytes would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.graph.reached import Reached
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.encoding import float_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOW = 10**18
HOUR = 3600 * 10**9


def unsaid(_: str) -> None:
    """Nobody said which way a metric is better."""


def id_of(number: int) -> bytes:
    return number.to_bytes(32)


def commit(
    number: int,
    *parents: int,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
    components: Sequence[str] = ("model", "optimizer"),
    age_ns: int | None = None,
) -> Commit:
    """Commit `number`; an hour younger than the one before."""
    return Commit(
        components=tuple(Component(name, id_of(number)) for name in components),
        parents=tuple(map(id_of, parents)),
        time_ns=NOW - (1000 - number) * HOUR if age_ns is None else NOW - age_ns,
        offset_min=0,
        author="",
        message="",
        metrics=tuple(Metric(name, float_bits(value)) for name, value in sorted((metrics or {}).items())),
        step=step,
    )


def line(losses: Sequence[float | None], *, every: int | None = 100, first: int = 1) -> dict[bytes, Commit]:
    """One commit after another, the first numbered `first`, each with its loss, `every` steps apart."""
    return {
        id_of(number): commit(
            number,
            *([number - 1] if number > first else []),
            step=None if every is None else every * (number - first + 1),
            metrics=None if loss is None else {"loss": loss},
        )
        for number, loss in enumerate(losses, first)
    }


def on_main(commits: Mapping[bytes, Commit], **more: object) -> Reached:
    """The commits as the branch main, whose tip is the one with the largest number."""
    return Reached(commits, {"main": max(commits)}, **more)  # type: ignore[arg-type]


class Bytes:
    """Costs: every commit takes the sum of the chunks that no commit taken before has; a component is one chunk."""

    def __init__(self, sizes: Mapping[bytes, int] | int = 10, shared: Mapping[bytes, int] | None = None) -> None:
        self._sizes = sizes
        self._shared = shared or {}
        self.taken: list[tuple[bytes, tuple[str, ...]]] = []
        self._have: set[int] = set()

    def marginal(self, id: bytes, components: Sequence[str]) -> int:
        if self._shared.get(id) in self._have:
            return 0
        size = self._sizes if isinstance(self._sizes, int) else self._sizes[id]
        return size * len(components)

    def take(self, id: bytes, components: Sequence[str]) -> None:
        assert id not in [one for one, _ in self.taken]
        self.taken.append((id, tuple(components)))
        if id in self._shared:
            self._have.add(self._shared[id])
