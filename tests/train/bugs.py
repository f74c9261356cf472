"""Bugs that a resume could have: each is put into this process for good, so call it in one of its own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckstore.train import capture, flags
from ckstore.train.feed import Feed
from ckstore.train.parts import Parts
from ckstore.train.place import Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def generators() -> None:
    vars(capture)["restore_rng"] = _nothing


def numpys_generator() -> None:
    vars(np.random)["set_state"] = _nothing


def pythons_generator() -> None:
    vars(random)["setstate"] = _nothing


def loader_off_by_one() -> None:
    _after(Feed, "restore", lambda feed, *_: [next(place.rest()) for place in feed.positions.values()])


def loader_reshuffled() -> None:
    _instead(Start, "put", lambda start, held: held.put(start.held))


def moments_cast() -> None:
    _after(Parts, "put", lambda parts, *_: _cast(parts.optimizers.values()))


def _cast(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            state["exp_avg"] = state["exp_avg"].bfloat16()


def scheduler_not_loaded() -> None:
    _not_loaded("scheduler")


def average_not_loaded() -> None:
    _not_loaded("ema")


def scaler_not_loaded() -> None:
    _not_loaded("scaler")


def gradients_not_restored() -> None:
    vars(capture)["restore_gradients"] = _nothing


def gradients_not_captured() -> None:
    vars(capture)["capture_gradients"] = lambda parts: ({}, {})


def flags_not_restored() -> None:
    vars(flags)["restore_training"] = _nothing


def step_off_by_one() -> None:
    real = capture.Capture.restore

    def restore(self: Any, found: Any, **options: Any) -> Any:
        counters, told = real(self, found, **options)
        counters.step += 1
        return counters, told

    _instead(capture.Capture, "restore", restore)


def buffers_not_restored() -> None:
    vars(flags)["_put_buffer"] = _nothing


def buffers_not_captured() -> None:
    vars(flags)["_passing_buffers"] = lambda module: []


def frozen_not_restored() -> None:
    _instead(torch.nn.Parameter, "requires_grad_", _nothing)


def _not_loaded(name: str) -> None:
    real = Parts.put

    def put(self: Parts, states: Any, *, strict: bool) -> None:
        leaves, self.leaves = (
            self.leaves,
            {path: one for path, one in self.leaves.items() if path.split(".")[0] != name},
        )
        real(self, states, strict=strict)
        self.leaves = leaves

    _instead(Parts, "put", put)


def _after(owner: Any, name: str, more: Callable[..., object]) -> None:
    real = getattr(owner, name)

    def both(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        more(self, *args)

    _instead(owner, name, both)


def _instead(owner: type, name: str, method: Callable[..., object]) -> None:
    setattr(owner, name, method)


BUGS: dict[str, Callable[[], None]] = {
    name: one
    for name, one in list(globals().items())
    if not name.startswith("_") and callable(one) and one.__module__ == __name__
}
