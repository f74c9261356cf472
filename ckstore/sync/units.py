"""Units of what comes: while one is sealed, synced and recorded, the next one is on its way already.

They are recorded one after another, in their order, each whole or not at all. Whichever thread brings the last frames
of a unit records it, and those behind it that are there by then.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ckstore.remote.segment import Place
    from ckstore.storage.record import Record
    from ckstore.storage.workers import Workers
    from ckstore.sync.local import Incoming

    Request = Sequence[Place]

_OPEN = 2
"""Units under way: one that is being recorded, and the one after it."""


class _Unit:
    def __init__(self, requests: int, manager: AbstractContextManager[Incoming]) -> None:
        self.left = requests
        self.incoming = manager.__enter__()
        self._manager = manager

    def close(self, error: BaseException | None = None) -> None:
        """Give it up with an error, or as it is recorded."""
        kind = None if error is None else type(error)
        self._manager.__exit__(kind, error, None if error is None else error.__traceback__)


class Units:
    """Brings units: `read` takes the frames of one request in, `record` is what is recorded for each unit."""

    def __init__(
        self,
        open_incoming: Callable[[], AbstractContextManager[Incoming]],
        read: Callable[[Incoming, Request], None],
        record: Record,
    ) -> None:
        self._open_incoming = open_incoming
        self._read = read
        self._record = record
        self._open: deque[_Unit] = deque()
        self._changed = threading.Condition()
        self._recording = False
        self._failed = False

    def run(self, workers: Workers, units: Iterable[Sequence[Request]]) -> None:
        """Bring each unit of requests. After the first error, which is raised, none is begun, and what is not recorded
        by then is dropped.
        """
        try:
            workers.map(self._bring, self._requests(units))
        except BaseException as error:
            with self._changed:  # an interrupted wait may have left threads at work
                self._failed = True
                dropped, self._open = self._open, deque()
            for unit in dropped:
                unit.close(error)
            raise

    def _requests(self, units: Iterable[Sequence[Request]]) -> Iterator[tuple[_Unit, Request]]:
        for requests in units:
            with self._changed:
                self._changed.wait_for(lambda: self._failed or len(self._open) < _OPEN)
                if self._failed:
                    return
            unit = _Unit(len(requests), self._open_incoming())
            with self._changed:
                self._open.append(unit)
            for request in requests:
                yield unit, request

    def _bring(self, work: tuple[_Unit, Request]) -> None:
        unit, request = work
        if self._failed:
            return  # another thread raises what failed
        try:
            self._read(unit.incoming, request)
            with self._changed:
                unit.left -= 1
            self._record_ready()
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise

    def _record_ready(self) -> None:
        """Record the units that are whole, in their order, unless another thread is at it: that one goes on."""
        with self._changed:
            if self._recording:
                return
            self._recording = True  # for good where recording fails
        while (unit := self._ready()) is not None:
            unit.incoming.publish(self._record)
            unit.close()
            with self._changed:
                if self._open:
                    self._open.popleft()
                self._changed.notify_all()

    def _ready(self) -> _Unit | None:
        with self._changed:
            if self._open and not self._open[0].left:
                return self._open[0]
            self._recording = False
            return None
