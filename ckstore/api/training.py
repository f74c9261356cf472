"""The part of an open repository that trainings use: runs, and commits in the background."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, TypedDict

import ckstore
from ckstore.api.environment import default_author, now
from ckstore.api.keeping import Keeping
from ckstore.porcelain.commit import components
from ckstore.porcelain.curves import CurvesOptions, curves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.checkpoint.store import CommitOptions
    from ckstore.graph.policy import Policy
    from ckstore.porcelain.curves import Point
    from ckstore.progress import Progress
    from ckstore.repository import Repository
    from ckstore.train.commits import Committer
    from ckstore.train.run import Run
    from ckstore.train.saver import Save
    from ckstore.train.triggers import Trigger


class Said(TypedDict, total=False):
    """What may be said of a commit; see `Repo.commit`."""

    message: str
    metrics: Mapping[str, float] | None
    step: int | None
    epoch: int | None
    branch: str | None
    tag: str | None
    parent: str | None
    author: str | None
    allow_pickle: bool
    preset: str | None
    progress: Progress | None


class Training(Keeping):
    """Runs and commits in the background; a part of `Repo`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._committer: Committer | None = None
        self._committing = threading.Lock()
        self._pid = os.getpid()

    def track(
        self,
        name: str,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        ema: object = None,
        data: object = None,
        config: object = None,
        every: Trigger | None = None,
        keep: Policy | str | None = None,
        start: str | None = None,
        busy: str = "skip",
        overlap: bool = True,
        at_end: bool = True,
        save_on_exception: bool = False,
        patience_s: float = 15.0,
        threads: int | None = None,
        preset: str | None = None,
        author: str | None = None,
        allow_pickle: bool = False,
        push: str | None = None,
        push_patience_s: float = 60.0,
        **parts: object,
    ) -> Run:
        """A training run, whose branch is `name`: a context manager that commits and resumes everything it is given.

        `model`, `optimizer`, `scheduler`, `scaler`, `ema` and any other keyword are objects with `state_dict` and
        `load_state_dict`, random generators, or lists and dictionaries of such; each is a component. `data` is the
        loader (or several, by name), whose position is kept. `config` is kept as plain values. Random generators,
        train/eval flags, `requires_grad` and gradients in mid-accumulation are kept by themselves.

        `every` says when to commit (`steps(500) | minutes(15)`; None: only `commit` and the end), `keep` which
        commits stay: gc follows each. `start` is the revision a new branch begins from. `busy`: whether a commit that
        is due while one is under way is skipped (`skip`) or waits (`wait`). `overlap=False` copies the whole state
        before the next step begins. `at_end` commits when the body ends, `save_on_exception` also when it fails.
        SIGTERM and Ctrl-C commit and end the process, SIGUSR1 commits; one that comes within a step waits for its end,
        `patience_s` at most. `threads` work in the background (default: a quarter of the cores, 4 at most). `push`
        names the remote that each commit is pushed to in the background: what goes wrong there is a `CkstoreWarning`,
        and the next commit tries again; the end of the run waits `push_patience_s` for the last. Raises `InvalidInput`
        for what cannot be kept and `NotFound` for an unknown remote, before anything is trained; entering it raises
        `Locked` where the run is going on elsewhere.
        """
        from ckstore.graph.policy_text import parse
        from ckstore.train.options import RunOptions
        from ckstore.train.run import Run  # torch

        if push is not None:
            from ckstore.sync.remotes import remote_named

            remote_named(self._repository, push)  # an unknown one is said before anything is trained
        options = RunOptions(
            name=name,
            clock=now,
            version=ckstore.__version__,
            author=default_author(self._repository.config) if author is None else author,
            every=every,
            keep=parse(keep) if isinstance(keep, str) else keep,
            start=start,
            busy=busy,
            overlap=overlap,
            at_end=at_end,
            save_on_exception=save_on_exception,
            patience_s=patience_s,
            threads=threads,
            preset=preset,
            allow_pickle=allow_pickle,
            push=push,
            push_patience_s=push_patience_s,
        )
        named = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema, **parts}
        return Run(self._repository, options, named, data, config)

    def curves(self, revision: str = "HEAD", metrics: str | Sequence[str] = ()) -> dict[str, tuple[Point, ...]]:
        """What runs logged on the way to a commit, as (step, time_ns, value), by metric; `metrics` names some.

        What was logged after the commit that a run went on from is no part of it. Raises `NoRevision`, `Absent`.
        """
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        return curves(self._repository, CurvesOptions(revision, now()[0], names))

    def _commit_later(self, state: object, options: CommitOptions) -> Save:
        """Begin a commit in the background, after the one that is under way."""
        from ckstore.train.commits import Committer, Request  # torch

        with self._committing:
            if self._committer is None:
                self._committer = Committer(self._repository, None, self._after_commit)
                atexit.register(self._wait_at_exit)
            self._committer.wait()
            self._committer.settle()
            parts, bare = components(state)
            return self._committer.later(Request(parts, options, bare=bare))

    def _wait_for_saving(self) -> None:
        """Wait for a commit in the background, so that one that is made at once follows it."""
        committer = self._committer
        if committer is not None and committer.busy:
            committer.wait()

    def _end_saving(self) -> None:
        """Wait for a commit in the background. Raises what went wrong."""
        committer, self._committer = self._committer, None
        if committer is not None:
            atexit.unregister(self._wait_at_exit)
            committer.wait()
            committer.close()
            committer.settle()

    def _wait_at_exit(self) -> None:
        """Who ends without `close` does not lose the last commit. What goes wrong is printed, as from any thread."""
        if self._pid == os.getpid():
            self._end_saving()
