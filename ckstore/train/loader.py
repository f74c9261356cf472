"""A DataLoader over data that is looked up by index: it goes on without loading the batches that are done.

It iterates a shallow copy of the loader, whose sampler is a tape and whose functions in workers are a `Carrier`.
Batch k is worker k mod W's, so the copy's iterator is made while the tape is closed, told whose turn it is, and only
then given indices. torch's names for that (`_worker_queue_idx_cycle`, `_try_put_index`) are as old as its 1.2.
"""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ckstore.errors import InvalidInput
from ckstore.train.held import Held
from ckstore.train.place import Place, Start
from ckstore.train.rng import capture_rng, restore_rng
from ckstore.train.streams import GLOBALS
from ckstore.train.tape import Tape
from ckstore.train.workers import Carried, Carrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.train.streams import Generator

_AT_ONCE = (SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
"""Samplers that draw all they draw at their first index."""


class MapLoader:
    """The batches of one loader, epoch after epoch."""

    own_place = False

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.held = Held(parts(loader), own=loader.num_workers == 0)
        self.start: Start | None = None
        self.origin: Start | None = None
        self._loader = loader
        self._lasting = bool(loader.num_workers and loader.persistent_workers)
        self._workers: dict[int, bytes] = {}
        self._iterator: Any = None
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._sampler = _TapedSampler(getattr(loader, name), self.held)
        self._carrier = Carrier(loader.worker_init_fn, loader.collate_fn)
        self._copy = self._copied(name)

    def _copied(self, name: str) -> DataLoader[Any]:
        made = copy.copy(self._loader)
        made.__dict__.update({name: self._sampler, "_iterator": None})
        if self._loader.num_workers:
            made.__dict__.update(worker_init_fn=self._carrier.begin, collate_fn=self._carrier.collate)
        return made

    def signature(self) -> dict[str, object]:
        return signature(self._loader)

    def begin(self) -> None:
        self.start = Start.of(self.held)
        if self._lasting and self.origin is not None and self._iterator is None:
            now = capture_rng()
            self._make(self.origin)
            restore_rng(now)
            self.held.put(self.start.held)
        elif self._lasting and self.origin is None:
            self.origin = self.start
        if not self._lasting:
            self._workers = {}
        self._iterator = iter(self._copy)

    def _make(self, start: Start) -> None:
        """Make the iterator and its workers as they were at `start`, with nothing to do yet."""
        start.put(self.held)
        self._carrier.states = dict(self._workers)
        self._sampler.closed = True
        try:
            self._iterator = iter(self._copy)
        finally:
            self._sampler.closed = False
            self._carrier.states = {}

    def resume(self, start: Start, place: Place, batches: int) -> None:
        now = capture_rng()
        self._workers = dict(place.workers)
        try:
            if self.origin is None or not self._lasting:
                self.origin = start if self._lasting else None
                self._make(start)
            else:
                self._make(self.origin)
                start.put(self.held)
                self._iterator._sampler_iter = iter(self._sampler)
            self._sampler.tape.wind(place.pulls, place.jumps, batches)
        finally:
            restore_rng(now)
        self.held.put(place.held)
        self.start = start
        self._sampler.tape.closed = False
        if self._loader.num_workers:
            for _ in range(batches % self._loader.num_workers):
                next(self._iterator._worker_queue_idx_cycle)
            for _ in range((self._loader.prefetch_factor or 2) * self._loader.num_workers):
                self._iterator._try_put_index()

    def between(self, origin: Start | None, workers: dict[int, bytes]) -> None:
        self.close()
        self.origin = origin if self._lasting else None
        self._workers = dict(workers) if self._lasting else {}

    def take(self) -> object:
        try:
            item = next(self._iterator)
        except StopIteration:
            self.start = None
            if not self._lasting:
                self._iterator = None
                self._workers = {}
            raise
        if not isinstance(item, Carried):
            return item
        if item.state is not None:
            self._workers[item.worker] = item.state
        return item.batch

    def place(self) -> Place:
        if self.start is None:
            return Place(self.held.state(orders=True), workers=dict(self._workers))
        return Place.on(self._sampler.tape, self.held, self._workers)

    def close(self) -> None:
        self.start = self._iterator = self._copy.__dict__["_iterator"] = None
        self.origin = None
        self._workers = {}


class _TapedSampler:
    """The loader's sampler or batch sampler; each epoch's indices come over a new tape."""

    def __init__(self, sampler: Any, held: Held) -> None:
        self._sampler = sampler
        self._held = held
        self._quiet = _draws_at_once(sampler)
        self.tape = Tape(iter(()), {})
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        streams: dict[str, Generator] = {}
        if not self._quiet:
            streams = {**GLOBALS, **self._held.generators("sampler", "batch_sampler", "generator")}
        self.tape = Tape(iter(self._sampler), streams)
        self.tape.closed = self.closed
        return self.tape

    def __len__(self) -> int:
        return len(self._sampler)


def _draws_at_once(sampler: Any) -> bool:
    """Its indices do not depend on what others draw from the same generators meanwhile."""
    if isinstance(sampler, BatchSampler) and type(sampler).__iter__ in _iterations("BatchSampler", BatchSampler):
        return _draws_at_once(sampler.sampler)
    if type(sampler) in _AT_ONCE:
        return True
    return type(sampler) is RandomSampler and sampler.generator is None


def is_plain(loader: DataLoader[Any]) -> bool:
    """It iterates as torch's or torchdata's own loaders do, over data that is looked up by index."""
    known = type(loader).__iter__ in _iterations("StatefulDataLoader", DataLoader)
    return known and not isinstance(loader.dataset, IterableDataset)


def _iterations(name: str, cls: type) -> list[object]:
    """`__iter__` of torch's class, and of torchdata's of that name where torchdata is in use."""
    known = [cls.__iter__]  # type: ignore[attr-defined]
    for module in ("torchdata.stateful_dataloader.stateful_dataloader", "torchdata.stateful_dataloader.sampler"):
        other = getattr(sys.modules.get(module), name, None)
        if other is not None:
            known.append(other.__iter__)
    return known


def parts(loader: DataLoader[Any]) -> dict[str, object]:
    """What of a loader may hold something that moves."""
    names = ("dataset", "collate_fn", "generator", "sampler", "batch_sampler")
    return {name: getattr(loader, name) for name in names}


def signature(loader: DataLoader[Any]) -> dict[str, object]:
    """What must not change for a place in `loader` to mean the same batches."""
    dataset = loader.dataset
    by_index = not isinstance(dataset, IterableDataset)
    return {
        "kind of loader": type(loader).__qualname__,
        "kind of sampler": type(loader.sampler).__qualname__,
        "batch size": loader.batch_size,
        "drop_last": loader.drop_last,
        "length of the dataset": len(dataset) if by_index and hasattr(dataset, "__len__") else None,
        "number of workers": loader.num_workers,
        "persistent_workers": bool(loader.num_workers and loader.persistent_workers),
    }


def check(loader: DataLoader[Any]) -> None:
    """Raises `InvalidInput` for a loader whose place cannot be kept."""
    if loader.num_workers and not getattr(loader, "in_order", True):
        raise InvalidInput(
            "the place in a DataLoader with in_order=False cannot be kept: its order depends on the workers' speed",
            hint="make the DataLoader with in_order=True",
        )
    if loader.num_workers and loader.persistent_workers and not is_plain(loader):
        raise InvalidInput(
            "the place of workers that stream data and go on from epoch to epoch cannot be kept",
            hint="make the DataLoader with persistent_workers=False, or of data that is looked up by index",
        )
    if getattr(loader, "next_iter_state", None) is not None:
        raise InvalidInput(
            "the StatefulDataLoader has been given a state already",
            hint="leave out load_state_dict: the run puts the loader in its place",
        )
