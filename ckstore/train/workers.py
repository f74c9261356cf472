"""The workers of a DataLoader: where each one's random generators stand comes along with every batch."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import get_worker_info

from ckstore.train.held import Held
from ckstore.train.streams import GLOBALS, put_stream, stream_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.train.held import State


class Carried(NamedTuple):
    """A batch and its worker's state after it; None: as after the batch before. A named tuple can be pinned."""

    batch: Any
    worker: int
    state: bytes | None


class Carrier:
    """Stands in for a loader's `worker_init_fn` (`begin`) and `collate_fn` (`collate`) within the workers.

    `states` is what a worker begins with instead of its seed: by worker, what a batch carried. Can be pickled where
    the user's functions can. The bytes go from a worker to the process that started it and back, never to disk.
    """

    def __init__(self, worker_init_fn: Callable[[int], object] | None, collate_fn: Callable[[Any], Any]) -> None:
        self._worker_init_fn = worker_init_fn
        self._collate_fn = collate_fn
        self.states: dict[int, bytes] = {}
        self._held: Held | None = None
        self._sent = b""
        self._worker = -1

    def begin(self, worker: int) -> None:
        """Called once in each worker, which torch has seeded."""
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker)
        info = get_worker_info()
        assert info is not None
        self._worker = worker
        self._held = Held({"dataset": info.dataset, "collate_fn": self._collate_fn})
        seeded = self._state()
        if worker in self.states:
            state = unpacked(self.states[worker])
            for name, stream in state["streams"].items():
                put_stream(GLOBALS[name], stream)
            self._held.put(state["held"])
        self.states = {}
        self._sent = seeded

    def collate(self, data: Any) -> Carried:
        batch = self._collate_fn(data)
        state = self._state()
        if state == self._sent:
            return Carried(batch, self._worker, None)
        self._sent = state
        return Carried(batch, self._worker, state)

    def _state(self) -> bytes:
        assert self._held is not None
        streams = {name: stream_state(stream) for name, stream in GLOBALS.items()}
        return packed({"streams": streams, "held": self._held.state()})


def packed(state: State) -> bytes:
    return pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(state: bytes) -> State:
    """The state that this process's own worker sent."""
    value: State = pickle.loads(state)
    return value
