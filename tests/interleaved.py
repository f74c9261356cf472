"""Two things done at once, in every order of their steps.

A step ends where one of the named functions is about to be called. One thread runs at a time, so that an order is the
same each time; what a step does under a lock it does to the end.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tests.crash.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Actor(threading.Thread):
    """Does `work` step by step: waits before each until `step` lets it go on."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self.result: object = None
        self.error: BaseException | None = None
        self._work = work
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self.ended = False

    def run(self) -> None:
        self._go.acquire()
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._waits.release()

    def pause(self) -> None:
        """Called in the actor's own thread where a step ends."""
        self._waits.release()
        self._go.acquire()

    def step(self) -> None:
        """Let it do its next step, and wait for the end of that."""
        if not self.ended:
            self._go.release()
            self._waits.acquire()


@contextmanager
def stopping_at(places: Iterable[tuple[object, str]]) -> Iterator[None]:
    """The functions named end a step of the actor that calls them."""

    def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            thread = threading.current_thread()
            if isinstance(thread, Actor):
                thread.pause()
            return function(*arguments, **options)

        return call

    with ExitStack() as stack:
        for owner, name in places:
            stack.enter_context(replaced(owner, name, stopping(getattr(owner, name))))
        yield


def orders(first: int, second: int) -> Iterator[Sequence[int]]:
    """Every order of so many steps of two actors: 0 for a step of the first, 1 for one of the second."""
    for places in itertools.combinations(range(first + second), second):
        yield [int(number in places) for number in range(first + second)]


def run(actors: Sequence[Actor], order: Sequence[int]) -> None:
    """Run the actors in an order, then to their ends. Raises what an actor raised last."""
    for actor in actors:
        actor.start()
    for number in order:
        actors[number].step()
    for actor in actors:
        while not actor.ended:
            actor.step()
        actor.join()


def steps_of(work: Callable[[], object]) -> int:
    """How many steps something has when it runs alone."""
    actor = Actor("alone", work)
    actor.start()
    count = 0
    while not actor.ended:
        actor.step()
        count += 1
    if actor.error is not None:
        raise actor.error
    return count
