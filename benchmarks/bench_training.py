"""What saving costs a training: `python benchmarks/bench_training.py [--json FILE] [--rounds N]`.

A model with AdamW, 1.26 GB of state, trains on the CPU on all its threads. In each round every way to save has its
turn: a save, then steps until it is durable and beyond; and as many steps without any. For each way:

- held: how long the loop stood still for the save (the call, and what the optimizer's step waited), beside one warm
  copy of the state's memory in the same round;
- overhead: how much longer the steps took in all, the call included, than as many steps without a save;
- durable: from the call until the save survives power loss.

Memory is warmed as in bench_store.py. The first save of each way is reported apart: its memory is new.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

import ckstore

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

WIDTH, LAYERS, BATCH = 2048, 25, 128
STEPS = 10
"""Steps that a save is watched for."""


class Training:
    """The model, and how long its steps take."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.step()

    def step(self) -> float:
        """One step; its time in seconds."""
        began = time.perf_counter()
        loss = self.model(torch.randn(BATCH, WIDTH)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - began

    def state(self) -> dict[str, Any]:
        """What is saved."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[torch.Tensor]:
        """All of its memory."""
        moments = [one for state in self.optimizer.state.values() for one in state.values()]
        return [parameter.data for parameter in self.model.parameters()] + moments


class Saved:
    """A save under way: how long the loop stood still, and when it is durable."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.held_s = time.perf_counter() - began
        self.durable_s = 0.0

    def at(self, future: Future[Any]) -> Saved:
        """Note when a future is done."""
        future.add_done_callback(lambda _: setattr(self, "durable_s", time.perf_counter() - self.began))
        return self

    def now(self) -> Saved:
        """It is durable already."""
        self.durable_s = self.held_s
        return self


def torch_save(training: Training, folder: Path) -> Callable[[], Saved]:
    """torch.save, fsync, rename."""

    def save() -> Saved:
        began = time.perf_counter()
        with (folder / "part").open("wb") as file:
            torch.save(training.state(), file)
            file.flush()
            os.fsync(file.fileno())
        (folder / "part").rename(folder / "model.pt")
        return Saved(began).now()

    return save


def dcp(training: Training, folder: Path) -> Callable[[], Saved]:
    """dcp.save, which syncs its files."""

    def save() -> Saved:
        began = time.perf_counter()
        dcp_save(training.state(), storage_writer=FileSystemWriter(folder / "dcp", sync_files=True), no_dist=True)
        return Saved(began).now()

    return save


def dcp_async(training: Training, folder: Path) -> Callable[[], Saved]:
    """dcp.async_save into host memory that is kept between saves."""
    stager = DefaultStager(StagingOptions(False, False, False, False))

    def save() -> Saved:
        began = time.perf_counter()
        writer = FileSystemWriter(folder / "async", sync_files=True)
        future = async_save(training.state(), storage_writer=writer, async_stager=stager, no_dist=True)
        assert not isinstance(future, tuple)
        return Saved(began).at(future)  # type: ignore[arg-type]

    return save


class Ours:
    """A run; what the optimizer's step waited for counts as held."""

    def __init__(self, training: Training, folder: Path, preset: str) -> None:
        self.repo = ckstore.open(folder, preset=preset)
        self.run = self.repo.track("bench", model=training.model, optimizer=training.optimizer, at_end=False)
        self.run.__enter__()
        self.run.resume()
        committer = self.run._recorder.committer
        self._hold_up = committer.hold_up
        committer.hold_up = self._timed  # type: ignore[method-assign]
        self._saved: Saved | None = None

    def _timed(self) -> None:
        began = time.perf_counter()
        self._hold_up()
        if self._saved is not None:
            self._saved.held_s += time.perf_counter() - began

    def __call__(self) -> Saved:
        began = time.perf_counter()
        save = self.run.commit()
        self._saved = Saved(began).at(save.durable)
        return self._saved


def warm_copy(training: Training, targets: list[torch.Tensor]) -> float:
    """One copy of the state's memory into memory that is there, on all threads."""
    began = time.perf_counter()
    for target, tensor in zip(targets, training.tensors(), strict=True):
        target.copy_(tensor)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-training-"))
    try:
        found = measure(folder, asked.rounds, asked.only)
    finally:
        shutil.rmtree(folder)
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, rounds: int, only: list[str] | None) -> dict[str, Any]:
    """All ways by turns."""
    training = Training()
    state_bytes = sum(tensor.nbytes for tensor in training.tensors())
    targets = [torch.empty_like(tensor) for tensor in training.tensors()]
    warm_copy(training, targets)
    ways: dict[str, Callable[[], Saved]] = {
        "torch.save + fsync": torch_save(training, folder),
        "dcp.save": dcp(training, folder),
        "dcp.async_save": dcp_async(training, folder),
        "ckstore": Ours(training, folder / "balanced", "balanced"),
        "ckstore, fast": Ours(training, folder / "fast", "fast"),
    }
    ways = {name: way for name, way in ways.items() if only is None or name in only}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    plain: list[float] = []
    copies: list[float] = []
    longest: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        free = [training.step() for _ in range(STEPS)]
        plain += free
        copies.append(statistics.median(warm_copy(training, targets) for _ in range(3)))
        for name, way in ways.items():
            for leftover in folder.glob("*sync"):
                shutil.rmtree(leftover)
            began = time.perf_counter()
            saved = way()
            steps = [training.step() for _ in range(STEPS)]
            spent = time.perf_counter() - began
            while not saved.durable_s:
                steps.append(training.step())
                spent = time.perf_counter() - began
            base = statistics.median(free)
            row = {
                "held_s": saved.held_s,
                "held_copies": saved.held_s / copies[-1],
                "overhead_s": spent - len(steps) * base,
                "durable_s": saved.durable_s,
            }
            rows[name].append(row)
            longest[name] += steps
            print(number, name, json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)
    counting = time.perf_counter()
    staging = 0
    step_us = 0.0
    for way in ways.values():
        if isinstance(way, Ours):
            staging = max(staging, way.run.staging_bytes)
            way.run.wait()
            counting = time.perf_counter()
            for _ in range(10_000):
                way.run.step()
            step_us = (time.perf_counter() - counting) * 100
            way.run.__exit__(None, None, None)
            way.repo.close()
    return {
        "state_bytes": state_bytes,
        "threads": torch.get_num_threads(),
        "step_s": statistics.median(plain),
        "copy_s": statistics.median(copies),
        "staging_share": staging / state_bytes,
        "step_without_commit_us": step_us,
        "ways": {
            name: {
                **{key: statistics.median(row[key] for row in taken[1:]) for key in taken[0]},
                "first_held_s": taken[0]["held_s"],
                "longest_step": sorted(longest[name])[int(len(longest[name]) * 0.99)],
            }
            for name, taken in rows.items()
        },
    }


def show(found: dict[str, Any]) -> None:
    """A table."""
    size = found["state_bytes"] / 1e9
    print(f"{size:.2f} GB, {found['threads']} threads, step {found['step_s']:.2f} s, warm copy {found['copy_s']:.3f} s")
    print(f"staging {found['staging_share']:.2f}x the state, step() {found['step_without_commit_us']:.1f} us")
    print(f"{'':20} {'held':>8} {'copies':>7} {'first':>8} {'overhead':>9} {'durable':>8} {'p99 step':>9}")
    for name, one in found["ways"].items():
        print(
            f"{name:20} {one['held_s']:7.3f}s {one['held_copies']:6.2f}x {one['first_held_s']:7.3f}s "
            f"{one['overhead_s']:8.2f}s {one['durable_s']:7.2f}s {one['longest_step']:8.2f}s"
        )


if __name__ == "__main__":
    main()
