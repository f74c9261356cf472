"""Trainings in processes of their own, for tests that signal them.

`python -m tests.train.signalled` reads lines `FOLDER CASE`: each is a training, in a child forked after all imports, of
which it prints the id. Its streams are the fifos `in` and `out` and the file `err` in the folder. It prints a line
at each point that a test waits for, and goes on once the test sends one back. `wait PID` prints how one has ended.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

import ckstore
from tests.train.held_up import hold_store
from tests.train.trainings import Small, train

UNTIL = 8
SLOW_AT = 13


def told(line: str) -> None:
    """Say so. What waits for the answer is to be called in a function of its own: there Python looks for the signals
    that have come meanwhile, which 3.14 does not do after the first call of `print`.
    """
    print(line, flush=True)


def go_on() -> None:
    os.read(0, 1)


def reached(point: str) -> None:
    """Say so, and wait for the test."""
    told(point)
    go_on()


def long(seconds: float) -> None:
    time.sleep(seconds)


def waited(seconds: float = 30.0) -> None:
    """Say so, and be in the middle of something long."""
    told("waiting")
    long(seconds)


class SlowData(torch.utils.data.Dataset[Any]):
    """The 14th item takes as long as a test needs."""

    def __init__(self, inner: Any, *, slow: bool) -> None:
        self.inner = inner
        self.slow = slow
        self.asked = 0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        if self.slow and index == SLOW_AT:
            waited(20)
        return self.inner[index]


def slow_data(small: Small, workers: int, *, slow: bool) -> None:
    small.loader = torch.utils.data.DataLoader(
        SlowData(small.loader.dataset, slow=slow), batch_size=4, num_workers=workers
    )


def evaluate(small: Small, *, protected: Any = None) -> None:
    """An evaluation of three batches, in eval mode; within `evaluating()` it also draws."""
    small.model.eval()
    for number in range(3):
        if protected is not None:
            torch.rand(number + 1)
        reached(f"evaluating {number}") if number < 2 else None
    small.model.train()


def body(case: str, repo: ckstore.Repo, run: Any, small: Small) -> None:
    """Train, and stop somewhere on the way as `case` says."""
    del repo
    while run.steps < UNTIL:
        for step, batch in run.resume(small.loader):
            if step == 3 and case == "slow data workers":
                print("step 3", flush=True)
            if step == 4 and case == "before step":
                reached("before the step")
            if step == 4 and case == "long step":
                waited()
            small.step(batch)
            if step == 4 and case in ("in step", "in step twice"):
                reached("in the step")
            if step == 4 and case == "after optimizer":
                waited()
            run.step()
            if step == 4 and case == "evaluation":
                small.model.eval()
                reached("evaluating")
                small.model.train()
            if step == 4 and case == "evaluating":
                with run.evaluating():
                    evaluate(small, protected=run)
            if step == 4 and case == "raising":
                raise ValueError("my own")
            if run.steps == UNTIL:
                break


def forked() -> tuple[Path, str]:
    """Serve; returns in each child. What torch imports at the first step is imported before."""
    warm = Small()
    warm.step(next(iter(warm.loader)))
    for line in sys.stdin:
        first, _, second = line.strip().partition(" ")
        if first == "wait":
            print(os.waitstatus_to_exitcode(os.waitpid(int(second), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            os.setsid()
            for number, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_RDWR)):
                os.dup2(os.open(Path(first, name), flags | os.O_CREAT), number)
            return Path(first), second
        print(pid, flush=True)
    sys.exit()


def main() -> None:
    folder, case = forked()
    small = Small(width=200)
    options: dict[str, Any] = {"at_end": False, "every": ckstore.signals(), "patience_s": 20.0}
    if case in ("long step", "after optimizer", "slow data late"):
        options["patience_s"] = 0.3
    if case.startswith("slow data"):
        slow_data(small, 2 if "workers" in case else 0, slow=True)
    repo = ckstore.open(folder / "repo")
    with repo.track("run", **small.parts | {"data": small.loader}, **options) as run:
        if case == "under way":
            train(run, small, 3)
            held = hold_store(run, lambda: time.sleep(1))
            held.go.set()
            run.commit()
            train(run, small, 4)
            reached("under way")
            train(run, small, UNTIL)
        elif case == "stuck save":
            train(run, small, 3)
            hold_store(run)
            run.commit()
            train(run, small, 4)
            reached("under way")
            train(run, small, 5)
        else:
            body(case, repo, run, small)
    print("done", flush=True)


if __name__ == "__main__":
    main()
