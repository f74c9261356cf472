"""How a run's state becomes commits: at once, or copied and then stored while the training goes on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckstore.checkpoint.store import CommitOptions, store
from ckstore.errors import CkstoreError
from ckstore.objects.commit import SERIES
from ckstore.progress import SILENT
from ckstore.storage.remembered import Remembered
from ckstore.storage.workers import Workers
from ckstore.torch.flatten import flatten
from ckstore.torch.staging import Staging
from ckstore.train.saver import Save, Saver, Torn, as_save_failure
from ckstore.train.warned import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckstore.checkpoint.store import CommitResult
    from ckstore.objects.draft import Draft
    from ckstore.repository import Repository
    from ckstore.torch.staging import Place, Snapshot
    from ckstore.train.metrics import Metrics


def background_threads() -> int:
    """How many threads store in the background, so that a training next to them hardly notices."""
    return max(1, min(4, (os.cpu_count() or 1) // 4))


@dataclass(frozen=True)
class Request:
    """What a commit is to hold: the state by component, what is said of it, and what may be copied later.

    `bare`: the only component is the whole state. `extra` are the components that only this commit has.
    """

    state: Mapping[str, Any]
    options: CommitOptions
    later: set[Place] = field(default_factory=set)
    bare: bool = False
    extra: Mapping[str, Any] | None = None


class Committer:
    """Makes a run's commits, one at a time. All but its background belongs to the training's thread.

    `after` is called with each commit that is durable, in the thread that made it; what it raises becomes a warning.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics | None,
        after: Callable[[CommitResult], None],
        threads: int | None = None,
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._after = after
        self._staging = Staging()
        self._saver = Saver()
        self._remembered = Remembered()
        self._workers = Workers(threads or background_threads(), background=True)
        self._sealed: dict[str, int] = {}
        self._warnings: list[str] = []
        self._restless: set[Place] = set()
        self._request: Request | None = None

    @property
    def busy(self) -> bool:
        """Whether a commit is under way in the background."""
        return self._saver.busy

    @property
    def size_bytes(self) -> int:
        """Host memory held for snapshots."""
        return self._staging.size_bytes

    def now(self, request: Request, save: Save | None = None) -> Save:
        """Commit from the live state; durable when this returns. None may be under way. Raises as `Repo.commit` does.

        `save` is told, where somebody waits for this commit already.
        """
        save = Save() if save is None else save
        drafts, series, counts = self._drafts(request)
        self._remembered.forget()
        try:
            made = store(self._repository, drafts, request.options, SILENT, bare=request.bare, series=series)
        except BaseException as error:
            save.fail(error)
            raise
        self._made(made, counts)
        self.settle()
        save.staged.set_result(made.raw_bytes)
        save.durable.set_result(made)
        return save

    def later(self, request: Request) -> Save:
        """Copy the state and commit it in the background. None may be under way."""
        drafts, series, counts = self._drafts(request)
        later = request.later - self._restless
        snapshot = self._staging.take(drafts, later)
        save = Save()

        def commit(snapshot: Snapshot) -> CommitResult:
            try:
                made = store(
                    self._repository,
                    snapshot.drafts,
                    request.options,
                    SILENT,
                    bare=request.bare,
                    series=series,
                    workers=self._workers,
                    remembered=self._remembered,
                )
            except BaseException:
                self._remembered.forget()
                raise
            self._remembered.turn()
            self._made(made, counts)
            return made

        self._saver.begin(snapshot, save, commit)
        self._request = replace(request, state={})  # the rest is to be let go of: gradients, extra tensors
        return save

    def hold_up(self) -> None:
        """Return once the state may change."""
        self._saver.hold_up()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for what is under way; whether nothing is any more."""
        return self._saver.wait(timeout_s)

    def settle(self) -> Torn | None:
        """Do what the background left to this thread, and raise what went wrong there.

        A snapshot that was torn is returned instead: it is to be taken again. Its tensors are copied at once from now.
        """
        idle, request = not self._saver.busy, self._request
        if idle:
            self._request = None  # what only that commit had is to be let go of
        if self._sealed and self._metrics is not None and idle:
            sealed, self._sealed = self._sealed, {}
            self._metrics.drop(sealed)
        while self._warnings:
            warn(self._warnings.pop(0))
        failure = self._saver.take_failure()
        if failure is not None:
            raise as_save_failure(failure)
        written = self._saver.take_written()
        if written is None or request is None:
            return None
        self._restless.update(one.place for one in written[0])
        return Torn(*written, request.options, request.extra)

    def close(self) -> None:
        """Let go of threads and memory."""
        self._workers.close()
        self._remembered.forget()
        self._staging = Staging()

    def _drafts(self, request: Request) -> tuple[dict[str, Draft], Draft | None, dict[str, int]]:
        pickled = request.options.allow_pickle
        drafts = {name: flatten(value, name, allow_pickle=pickled) for name, value in request.state.items()}
        points, counts = (None, {}) if self._metrics is None else self._metrics.sealed()
        return drafts, None if points is None else flatten(points, SERIES), counts

    def _made(self, made: CommitResult, counts: dict[str, int]) -> None:
        self._sealed = counts
        try:
            self._after(made)
        except Exception as error:
            text = str(error) if isinstance(error, CkstoreError) else repr(error)
            self._warnings.append(f"the commit {made.id[:12]} is made, but what follows it failed: {text}")
