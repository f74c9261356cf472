"""Where a run stands in its data, kept and restored exactly."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import DataLoader

from ckstore.errors import CkstoreWarning, InvalidInput
from ckstore.train.held import stateful
from ckstore.train.loader import MapLoader, check, is_plain
from ckstore.train.place import Place, Start
from ckstore.train.replayed import Replayed
from ckstore.train.rng import capture_rng, restore_rng

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from ckstore.train.place import Source


class Position(Protocol):
    """A place in the data of a run."""

    epoch: int
    """Number, from 0, of the epoch under way or about to begin."""
    batches: int
    """Batches handed out in it."""

    def rest(self) -> Iterator[object]:
        """What is left of the epoch under way.

        When it is exhausted, `epoch` is one more and `batches` 0, and the next call gives the next epoch. A loop that
        was left by `break` goes on with the next call: an epoch ends only where the data ends.
        """

    def state(self, *, unfinished: bool = False) -> dict[str, object]:
        """Plain values, arrays and tensors: where it stands after the batch handed out last.

        With `unfinished` that batch is not done and comes again; it comes again equal where the global generators
        are then restored to `rng_before`.
        """

    @property
    def rng_before(self) -> dict[str, Any] | None:
        """The global generators when the batch handed out last was asked for; None if none was since `restore`."""

    @property
    def taking(self) -> bool:
        """A batch is being taken, or could not be: `state` and `rng_before` are those of before it."""

    def restore(self, state: dict[str, object], *, strict: bool = True) -> None:
        """Take that place; the next `rest` goes on there, and leaves the global generators as it finds them.

        Raises `InvalidInput` where the data is not what it was. With `strict` False that epoch begins anew then, with
        a `CkstoreWarning`.
        """

    def close(self) -> None:
        """End the loader's workers; the place is lost."""


def positions(data: object) -> Position:
    """A place at the beginning of `data`: a DataLoader, or anything that can be iterated again.

    Raises `InvalidInput` for data whose place cannot be kept.
    """
    if isinstance(data, DataLoader):
        check(data)
        return _Epochs(MapLoader(data) if is_plain(data) else Replayed(data))
    if isinstance(data, type) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise InvalidInput(f"a {type(data).__name__} is no data: it cannot be iterated", hint="pass the DataLoader")
    if hasattr(data, "__next__") and not stateful(data):
        raise InvalidInput(
            f"the place in a {type(data).__name__} cannot be kept: it can be iterated only once",
            hint="pass the DataLoader (or list) itself, or data with state_dict and load_state_dict",
        )
    return _Epochs(Replayed(data))  # type: ignore[arg-type]  # it has __iter__ or __getitem__


class _Epochs:
    """A `Position` over any source."""

    def __init__(self, source: Source) -> None:
        self.epoch = 0
        self.batches = 0
        self._source = source
        self._saved: dict[str, Any] | None = None
        """What was restored and has not been gone on from."""
        self._before: tuple[dict[str, Any], Place] | None = None
        self._taking: tuple[dict[str, Any], Place] | None = None
        """The generators and the place before the batch that is being taken, or could not be."""
        self._opened: dict[str, Any] = {}
        self._stale = False

    def rest(self) -> Iterator[object]:
        return _Rest(self)

    @property
    def rng_before(self) -> dict[str, Any] | None:
        before = self._taking or self._before
        return None if before is None else before[0]

    @property
    def taking(self) -> bool:
        return self._taking is not None

    def next(self) -> object:
        """The next batch of the epoch under way. Raises `StopIteration` at its end, once."""
        stale = self._open()
        place = self._source.place()
        self._taking = before = capture_rng(), place
        try:
            batch = self._take_again() if stale else self._source.take()
        except StopIteration:
            self.epoch, self.batches, self._before, self._taking = self.epoch + 1, 0, None, None
            raise
        self._before, self._taking = before, None
        self.batches += 1
        return batch

    def _open(self) -> bool:
        """Have an epoch under way. True where the data may have to tell the end of the one before once more."""
        saved, self._saved = self._saved, None
        if self._source.start is not None:
            return False
        if saved is not None and self._source.own_place:
            self._stale = saved["start"] is None or saved["place"]["ended"]
        if saved is None or saved["start"] is None:
            self._opened = capture_rng()
            self._source.begin()
            stale, self._stale = self._stale, False
            return stale
        try:
            self._source.resume(Start(**saved["start"]), Place.of(saved["place"]), self.batches)
        except BaseException:
            self._saved = saved
            raise
        return False

    def _take_again(self) -> object:
        """The first batch after an epoch; data that tells its end once more after `load_state_dict` is asked again."""
        try:
            return self._source.take()
        except StopIteration:
            restore_rng(self._opened)
            self._source.begin()
            return self._source.take()

    def state(self, *, unfinished: bool = False) -> dict[str, object]:
        if self._saved is not None:
            return copy.deepcopy(self._saved)
        source, place, batches = self._source, None, self.batches
        if self._taking is not None:
            place = self._taking[1]
        elif unfinished and self._before is not None:
            place, batches = self._before[1], batches - 1
        start, origin = source.start, source.origin
        return {
            "signature": source.signature(),
            "epoch": self.epoch,
            "batches": batches,
            "start": None if start is None else {"rng": start.rng, "held": start.held},
            "origin": None if origin is None or origin is start else {"rng": origin.rng, "held": origin.held},
            "place": (place or source.place()).plain(),
        }

    def restore(self, state: dict[str, Any], *, strict: bool = True) -> None:
        try:
            changed = _changed(state, self._source.signature())
            if changed:
                raise InvalidInput(
                    f"the data is not what it was: {'; '.join(changed)}",
                    hint="resume with the data that the run began with, or begin the epoch anew (strict=False)",
                )
            self._source.between(
                Start(**state["origin"]) if state["origin"] else None, Place.of(state["place"]).workers
            )
            held = self._source.held
            if state["start"] is None:
                held.put(state["place"]["held"])
            else:
                held.check(state["start"]["held"])
        except (InvalidInput, KeyError, TypeError, AttributeError) as error:
            wrong = error if isinstance(error, InvalidInput) else InvalidInput(f"this is no place in data: {error!r}")
            if strict:
                raise wrong from error
            self._anew(state, wrong.what)
            return
        self.epoch, self.batches = state["epoch"], state["batches"]
        self._before = self._taking = None
        self._saved = copy.deepcopy(state)

    def _anew(self, state: dict[str, Any], why: str) -> None:
        epoch = state.get("epoch", 0)
        warnings.warn(f"{why}; epoch {epoch} begins anew", CkstoreWarning, stacklevel=3)
        self._source.close()
        attributes = (state.get("start") or state.get("place", {})).get("held", {}).get("attributes", {})
        self._source.held.put({"generators": {}, "attributes": attributes})
        self.epoch, self.batches, self._saved = epoch, 0, None
        self._before = self._taking = None

    def close(self) -> None:
        self._source.close()


class _Rest:
    """One call's share of an epoch; stays exhausted."""

    def __init__(self, epochs: _Epochs) -> None:
        self._epochs = epochs
        self._epoch = epochs.epoch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> object:
        if self._epochs.epoch != self._epoch:
            raise StopIteration
        return self._epochs.next()


def _changed(state: dict[str, Any], now: dict[str, object]) -> list[str]:
    """What is not as it was, in words. The number of workers matters only where the batches depend on it."""
    was = state["signature"]
    free = set()
    if was.get("length of the dataset") is not None and was.get("number of workers") and now.get("number of workers"):
        free = set() if state["place"]["workers"] else {"number of workers", "persistent_workers"}
    names = [name for name in {**was, **now} if name not in free]
    return [f"{name} was {was.get(name)} and is {now.get(name)}" for name in names if was.get(name) != now.get(name)]
