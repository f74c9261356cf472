"""The simulation: drawn courses, and every order of the first steps of three actors."""

from __future__ import annotations

import random
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import CkstoreError
from tests.sync.simulation import Course, MemoryLocal, Pusher, collect, examine, pull, simulate

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


def run_in(order: Sequence[str], *, third: str) -> None:
    """Two pushers of one branch, and a gc without any grace or a puller, whose first steps come in that order."""
    choose = random.Random(0)
    course = Course(choose, 0.0)
    pushers = [Pusher(name, choose, 1) for name in ("a", "b")]
    before = Pusher("before", choose, 1)
    course.start("before", before.work)
    course.run()
    for pusher in pushers:
        course.start(pusher.name, pusher.work)
    local = MemoryLocal()
    course.start("c", collect(local, 2, 0) if third == "gc" else pull(local, 2))
    course.run([{"a": "a", "b": "b", "c": "c"}[name] for name in order])
    examine(course, [before, *pushers])


@pytest.mark.parametrize("third", ["gc", "puller"])
def test_every_order_of_the_first_steps(third: str, pytestconfig: pytest.Config) -> None:
    """Three actors of four requests each can come in 34,650 orders: each 25th of them, or with --crash-scale all."""
    stride = max(1, 25 // pytestconfig.getoption("--crash-scale"))
    for order in islice(orders({"a": 4, "b": 4, "c": 4}), 0, None, stride):
        try:
            run_in(order, third=third)
        except CkstoreError as error:
            raise AssertionError(f"order {''.join(order)}") from error


def test_there_are_as_many_orders_as_there_should_be() -> None:
    assert sum(1 for _ in orders({"a": 4, "b": 4, "c": 4})) == 34_650
