"""Where between two steps a training stands, as far as its calls and its optimizers' hooks tell."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class Standing:
    """Updated by the run's calls. `between`: a step is done, and the next batch has not been asked for.

    `after_epoch`: the loop may be at work between two epochs: the next has not been asked for. `waiting`: the next
    batch has. `handed_out`: a batch is being worked on. `stepping`: an optimizer is in the middle of its step;
    `stepped`: one has taken it, and the run has not counted the step yet. `quiet` holds generators and flags of before
    an evaluation, `training` which modules were training when the last batch was handed out.
    """

    def __init__(self) -> None:
        self.between = self.waiting = self.handed_out = self.stepping = self.stepped = self.after_epoch = False
        self.quiet: tuple[dict[str, Any], dict[str, Any]] | None = None
        self.training: dict[torch.nn.Module, bool] = {}
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
        self.waiting = True

    def got_batch(self, training: dict[torch.nn.Module, bool]) -> None:
        self.training = training
        self.waiting = False
        self.handed_out = True

    def epoch_ended(self) -> None:
        self.waiting = False
        self.between = self.after_epoch = True

    def optimizer_begins(self) -> None:
        self.stepping = True
        self.between = False

    def optimizer_ended(self) -> None:
        self.stepping = False
        self.stepped = True

    def step_done(self) -> None:
        self.waiting = self.handed_out = self.stepped = self.stepping = False
        self.between = True

    @property
    def unfinished(self) -> bool:
        """Whether the batch asked for last is to come again."""
        return self.waiting or (self.handed_out and not self.stepped)

    def may_save(self, *, fed: bool, taking: bool, late: bool) -> bool:
        """Whether the state can be saved right now, in the middle of whatever code is running.

        `fed`: batches come from the run, so that it knows when a step begins. `taking`: data is at work on a batch.
        `late`: it cannot wait any longer.
        """
        if self._inside or self.stepping or (self.waiting and not taking):
            return False
        if self.after_epoch and not late:
            return False
        return (self.between and fed) or (self.quiet is not None and not self.stepped) or late
