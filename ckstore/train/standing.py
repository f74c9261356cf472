"""Where between two steps a training stands, as far as its calls and its optimizers' hooks tell."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Standing:
    """Updated by the run's calls. `between`: a step is done, and the next batch has not been asked for.

    `handed_out`: a batch is being worked on. `stepping`: an optimizer is in the middle of its step; `stepped`: one has
    taken it, and the run has not counted the step yet. `quiet` holds generators and flags of before an evaluation.
    """

    def __init__(self) -> None:
        self.between = self.handed_out = self.stepping = self.stepped = False
        self.quiet: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._inside = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In the body nothing may be saved because of a signal."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def asked_for_batch(self) -> None:
        self.between = self.handed_out = False

    def got_batch(self) -> None:
        self.handed_out = True

    def optimizer_begins(self) -> None:
        self.stepping = True
        self.between = False

    def optimizer_ended(self) -> None:
        self.stepping = False
        self.stepped = True

    def step_done(self) -> None:
        self.handed_out = self.stepped = False
        self.between = True

    def may_save(self, *, fed: bool, late: bool) -> bool:
        """Whether the state can be saved right now, in the middle of whatever code is running.

        `fed`: batches come from the run, so that it knows when a step begins. `late`: it cannot wait any longer.
        """
        if self._inside or self.stepping:
            return False
        return (self.between and fed) or (self.quiet is not None and not self.stepped) or late
