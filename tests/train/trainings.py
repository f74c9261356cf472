"""A small training with all that makes a resume hard: shuffled data, dropout, BatchNorm, AdamW, a scheduler."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import ckstore

if TYPE_CHECKING:
    from pathlib import Path


class Small:
    """`step` trains on a batch. `width` makes it larger: 4 * width ** 2 bytes a matrix, three of those each."""

    def __init__(self, seed: int = 0, width: int = 16, *, fused: bool = False) -> None:
        for one in (random.seed, np.random.seed, torch.manual_seed):
            one(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, width),
            torch.nn.BatchNorm1d(width),
            torch.nn.Linear(width, width),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(width, 1),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        generator = torch.Generator().manual_seed(3)
        data = TensorDataset(torch.randn(24, 8, generator=generator), torch.randn(24, 1, generator=generator))
        self.loader = DataLoader(data, batch_size=4, shuffle=True)
        self.loss = 0.0

    @property
    def large(self) -> torch.nn.Parameter:
        """The weight of `width ** 2` numbers."""
        return self.model[2].get_parameter("weight")

    def step(self, batch: Any) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.scheduler.step()
        self.loss = loss.item()
        return self.loss

    @property
    def parts(self) -> dict[str, Any]:
        """What `track` is given."""
        return {
            "model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "data": self.loader,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def train(run: Any, small: Small, until: int) -> None:
    """Train to `until` steps done."""
    while run.steps < until:
        for _, batch in run.resume(small.loader):
            run.log({"train/loss": small.step(batch)})
            run.step()
            if run.steps == until:
                break


def straight(folder: Path, until: int, width: int = 16) -> dict[str, Any]:
    """The state after a training that nothing interrupted."""
    small = Small(width=width)
    with ckstore.open(folder) as repo, repo.track("straight", **small.parts, at_end=False) as run:
        train(run, small, until)
    return small.state()


def steps_of(repo: ckstore.Repo, branch: str) -> list[int | None]:
    """The steps of a branch's commits, oldest first."""
    return [info.step for info in reversed(repo.log(branch))]
