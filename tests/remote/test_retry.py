from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Auth, Conflict, InvalidInput, RemoteFailed
from ckstore.remote.counting import Counting, Counts
from ckstore.remote.interface import RootMoved, Transient, Unclear
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.remote.retry import Retries, Retry, Retrying
from ckstore.remote.source import Buffers
from ckstore.remote.throttle import RateLimit, Throttled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ckstore.errors import CkstoreError
    from ckstore.remote.interface import Remote, Root, Stat, Version
    from ckstore.remote.source import Source


class Failing(MemoryRemote):
    """Raises what `errors` has, one at each call, before it does anything; reads fail after their first block."""

    def __init__(self, *errors: CkstoreError) -> None:
        super().__init__(MemoryPlace("test"))
        self.errors = list(errors)
        self.calls = 0

    def fail(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        for number, block in enumerate(super().read(name, start, stop)):
            if number:
                self.fail()
            yield block

    def list(self, prefix: str) -> Iterator[Stat]:
        for number, stat in enumerate(super().list(prefix)):
            if number == 1:
                self.fail()
            yield stat

    def put(self, name: str, source: Source) -> bool:
        self.fail()
        return super().put(name, source)

    def read_root(self) -> Root | None:
        self.fail()
        return super().read_root()

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self.fail()
        return super().swap_root(data, expected)


def never(wait_s: float) -> None:
    pytest.fail(f"waited {wait_s} s")


BUSY = Transient("busy")
CALLS: list[Callable[[Remote], object]] = [
    lambda remote: remote.put("packs/a", Buffers(b"x")),
    lambda remote: remote.read_root(),
    lambda remote: remote.swap_root(b"", None),
]


@pytest.mark.parametrize("call", CALLS)
def test_what_passes_is_tried_again(call: Callable[[Remote], Any]) -> None:
    inner, naps, told = Failing(BUSY, BUSY, BUSY), list[float](), list[Retry]()
    retrying = Retrying(inner, sleep=naps.append, draw=lambda: 1.0, told=told.append)
    call(retrying)
    assert inner.calls == 4
    assert naps == [0.25, 0.5, 1.0]
    assert [(retry.error, retry.wait_s) for retry in told] == [(BUSY, 0.25), (BUSY, 0.5), (BUSY, 1.0)]


@pytest.mark.parametrize("error", [Auth("no"), RemoteFailed("no"), InvalidInput("no"), Conflict("no")])
@pytest.mark.parametrize("call", CALLS)
def test_what_stays_is_not(call: Callable[[Remote], Any], error: CkstoreError) -> None:
    inner = Failing(error)
    with pytest.raises(type(error)):
        call(Retrying(inner, sleep=never))
    assert inner.calls == 1


@pytest.mark.parametrize("error", [RootMoved("moved"), Unclear("who knows")])
def test_a_move_of_the_root_that_may_have_happened_is_not_sent_again(error: CkstoreError) -> None:
    inner = Failing(error)
    with pytest.raises(type(error)):
        Retrying(inner, sleep=never).swap_root(b"", None)
    assert inner.calls == 1


def test_after_the_deadline_the_last_error_stays() -> None:
    inner, naps = Failing(*[Transient("busy", why="it said 503")] * 100), list[float]()
    with pytest.raises(RemoteFailed, match="tried 10 times") as raised:
        Retrying(inner, Retries(deadline_s=60), sleep=naps.append, draw=lambda: 1.0).read_root()
    assert not isinstance(raised.value, Transient), "nobody above tries for another minute"
    assert "it said 503" in str(raised.value)
    assert naps == [0.25, 0.5, 1, 2, 4, 8, 16, 20, 20], "the last one begins before the deadline"


def test_a_server_says_how_long_to_wait() -> None:
    inner, naps = Failing(Transient("busy", retry_after_s=7), Transient("busy", retry_after_s=1e6)), list[float]()
    Retrying(inner, Retries(deadline_s=1000), sleep=naps.append).read_root()
    assert naps == [7, 120]


def test_waits_are_drawn_from_zero_on_and_leave_the_random_numbers_of_a_training_alone() -> None:
    random.seed(5)
    state = random.getstate()
    naps: list[float] = []
    for _ in range(50):
        Retrying(Failing(BUSY), sleep=naps.append).read_root()
    assert random.getstate() == state
    assert len(set(naps)) > 40
    assert 0 <= min(naps) < 0.1 < max(naps) <= 0.25


def test_a_read_goes_on_and_its_deadline_is_a_new_one_with_each_block() -> None:
    data = random.Random(1).randbytes(6 << 20)
    inner, naps = Failing(*[BUSY] * 5), list[float]()
    inner.place.objects["packs/a"] = inner.place.hold(data)
    assert Retrying(inner, Retries(deadline_s=0.3), sleep=naps.append, draw=lambda: 1.0).get("packs/a", 3) == data[3:]
    assert naps == [0.25] * 5


def test_a_list_goes_on_after_the_last_name() -> None:
    inner = Failing(BUSY, BUSY, BUSY)
    for name in "abcd":
        inner.place.objects[name] = inner.place.hold(b"")
    assert [stat.name for stat in Retrying(inner, sleep=lambda _: None).list("")] == ["a", "b", "c", "d"]
    assert inner.calls == 4


def test_a_sleep_that_raises_gives_up() -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Retrying(Failing(BUSY), sleep=interrupted).read_root()


def test_a_dropped_read_ends_quietly() -> None:
    inner = Failing()
    inner.place.objects["a"] = inner.place.hold(bytes(3 << 20))
    blocks = Retrying(inner, sleep=never).read("a")
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]


# The limit on the rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def sleep(self, wait_s: float) -> None:
        self.naps.append(wait_s)
        self.now += wait_s


def test_bytes_are_paid_for_both_ways() -> None:
    clock = Clock()
    limit = RateLimit(1000, monotonic_s=lambda: clock.now, sleep=clock.sleep)
    remote = Throttled(MemoryRemote(MemoryPlace()), limit)
    remote.put("a", Buffers(bytes(5000)))
    assert clock.now == pytest.approx(105, abs=0.2)
    remote.get("a", 0, 2000)
    assert clock.now == pytest.approx(107, abs=0.2)
    version = remote.swap_root(bytes(1000), None)
    assert version
    remote.read_root()
    assert clock.now == pytest.approx(109, abs=0.2)


def test_threads_share_one_limit() -> None:
    waits: list[float] = []
    limit = RateLimit(1000, monotonic_s=lambda: 0.0, sleep=waits.append)
    threads = [threading.Thread(target=limit.take, args=(500,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(waits) == pytest.approx(3.0, abs=0.11)


def test_what_was_not_used_is_not_saved_up() -> None:
    clock = Clock()
    limit = RateLimit(1000, monotonic_s=lambda: clock.now, sleep=clock.sleep)
    clock.now += 1000
    limit.take(1000)
    assert clock.naps == [pytest.approx(0.9)]


def test_no_rate_is_refused() -> None:
    with pytest.raises(InvalidInput):
        RateLimit(0)


# Counts


def test_requests_and_bytes_are_counted() -> None:
    counts = Counts()
    remote = Counting(MemoryRemote(MemoryPlace()), counts)
    remote.put("a", Buffers(bytes(100)))
    remote.put("a", Buffers(bytes(100)))
    remote.get("a", 10, 30)
    remote.swap_root(bytes(7), None)
    remote.read_root()
    remote.stat("a")
    remote.clock_ns()
    assert len(list(remote.list(""))) == 1
    remote.delete(["a"])
    remote.inside("b").remove_root()
    traffic = counts.traffic()
    assert traffic.requests == {"put": 3, "head": 3, "get": 2, "list": 1, "delete": 2}
    assert (traffic.up_bytes, traffic.down_bytes, traffic.total) == (207, 27, 11)


def test_pages_are_counted() -> None:
    counts, place = Counts(), MemoryPlace()
    for number in range(2001):
        place.objects[f"{number:05}"] = place.hold(b"")
    remote = Counting(MemoryRemote(place), counts)
    names = [stat.name for stat in remote.list("")]
    remote.delete(names)
    remote.delete([])
    assert counts.traffic().requests == {"list": 3, "delete": 3}
