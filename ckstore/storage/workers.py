"""A small pool of threads for work that releases the GIL: hashing, compressing, reading and writing."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_MOST = 4  # each holds about 12 MiB while a store is open, and more of them mostly wait for the interpreter
_AHEAD = 2
_BACKGROUND_NICE = 5
_JOB_BYTES = 8 << 20


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
        """Do `work` on every item, a few ahead of the threads at most. The first error is raised once all have stopped.

        Must not be called from inside `work`.
        """
        if self.count == 1 and self._begin is None:  # else whoever calls is not in the background, or not for long
            for item in items:
                work(item)
            return
        pool = self._threads()
        pending: set[Future[None]] = set()
        try:
            for item in items:
                try:
                    pending.add(pool.submit(work, item))
                except RuntimeError:  # the interpreter is ending and starts nothing more
                    work(item)
                if len(pending) >= self.count * _AHEAD:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)

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
    """Runs of items of about 8 MiB: enough work for a thread to be worth its hand-over."""
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
