"""A run over data, straight through or in two processes' worth of objects."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import ckstore
from ckstore.train.data import positions
from ckstore.train.rng import capture_rng, restore_rng
from tests.train.pipelines import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckstore.train.data import Position

Record = list[tuple[int, int, object, tuple[float, float, float]]]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    SHARED.seed(number)


def drawn() -> tuple[float, float, float]:
    """What a training step draws."""
    return random.random(), np.random.rand(), float(torch.rand(()))


def written(batch: object) -> object:
    """`batch` as a value that can be compared."""
    if isinstance(batch, torch.Tensor):
        return str(batch.dtype), tuple(batch.shape), batch.contiguous().numpy().tobytes()
    return [written(part) for part in batch] if isinstance(batch, (list, tuple)) else batch


def kept(path: Path, value: Any) -> Any:
    """`value` as it comes back from a repository."""
    repo = ckstore.open(path)
    return repo[repo.commit({"kept": value}).id].load()["kept"]


class Walk:
    """One process's part of a run: takes batches, draws as a step does, writes down both."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.data = make()
        self.position: Position = positions(self.data)
        self.record: Record = []

    def step(self, rest: Any) -> bool:
        """Take one batch; False at the epoch's end, which is written down too."""
        position = self.position
        try:
            batch = next(rest)
        except StopIteration:
            self.record.append((position.epoch, position.batches, "end", drawn()))
            return False
        self.record.append((position.epoch, position.batches, written(batch), drawn()))
        return True

    def epochs(self, until: int) -> None:
        """To the end of epoch `until` - 1."""
        while self.position.epoch < until:
            rest = self.position.rest()
            while self.step(rest):
                pass


def straight(make: Callable[[], object], epochs: int, noted: set[int]) -> tuple[Record, dict[int, Any]]:
    """The record of a whole run, and the place and generators after as many entries of it as `noted` names."""
    seed(1)
    walk, places = Walk(make), {}
    rest = walk.position.rest()
    while True:
        number = len(walk.record)
        if number in noted:
            places[number] = (walk.position.state(), capture_rng())
        if walk.position.epoch == epochs:
            break
        if not walk.step(rest):
            rest = walk.position.rest()
    walk.position.close()
    return walk.record, places


def resumed(make: Callable[[], object], state: dict[str, Any], rng: dict[str, Any]) -> Walk:
    """A new process's objects, put where `state` says, as a run does it."""
    seed(999)
    drawn()
    walk = Walk(make)
    walk.position.restore(state)
    restore_rng(rng)
    return walk
