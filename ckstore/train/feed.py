"""The data of a run by name, and the run's places in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckstore.errors import InvalidInput
from ckstore.train.data import positions

if TYPE_CHECKING:
    from ckstore.train.data import Position


class Feed:
    """Places in data. `data` is one loader, or a dictionary of several. Raises `InvalidInput` as `positions` does."""

    def __init__(self, data: object) -> None:
        self.positions: dict[str, Position] = {}
        self._data: dict[str, object] = {}
        self._stored: dict[str, Any] = {}
        self._under_way: str | None = None
        named = data if isinstance(data, dict) else {} if data is None else {"data": data}
        for name, one in named.items():
            self._add(str(name), one)

    def __bool__(self) -> bool:
        return bool(self._data)

    def of(self, data: object) -> Position:
        """The place in data that is now under way: what the run began with, or meets here for the first time."""
        name = next((name for name, known in self._data.items() if known is data), None)
        if name is None:
            name = "data" if not self._data else f"data{len(self._data) + 1}"
            self._add(name, data)
            if name in self._stored:
                self.positions[name].restore(self._stored.pop(name))
        self._under_way = name
        return self.positions[name]

    def state(self, *, unfinished: bool) -> dict[str, Any]:
        """Where the run stands in all of its data. `unfinished`: the batch handed out last is to come again."""
        return {
            name: position.state(unfinished=unfinished and name == self._under_way)
            for name, position in self.positions.items()
        }

    def restore(self, stored: dict[str, Any], *, strict: bool) -> None:
        """Take those places; of data that the run has not met yet, once it does."""
        self._stored = dict(stored)
        for name, position in self.positions.items():
            if name in self._stored:
                position.restore(self._stored.pop(name), strict=strict)

    def rng_before(self) -> dict[str, Any] | None:
        """The random generators when the batch handed out last was asked for."""
        return None if self._under_way is None else self.positions[self._under_way].rng_before

    @property
    def taking(self) -> bool:
        """Whether some of the data is at work on a batch."""
        return any(one.taking for one in self.positions.values())

    def _add(self, name: str, data: object) -> Position:
        try:
            position = positions(data)
        except InvalidInput as error:
            raise InvalidInput(f"data {name!r}: {error.what}", why=error.why, hint=error.hint) from error
        self._data[name] = data
        self.positions[name] = position
        return position
