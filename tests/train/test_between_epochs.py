"""Signals that come between two epochs: what the loop does there is neither lost nor done twice."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from tests.train.subjects import loader, loss_of, net, seeded

if TYPE_CHECKING:
    from pathlib import Path

EPOCHS = 4


def trained(path: Path, place: str = "", epoch: int = 2) -> dict[str, Any]:
    """Train with a scheduler that steps after each epoch, and get SIGTERM at one place of it, after that epoch."""
    seeded()
    model, data = net(), loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def comes(here: str) -> None:
        if here == place and run.epoch == epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    with ckstore.open(path) as repo, repo.track("run", **parts, data=data, every=ckstore.steps(3), busy="wait") as run:
        run.resume()
        while run.epoch < EPOCHS:
            for _, batch in run.resume(data):
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
                run.step()
            comes("before")
            with run.evaluating(), torch.no_grad():
                comes("within")
                value = loss_of(model.eval(), next(iter(loader())))
            run.log({"val": value})
            scheduler.step()
            comes("after")
    return {**{name: value.tolist() for name, value in model.state_dict().items()}, **scheduler.state_dict()}


@pytest.mark.parametrize("place", ["before", "within", "after"])
def test_signals_between_epochs(place: str, tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight")
    with pytest.raises(ckstore.Preempted):
        trained(tmp_path / "ended", place)
    with ckstore.open(tmp_path / "ended") as repo:
        info = repo["run"].info
        assert (info.step, info.epoch, info.message) == (10, 2, "saved on a signal")
    assert trained(tmp_path / "ended") == straight


def test_signals_after_the_last_epoch(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight")
    with pytest.raises(ckstore.Preempted):
        trained(tmp_path / "ended", "within", EPOCHS)
    assert trained(tmp_path / "ended") == straight
