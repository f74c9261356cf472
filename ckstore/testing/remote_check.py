"""One point of a contract: how it runs, and how it says that a remote breaks it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.remote.interface import Remote

    Make = Callable[[], Remote]

THREADS = 8
"""How many do something at once."""


class Broken(AssertionError):
    """A remote does not keep the contract."""


@dataclass(frozen=True)
class Check:
    """One point of the contract; its name says which."""

    name: str
    body: Callable[[Clients], None]

    def __call__(self, make: Make) -> None:
        """Raise `Broken`, or whatever the remote raises, unless the remote keeps this point."""
        with ExitStack() as stack:
            self.body(Clients(make, stack))

    def __str__(self) -> str:
        return self.name


class Clients:
    """Makes clients of the place, and closes them in the end."""

    def __init__(self, make: Make, stack: ExitStack) -> None:
        self._make = make
        self._stack = stack

    def __call__(self) -> Remote:
        return self._stack.enter_context(self._make())


def must(holds: bool, text: str) -> None:
    """Raise `Broken` with that text unless it holds."""
    if not holds:
        raise Broken(text)


def raises(kind: type[CkstoreError], what: str, call: Callable[[], object]) -> None:
    """Raise `Broken` unless `call` raises that kind of error."""
    try:
        call()
    except kind:
        return
    raise Broken(f"{what} must raise {kind.__name__}")


def together(call: Callable[[int], object], threads: int = THREADS) -> list[object]:
    """What `call` gives or raises in several threads that begin at one moment."""
    begin = threading.Barrier(threads)

    def run(number: int) -> object:
        begin.wait()
        try:
            return call(number)
        except CkstoreError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))
