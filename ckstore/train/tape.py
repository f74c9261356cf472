"""An iterator that can be wound on to where another stood, though it and others draw from the same generators."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ckstore.errors import InvalidInput
from ckstore.train.streams import put_stream, same_stream, stream_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.train.streams import Generator

Jumps = list[dict[str, Any]]
"""`{"at": pulls made before, "streams": {name: state}}`: what others had drawn by then, seen at the next pull."""


class Tape:
    """Hands out the items of `items` and counts the pulls.

    `streams` are the generators that pulling may draw from. Where somebody else has drawn from one between two pulls
    that both draw from it, where it stood is written down (2 to 5 KB): `wind` then puts it there. The first pull
    finds them as the maker left them. No streams: nothing is written down.
    """

    def __init__(self, items: Iterator[Any], streams: dict[str, Generator]) -> None:
        self._items = items
        self._streams = streams
        self._last: dict[str, Any] = {}
        self._waiting: deque[Any] = deque()
        self.pulls = 0
        self.jumps: Jumps = []
        self.closed = False
        """A closed tape acts as if there were nothing more; it pulls nothing."""

    def __iter__(self) -> Tape:
        return self

    def __next__(self) -> Any:
        if self.closed:
            raise StopIteration
        if self._waiting:
            return self._waiting.popleft()
        return self._pull()

    def wind(self, pulls: int, jumps: Jumps, keep: int) -> None:
        """Make `pulls` pulls, as they were made when `jumps` were written down; hand out again those from `keep` on.

        The end is a pull too. The generators are left wherever the last pull leaves them. Raises `InvalidInput` where
        there are fewer than `keep` items.
        """
        told = {jump["at"]: jump["streams"] for jump in jumps if jump["at"] < pulls}
        self._last = self._states()
        for number in range(pulls):
            for name, state in told.get(number, {}).items():
                put_stream(self._streams[name], state)
            try:
                item = self._pull(told.get(number, {}))
            except StopIteration:
                if number < keep:
                    raise InvalidInput(
                        f"the data ends after {number} batches, and {keep} of this epoch are done",
                        hint="resume with the data that the run began with",
                    ) from None
                break
            if number >= keep:
                self._waiting.append(item)

    def _states(self) -> dict[str, Any]:
        return {name: stream_state(stream) for name, stream in self._streams.items()}

    def _pull(self, told: dict[str, Any] | None = None) -> Any:
        before = self._states()
        if not self._last:
            self._last = dict(before)
        number = self.pulls
        self.pulls += 1
        try:
            return next(self._items)
        finally:
            jumped = {}
            for name, stream in self._streams.items():
                after = stream_state(stream)
                if not same_stream(after, before[name]):
                    if not same_stream(before[name], self._last[name]):
                        jumped[name] = before[name]
                    self._last[name] = after
            if told is not None:
                jumped = dict(told)
            if jumped:
                self.jumps.append({"at": number, "streams": jumped})
