"""A training that is killed at random instants until it has had enough of it, and then let go to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ckstore
from ckstore.testing.facts import facts
from tests.train.processes import loaded
from tests.train.subjects import loader, loss_of, seeded, through

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

_NOT_COMPARED = ("environment", "config")


@dataclass(frozen=True)
class Killed:
    """Where processes went on, how many were killed, how long the last took; what the last commit holds, by path."""

    resumed_at: list[int]
    kills: int
    took_s: float
    end: Mapping[str, str]


def train(folder: str, steps: int, told: Connection) -> None:
    """A real run: workers, shuffled, dropout, an average of weights, commits and gc in the background all the time."""
    os.setsid()
    seeded()
    model = nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 256), nn.Linear(256, 1))
    data, ema = loader(num_workers=2, multiprocessing_context="fork"), AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}
    with (
        ckstore.open(folder) as repo,
        repo.track("killed", **parts, data=data, every=ckstore.steps(1), keep=ckstore.keep(last=3)) as run,
    ):
        told.send(run.resume())
        for step, batch in through(run, data, steps):
            (loss_of(model, batch) / 2).backward()
            if step % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                ema.update_parameters(model)
            run.step()


def trained(folder: Path, steps: int, delays_s: list[float]) -> Killed:
    """Train, in processes that are killed so long after they went on, and one that is not; of each fifth at once."""
    resumed_at: list[int] = []
    kills = 0
    took_s = 0.0
    context = loaded()
    for number, delay_s in enumerate([*delays_s, None]):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(str(folder), steps, there))  # type: ignore[attr-defined]
        process.start()
        there.close()
        if number % 5 != 4 and here.poll(60):
            resumed_at.append(here.recv())
        began_s = time.monotonic()
        process.join(delay_s)
        took_s = time.monotonic() - began_s
        if process.exitcode is None:
            kills += 1
            _kill(process.pid)
        process.join()
        here.close()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            break
    with ckstore.open(folder) as repo:
        commit = repo["killed"]
        assert commit.info.step == steps
        assert repo.verify(read_data=True).ok
        names = [name for name in commit.info.components if name not in _NOT_COMPARED]
        state = commit.load(names)
    end = {path: fact for name in names for path, fact in facts(name, state[name]).items()}
    return Killed(resumed_at, kills, took_s, end)


def _kill(pid: int) -> None:
    """Kill a process with its workers; one that has only just begun has none."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def killed_and_straight(folder: Path, seed: int, kills: int) -> tuple[Killed, Killed]:
    """A training that is killed so often while it comes to its end, and one that never is."""
    steps = 20 * kills
    straight = trained(folder / "straight", steps, [])
    delays = random.Random(seed)
    often = [delays.random() * straight.took_s * 1.5 / kills for _ in range(kills)]
    return straight, trained(folder / f"killed-{seed}", steps, often)
