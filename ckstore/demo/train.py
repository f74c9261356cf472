"""The demo's training script: `python -m ckstore.demo.train REPO --branch B --steps N`.

It goes on from the branch's newest commit if there is one, and prints a line of JSON for every commit that is durable.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import ckstore
from ckstore.demo.model import Transformer, Windows

if TYPE_CHECKING:
    from ckstore import Save

_BATCH = 8


def main() -> None:
    """Train from the branch's last commit, or from `--start`, or from nothing, up to `--steps`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--start", help="revision a new branch starts from")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    asked = parser.parse_args()

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.lr)
    loader = DataLoader(Windows(), batch_size=_BATCH, shuffle=True)
    repo = ckstore.open(asked.repo)
    with repo.track(
        asked.branch,
        model=model,
        optimizer=optimizer,
        data=loader,
        config={"lr": asked.lr, "batch": _BATCH},
        every=ckstore.steps(asked.every),
        start=asked.start,
        busy="wait",
    ) as run:
        told = _Told()
        run.resume()
        for group in optimizer.param_groups:
            group["lr"] = asked.lr
        while run.steps < asked.steps:
            for step, batch in run.resume(loader):
                loss = train_step(model, optimizer, batch)
                run.log({"loss": loss})
                began = time.perf_counter()
                save = run.step()
                told.tell()
                if save is not None:
                    told.begun(step, loss, time.perf_counter() - began, save)
                if step == asked.steps:
                    break
        run.wait()
        told.tell()
    print(json.dumps({"exact": same_bits(repo[asked.branch].load(), model, optimizer)}), flush=True)


class _Told:
    """Tells of commits once they are durable."""

    def __init__(self) -> None:
        self._begun: list[tuple[dict[str, Any], Save]] = []

    def begun(self, step: int, loss: float, held_s: float, save: Save) -> None:
        """Note a commit that is under way."""
        self._begun.append(({"step": step, "loss": loss, "seconds": held_s}, save))

    def tell(self) -> None:
        """Print what has become durable."""
        while self._begun and self._begun[0][1].done():
            told, save = self._begun.pop(0)
            made = save.result()
            print(json.dumps(told | {"id": made.id, "raw": made.raw_bytes, "stored": made.pack_bytes}), flush=True)


def train_step(model: Transformer, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor]) -> float:
    """One step on a batch of inputs and targets; the loss before it."""
    inputs, targets = batch
    loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def same_bits(state: dict[str, Any], model: Transformer, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a loaded state has exactly the bits of the live model and optimizer."""
    live = {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}
    stored = {"model": state["model"], "optimizer": state["optimizer"]["state"]}
    return bool(_tensors(live) == _tensors(stored))


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return value


if __name__ == "__main__":
    main()
