"""The process in which a training is watched: everything it does is told, and at its hour it kills itself."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import ckstore
from ckstore.testing.facts import facts
from ckstore.testing.resume_events import Event
from ckstore.train.observers import OBSERVERS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ckstore.api.checkpoint import Checkpoint
    from ckstore.api.repo import Repo
    from ckstore.testing.facts import Facts
    from ckstore.testing.resume_events import Job

_NOT_COMPARED = ("config", "data", "environment")
"""Components that may be other after a resume: where the data stands shows in the batches."""

_MOST_BYTES = 256 << 20
"""The state is looked at after every step where it is no larger; else after each second, third, ..."""


def work(job: Job, events: Connection, errors: Connection) -> None:
    """Run a job. All processes that it starts are in its process group, and die with it."""
    os.setsid()
    os.dup2(errors.fileno(), 2)
    errors.close()
    _seed(job.seed)
    faulthandler.dump_traceback_later(job.timeout_s, exit=True)
    with ckstore.open(job.folder) as repo:
        watch = Watch(repo, job, events)
        OBSERVERS.append(watch)
        register_optimizer_step_post_hook(watch.optimizer_stepped)
        job.train(repo, *job.args)
        watch.tell_ends()
    faulthandler.cancel_dump_traceback_later()


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


class Watch:
    """An observer of runs that tells its parent of each event."""

    def __init__(self, repo: Repo, job: Job, events: Connection) -> None:
        self._repo = repo
        self._job = job
        self._events = events
        self._runs: dict[str, Any] = {}
        self._strides: dict[str, int] = {}

    def __call__(self, event: str, run: Any, more: Any) -> None:
        if event == "begun":
            self._runs[run.branch] = run
            self._tell_begun(run)
        elif event == "batch":
            self._tell("batch", run, facts("batch", more))
        elif event == "logged":
            self._tell("logged", run, {f"metric {name!r}": repr(value) for name, value in more.items()})
        elif event == "step":
            stride = self._strides[run.branch]
            self._tell("step", run, _looked_at(run.captured()) if run.steps % stride == 0 else {})
            self._kill_in(run, run.steps - 1)

    def optimizer_stepped(self, *_: object) -> None:
        """An optimizer has taken its step and the run has not counted it: the middle of a step."""
        for run in self._runs.values():
            self._kill_in(run, run.steps)

    def tell_ends(self) -> None:
        """Tell how each run is left."""
        for run in self._runs.values():
            self._tell("end", run, _looked_at(run.captured()))

    def _kill_in(self, run: Any, done: int) -> None:
        """Kill in the step after `done` steps, once a commit is there to go on from."""
        if self._job.kill_after is None or done < self._job.kill_after:
            return
        run.wait()
        committed = run.branch in self._repo.branches
        self._tell("killing" if committed else "uncommitted", run, {})
        os.killpg(0, signal.SIGKILL)

    def _tell_begun(self, run: Any) -> None:
        now = run.captured()
        sizes = (_size_bytes(value) for value in now.values())
        self._strides[run.branch] = 1 + sum(sizes) // _MOST_BYTES
        if run.resumed.id is None:
            self._tell("begun", run, {})
            return
        commit = self._repo[run.resumed.id]
        then = self._held(commit)
        expected = {path: fact for path, fact in then.items() if not path.startswith(run.resumed.unexpected)}
        self._events.send(Event("begun", run.branch, run.steps, _looked_at(now), expected, commit.id))

    def _held(self, commit: Checkpoint) -> Facts:
        names = [name for name in commit.info.components if name not in _NOT_COMPARED]
        return _looked_at(commit.load(names, allow_pickle=True))

    def _tell(self, kind: str, run: Any, told: Facts) -> None:
        self._events.send(Event(kind, run.branch, run.steps, told))


def _looked_at(state: dict[str, Any]) -> Facts:
    return {path: fact for name, value in state.items() for path, fact in facts(name, value).items()}


def _size_bytes(value: Any) -> int:
    """What the tensors in a value take."""
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(map(_size_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_size_bytes, value))
    return _size_bytes(value.state_dict()) if hasattr(value, "state_dict") else 0
