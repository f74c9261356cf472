"""Threads that work off items: each once, none ahead of need, and the first error ends it for all."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckstore.storage.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ITEMS = 200


@pytest.fixture(params=[(1, False), (2, False), (8, False), (1, True), (3, True)], ids=str)
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    count, background = request.param
    made = Workers(count, background=background)
    yield made
    made.close()


@pytest.mark.parametrize("number", [0, 1, 2, ITEMS])
@pytest.mark.parametrize("give", [range, lambda number: iter(list(range(number))), lambda n: (i for i in range(n))])
def test_each_item_is_done_once(workers: Workers, number: int, give: Callable[[int], Iterator[int]]) -> None:
    done: list[int] = []
    workers.map(done.append, give(number))
    assert sorted(done) == list(range(number))


def test_items_may_be_arrays(workers: Workers) -> None:
    done: list[int] = []
    workers.map(lambda item: done.append(int(item.sum())), (np.full(3, i) for i in range(4)))
    assert sorted(done) == [0, 3, 6, 9]


def test_the_first_error_is_raised_once_all_have_stopped(workers: Workers) -> None:
    running: set[int] = set()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        running.add(item)
        try:
            time.sleep(0.001)
            if item == 5:
                raise ValueError("item five")
        finally:
            running.discard(item)

    with pytest.raises(ValueError, match="item five"):
        workers.map(work, range(ITEMS))
    assert not running
    assert len(begun) < ITEMS


def test_an_error_of_the_items_is_raised(workers: Workers) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("no more")

    done: list[int] = []
    with pytest.raises(KeyError, match="no more"):
        workers.map(done.append, items())
    assert sorted(done) == [0, 1, 2]


def test_a_stop_iteration_of_the_work_is_no_end(workers: Workers) -> None:
    with pytest.raises(StopIteration):
        workers.map(lambda _: next(iter(())), range(3))


def test_items_may_wait_for_those_before(workers: Workers) -> None:
    """As pull's units do: the third is not there before the first is done."""
    changed = threading.Condition()
    done: set[int] = set()

    def items() -> Iterator[int]:
        for item in range(20):
            with changed:
                assert changed.wait_for(lambda item=item: item < 2 or item - 2 in done, 10)  # type: ignore[misc]
            yield item

    def work(item: int) -> None:
        with changed:
            done.add(item)
            changed.notify_all()

    workers.map(work, items())
    assert len(done) == 20


def test_no_more_threads_than_asked_for_and_the_caller_is_one() -> None:
    seen: set[int] = set()
    together = threading.Barrier(3)

    def work(_: int) -> None:
        seen.add(threading.get_ident())
        together.wait(10)

    workers = Workers(3)
    workers.map(work, range(30))
    workers.close()
    assert len(seen) == 3
    assert threading.get_ident() in seen


@pytest.mark.parametrize(("background", "number"), [(False, 3), (True, 2)])
def test_one_map_does_not_wait_for_another(background: bool, number: int) -> None:
    """Of the pool's three threads one is left."""
    workers = Workers(3, background=background)
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait_there(_: int) -> None:
        begun.release()
        assert go_on.wait(30)

    other = threading.Thread(target=workers.map, args=(wait_there, range(number)))
    other.start()
    for _ in range(number):
        assert begun.acquire(timeout=10)
    done: list[int] = []
    workers.map(done.append, range(100))
    assert sorted(done) == list(range(100))
    assert other.is_alive()
    go_on.set()
    other.join(10)
    assert not other.is_alive()
    workers.close()


def test_in_the_background_the_caller_only_waits() -> None:
    seen: set[int] = set()
    workers = Workers(1, background=True)
    workers.map(lambda _: seen.add(threading.get_ident()), range(30))
    workers.close()
    assert len(seen) == 1
    assert threading.get_ident() not in seen
