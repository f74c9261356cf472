"""The simulation: drawn courses, and every order of the first steps of three actors."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ckstore.remote.memory import MemoryRemote
from ckstore.sync.fetch import FetchRequest, fetch
from ckstore.sync.prune import PruneRequest, prune
from tests.sync.simulation import Course, MemoryLocal, Pusher, SimulatedRemote, examine, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEEDS = 10_000
PARTS = 10


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_nothing_is_lost(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        try:
            simulate(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


def orders(left: dict[str, int]) -> Iterator[list[str]]:
    """Every order of so many steps of each actor."""
    if not any(left.values()):
        yield []
    for name, count in left.items():
        if count:
            for rest in orders(left | {name: count - 1}):
                yield [name, *rest]


class Step(NamedTuple):
    """A request that an actor waits before, with all that it does up to its next step: what of that others share."""

    request: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


ROOT, PACKS, GONE = frozenset({"root"}), frozenset({"packs"}), frozenset({"gone"})

STEPS = {
    "pusher": [Step("root", ROOT), Step("put packs/", writes=PACKS), Step("put index/"), Step("swap", writes=ROOT)],
    "gc": [Step("root", ROOT), Step("list packs/", PACKS), Step("put state/"), Step("swap", ROOT, ROOT)],
    "sweeper": [
        Step("root", ROOT | PACKS),
        Step("swap", ROOT | PACKS, ROOT),
        Step("delete", writes=GONE),
        Step("swap", ROOT, ROOT),
    ],
    "puller": [Step("root", ROOT), Step("read index/", GONE), Step("read packs/", GONE), Step("read packs/", GONE)],
}
"""The four steps of each kind of actor. A sweeper is a gc that has been at work before: it deletes, too."""


def depend(one: Step, two: Step) -> bool:
    """Whether it matters which of two steps of different actors comes first.

    Objects are written once, under names that nobody else can know before the root names them: what is shared is the
    root, that packs are there when they are listed, and that what is read is not gone.
    """
    both_write = (one.writes & two.writes) - PACKS
    return bool(both_write or one.writes & two.reads or one.reads & two.writes)


def different(kinds: dict[str, str]) -> Iterator[list[str]]:
    """The orders of four steps of each actor that lead to different courses: one of all that are equal."""
    seen = set()
    for order in orders(dict.fromkeys(kinds, 4)):
        count = dict.fromkeys(kinds, 0)
        steps = []
        for name in order:
            steps.append((name, STEPS[kinds[name]][count[name]]))
            count[name] += 1
        normal = tuple(_normal(steps))
        if normal not in seen:
            seen.add(normal)
            yield list(normal)


def _normal(steps: list[tuple[str, Step]]) -> Iterator[str]:
    """The names of the first order, by name, of those that lead where this one does."""
    left = list(steps)
    while left:
        free = []
        for at, (name, what) in enumerate(left):
            if not any(before == name or depend(other, what) for before, other in left[:at]):
                free.append(at)
        at = min(free, key=lambda at: left[at][0])
        yield left.pop(at)[0]


def run_in(order: Sequence[str], kinds: dict[str, str]) -> None:
    """Actors whose first steps come in that order, at a remote of which something is to be taken away."""
    choose = random.Random(0)
    course = Course(choose, 0.0)
    before = Pusher("before", choose, 2)
    course.start("before", before.work)
    course.run()
    left = {name: [step.request for step in STEPS[kind]] for name, kind in kinds.items()}

    def waits(name: str, what: str) -> bool:
        if left[name] and what.startswith(left[name][0]):
            left[name].pop(0)
            return True
        return not left[name]

    course.waits_for = waits
    pushers = [before]
    for name, kind in kinds.items():
        if kind == "pusher":
            pushers.append(Pusher(name, choose, 1))
            pushers[-1].local = _clone(course)
            course.start(name, pushers[-1].work)
        else:
            local = MemoryLocal()
            course.start(name, lambda remote, work=WORK[kind], local=local: work(remote, local))  # type: ignore[misc]
    course.run(list(kinds), only_these=True)  # up to their first steps
    course.run(order)
    assert not any(left.values()), left
    examine(course, pushers)


def _clone(course: Course) -> MemoryLocal:
    local = MemoryLocal()
    fetch(MemoryRemote(course.place), local, FetchRequest("origin", 0, jobs=1))
    return local


def _collect(remote: SimulatedRemote, local: MemoryLocal) -> None:
    prune(remote, local, PruneRequest(0))
    prune(remote, local, PruneRequest(0))


def _pull(remote: SimulatedRemote, local: MemoryLocal) -> None:
    fetch(remote, local, FetchRequest("origin", 0, jobs=1))
    local.check()


WORK = {"gc": _collect, "sweeper": _collect, "puller": _pull}


@pytest.mark.parametrize(
    "kinds",
    [
        ("pusher", "pusher", "gc"),
        ("pusher", "pusher", "sweeper"),
        ("pusher", "pusher", "puller"),
        ("pusher", "sweeper", "puller"),
    ],
    ids="-".join,
)
def test_every_order_of_four_steps_of_three_actors(kinds: tuple[str, str, str]) -> None:
    """34,650 orders; one of all those that cannot be told apart."""
    actors = dict(zip("abc", kinds, strict=True))
    for order in different(actors):
        try:
            run_in(order, actors)
        except BaseException as error:
            raise AssertionError(f"order {''.join(order)}") from error


def test_there_are_as_many_orders_as_there_should_be() -> None:
    assert sum(1 for _ in orders({"a": 4, "b": 4, "c": 4})) == 34_650
    assert len(list(different({"a": "puller", "b": "puller"}))) == 1
