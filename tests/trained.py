"""Checkpoints of a small real training, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path


class Training:
    """A few layers under AdamW; `step` trains, `state` is what people save."""

    def __init__(self, seed: int = 0, width: int = 256) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Embedding(500, width), torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 64)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.data = torch.Generator().manual_seed(seed)
        self.done = 0
        self.loss = 0.0

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            words = torch.randint(0, 500, (64,), generator=self.data)
            loss = torch.nn.functional.cross_entropy(self.model(words), words % 64)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.done += 1
            self.loss = loss.item()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.done,
            "loss": self.loss,
        }


def checkpoints(folder: Path, count: int, *, every: int = 3, seed: int = 0, name: str = "step_{}.pt") -> list[Path]:
    """`count` checkpoints of one training, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    training = Training(seed)
    paths = []
    for _ in range(count):
        training.step(every)
        paths.append(folder / name.format(training.done))
        torch.save(training.state(), paths[-1])
    return paths
