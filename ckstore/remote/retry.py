"""Trying again, around any remote: what is `Transient` is tried until a deadline, with waits of random length.

Waits grow by doubling and are drawn anew from zero to that (full jitter), so that many clients do not come back at
once; a server that says how long to wait is waited for. A transfer that was cut goes on at the byte where it was.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import tenacity

from ckstore.errors import RemoteFailed
from ckstore.remote.interface import Transient, Unclear
from ckstore.remote.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckstore.remote.interface import Remote, Root, Stat, Version
    from ckstore.remote.source import Source

_T = TypeVar("_T")
_LONGEST_ASKED_S = 120.0


@dataclass(frozen=True)
class Retries:
    """How long to go on. `deadline_s` counts from the start of a call, and from the last byte that came of a transfer;
    no wait begins after it.

    The n-th wait is drawn from zero to `first_wait_s` times 2**(n-1), at most `longest_wait_s`; a server may ask for
    more, up to two minutes.
    """

    deadline_s: float = 120.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 20.0


@dataclass(frozen=True)
class Retry:
    """A call that failed and will be made again after `wait_s`."""

    what: str
    error: Transient
    wait_s: float


def _ignore(_: Retry) -> None:
    pass


class Retrying(Wrapper):
    """`inner`, tried again. After the deadline the last error is raised, with how often it was tried.

    `swap_root` is sent again only where it is certain that nothing was written: `Unclear` is for the caller to look
    into. `sleep` waits for so many seconds, and may raise to give everything up; `draw` gives numbers from zero to one
    (random ones of its own by default: the training's generators are left alone); `told` hears of each retry.
    """

    def __init__(
        self,
        inner: Remote,
        retries: Retries | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] | None = None,
        told: Callable[[Retry], None] = _ignore,
    ) -> None:
        super().__init__(inner)
        self._retries = retries or Retries()
        self._sleep = sleep
        self._draw = draw or random.Random().random
        self._told = told

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        tries = self._tries(f"read {name}")
        for attempt in tries.retrying:
            with attempt:
                for block in self.inner.read(name, start, stop):
                    start += len(block)
                    tries.moved()
                    yield block

    def put(self, name: str, source: Source) -> bool:
        return self._call(f"write {name}", lambda: self.inner.put(name, source))

    def stat(self, name: str) -> Stat | None:
        return self._call(f"look at {name}", lambda: self.inner.stat(name))

    def list(self, prefix: str) -> Iterator[Stat]:
        tries = self._tries(f"list {prefix}")
        last = ""
        for attempt in tries.retrying:
            with attempt:
                for stat in self.inner.list(prefix):
                    if stat.name > last:
                        last = stat.name
                        tries.moved()
                        yield stat

    def delete(self, names: Sequence[str]) -> None:
        self._call("delete", lambda: self.inner.delete(names))

    def read_root(self) -> Root | None:
        return self._call("read the root", self.inner.read_root)

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        return self._call("move the root", lambda: self.inner.swap_root(data, expected))

    def clock_ns(self) -> int:
        return self._call("read the clock", self.inner.clock_ns)

    def remove_root(self) -> None:
        self._call("delete the root", self.inner.remove_root)

    def inside(self, name: str) -> Remote:
        within = self.inner.inside(name)
        return Retrying(within, self._retries, sleep=self._sleep, draw=self._draw, told=self._told)

    def _call(self, what: str, call: Callable[[], _T]) -> _T:
        return self._tries(what).retrying(call)

    def _tries(self, what: str) -> _Tries:
        return _Tries(what, self._retries, self._sleep, self._draw, self._told)


class _Tries:
    """The tries of one call: `retrying` makes them."""

    def __init__(
        self,
        what: str,
        retries: Retries,
        sleep: Callable[[float], None],
        draw: Callable[[], float],
        told: Callable[[Retry], None],
    ) -> None:
        self._what = what
        self._retries = retries
        self._sleep = sleep
        self._draw = draw
        self._told = told
        self._failures = 0
        self.moved()
        self.retrying = tenacity.Retrying(
            sleep=self._nap,
            wait=self._wait,
            stop=self._stop,
            retry=tenacity.retry_if_exception(_may_pass),
            before_sleep=self._tell,
            retry_error_callback=self._give_up,
        )

    def moved(self) -> None:
        """Something came: the deadline is a new one, and waits are short again."""
        self._since_s = time.monotonic()
        self._slept_s = 0.0
        self._failures = 0

    def _nap(self, wait_s: float) -> None:
        self._slept_s += wait_s
        self._sleep(wait_s)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        self._failures += 1
        grown = self._retries.first_wait_s * 2.0 ** min(self._failures - 1, 30)
        wait_s = self._draw() * min(grown, self._retries.longest_wait_s)
        asked = _error(state).retry_after_s
        return wait_s if asked is None else max(wait_s, min(asked, _LONGEST_ASKED_S))

    def _passed_s(self) -> float:
        # Sleep that was only pretended counts as well.
        return max(time.monotonic() - self._since_s, self._slept_s)

    def _stop(self, _: tenacity.RetryCallState) -> bool:
        return self._passed_s() >= self._retries.deadline_s

    def _tell(self, state: tenacity.RetryCallState) -> None:
        self._told(Retry(self._what, _error(state), state.upcoming_sleep))

    def _give_up(self, state: tenacity.RetryCallState) -> NoReturn:
        error = _error(state)
        tries = f"tried {state.attempt_number} times, the last {self._passed_s():.0f} s without success"
        raise RemoteFailed(error.what, why=f"{error.why}; {tries}" if error.why else tries, hint=error.hint) from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Transient) and not isinstance(error, Unclear)


def _error(state: tenacity.RetryCallState) -> Transient:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Transient)
    return error
