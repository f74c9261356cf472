"""Data that is iterated from the front: it goes on by iterating again and dropping, or by its own `state_dict`."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from ckstore.train.held import Held, stateful
from ckstore.train.loader import parts, signature
from ckstore.train.place import Place, Start
from ckstore.train.rng import capture_rng, restore_rng
from ckstore.train.streams import GLOBALS
from ckstore.train.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckstore.train.streams import Generator


class Replayed:
    """A DataLoader over an IterableDataset or with an `__iter__` of its own, or any object that can be iterated again.

    Exact where the data, given the same random generators, gives the same items. In workers they are: a worker's
    generators are its own. Data with `state_dict` and `load_state_dict` is asked for its place, except in workers.
    """

    def __init__(self, data: Iterable[object]) -> None:
        loader = data if isinstance(data, DataLoader) else None
        here = loader is None or loader.num_workers == 0
        roots = parts(loader) if loader is not None else {"dataset": data}
        streamed = loader is None or isinstance(loader.dataset, IterableDataset)
        self.own_place = here and streamed and stateful(roots["dataset"])
        self.held = Held(roots, own=here)
        self.start: Start | None = None
        self.origin: Start | None = None
        self._data = data
        self._here = here
        self._streamed = streamed
        self._fetcher: Any = None
        self._ended = False
        self._tape = Tape(iter(()), {})

    def signature(self) -> dict[str, object]:
        if isinstance(self._data, DataLoader):
            return signature(self._data)
        length = len(self._data) if isinstance(self._data, Sized) and not self.own_place else None
        return {"kind of data": type(self._data).__qualname__, "length of the data": length}

    def begin(self) -> None:
        self.start = Start.of(self.held)
        self._tape = self._made()

    def _made(self) -> Tape:
        streams: dict[str, Generator] = {}
        iterator = iter(self._data)
        if (self._here or not self._streamed) and not self.own_place:
            streams = {**GLOBALS, **self.held.generators()}
        self._fetcher = getattr(iterator, "_dataset_fetcher", None)
        return Tape(iterator, streams)

    def resume(self, start: Start, place: Place, batches: int) -> None:
        now = capture_rng()
        try:
            start.put(self.held)
            if self.own_place:
                self.held.put(place.held)
                self._tape = Tape(iter(()), {}) if place.ended else self._made()
                self._tape.pulls = batches
                self._ended = place.ended
            else:
                self._tape = self._made()
                self._tape.wind(place.pulls, place.jumps, batches)
                self.held.put(place.held)
        finally:
            restore_rng(now)
        self.start = start

    def between(self, origin: Start | None, workers: dict[int, bytes]) -> None:
        self.close()

    def take(self) -> object:
        try:
            return next(self._tape)
        except StopIteration:
            self.close()
            raise

    def place(self) -> Place:
        if self.start is None:
            return Place(self.held.state(orders=True))
        ended = self._ended or bool(getattr(self._fetcher, "ended", False))
        return Place.on(self._tape, self.held, ended=ended)

    def close(self) -> None:
        self.start = self._fetcher = None
        self._ended = False
        self._tape = Tape(iter(()), {})
