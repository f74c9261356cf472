"""What a source of batches is asked: to begin an epoch, to go on where another stood, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ckstore.train.rng import capture_rng, restore_rng
from ckstore.train.workers import packed, unpacked

if TYPE_CHECKING:
    from ckstore.train.held import Held, State
    from ckstore.train.tape import Tape


@dataclass(frozen=True)
class Start:
    """The global generators and what the data held when an iterator was made."""

    rng: dict[str, Any]
    held: State

    @classmethod
    def of(cls, held: Held) -> Start:
        return cls(capture_rng(), held.state(orders=True))

    def put(self, held: Held) -> None:
        restore_rng(self.rng)
        held.put(self.held)


@dataclass(frozen=True)
class Place:
    """Where a source stands within an epoch; `workers` holds what each worker sent last.

    `jumps` may grow by those of later pulls.
    """

    held: State
    pulls: int = 0
    jumps: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[int, bytes] = field(default_factory=dict)
    ended: bool = False
    """The data has told its end with the batch handed out last."""

    @classmethod
    def on(cls, tape: Tape, held: Held, workers: dict[int, bytes] | None = None, *, ended: bool = False) -> Place:
        return cls(held.state(), tape.pulls, tape.jumps, dict(workers or {}), ended)

    def plain(self) -> dict[str, object]:
        workers = {worker: unpacked(state) for worker, state in self.workers.items()}
        jumps = [jump for jump in self.jumps if jump["at"] < self.pulls]
        return {"held": self.held, "pulls": self.pulls, "jumps": jumps, "workers": workers, "ended": self.ended}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Place:
        workers = {worker: packed(state) for worker, state in plain["workers"].items()}
        return cls(plain["held"], plain["pulls"], plain["jumps"], workers, plain["ended"])


class Source(Protocol):
    """Where batches come from. At most one epoch is under way."""

    held: Held
    start: Start | None
    """Of the epoch under way; None between two."""
    origin: Start | None
    """Of the workers that go on from epoch to epoch; None where there are none."""
    own_place: bool
    """The data keeps its place itself, and says so in its `state_dict`."""

    def signature(self) -> dict[str, object]:
        """What must not change for the place to mean the same batches."""

    def begin(self) -> None:
        """Begin an epoch. Draws from the global generators what a loop over the data draws."""

    def resume(self, start: Start, place: Place, batches: int) -> None:
        """Go on in the epoch begun at `start`, after `batches` batches. Leaves the global generators as they were."""

    def between(self, origin: Start | None, workers: dict[int, bytes]) -> None:
        """Stand between two epochs, where workers that go on had come so far."""

    def take(self) -> object:
        """The next batch. Raises `StopIteration` at the end of the epoch, which is over then."""

    def place(self) -> Place:
        """Where it stands: within an epoch or between two."""

    def close(self) -> None:
        """Drop the epoch under way and its workers."""
