"""A small pool of threads for work that releases the GIL: hashing, compressing, reading and writing."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from operator import length_hint
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_MOST = 4  # each holds about 12 MiB while a store is open, and more of them mostly wait for the interpreter
_BACKGROUND_NICE = 5
_JOB_BYTES = 2 << 20
_END = object()


class Workers:
    """`count` threads, started at first use, and started anew in a forked child.

    With `background` they leave the processor to others who want it, where the system knows threads' priorities.
    """

    def __init__(self, count: int | None = None, *, background: bool = False) -> None:
        self.count = count or min(_MOST, os.cpu_count() or 1)
        self._begin = yield_to_others if background else None
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def map(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Do `work` on every item; without `background` whoever calls is one of the threads.

        An item is taken once a thread is free for it. The first error is raised once all have stopped.
        """
        feed = _Feed(items)
        wanted = min(self.count, length_hint(items, self.count)) - (self._begin is None)
        helpers: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # the interpreter is ending and starts nothing more
                while len(helpers) < wanted:
                    helpers.append(self._threads().submit(feed.work_off, work))
            if self._begin is None or not helpers:  # else whoever calls is not in the background, or not for long
                feed.work_off(work)
            else:
                wait(helpers, return_when=FIRST_COMPLETED)  # it found nothing more
        finally:
            feed.end()
            wait([helper for helper in helpers if not helper.cancel()])  # another `map` may keep some from beginning
        if feed.error is not None:
            raise feed.error

    def close(self) -> None:
        """End the threads; the next `map` starts new ones."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown()
        self._pool = None

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pid != os.getpid():
            self._pool = ThreadPoolExecutor(self.count, "ckstore", self._begin)
            self._pid = os.getpid()
        return self._pool


class _Feed(Generic[T]):
    """Items that threads take one after another, until there are no more or something has failed: `error`."""

    def __init__(self, items: Iterable[T]) -> None:
        self.error: BaseException | None = None
        self._items = iter(items)
        self._lock = threading.Lock()

    def work_off(self, work: Callable[[T], None]) -> None:
        """Do `work` on items that nobody else has taken, until the end."""
        try:
            while (item := self._take()) is not _END:
                work(cast("T", item))
        except BaseException as error:
            self.error = self.error or error
            self.end()

    def end(self) -> None:
        """Let nobody take any more."""
        self._items = iter(())

    def _take(self) -> T | object:
        with self._lock:
            return next(self._items, _END)


def yield_to_others() -> None:
    """Give this thread a low priority. Only Linux has one for each thread; elsewhere nothing is done."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICE)


class PerThread(threading.local):
    """Scratch that each thread keeps to itself: `get(make)` makes it at the thread's first use."""

    def get(self, make: Callable[[], T]) -> T:
        found = self.__dict__.get("value")
        if found is None:
            found = self.__dict__["value"] = make()
        value: T = found
        return value


def jobs(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Runs of items of about 2 MiB: enough work to be worth handing over, and few enough that all end together."""
    job: list[T] = []
    size_bytes = 0
    for item in items:
        job.append(item)
        size_bytes += length(item)
        if size_bytes >= _JOB_BYTES:
            yield job
            job, size_bytes = [], 0
    if job:
        yield job
