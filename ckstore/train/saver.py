"""Commits in the background: one thread for each, one at a time; what goes wrong is kept for whoever asks next."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckstore.errors import CkstoreError, SaveFailed
from ckstore.storage.workers import yield_to_others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckstore.checkpoint.store import CommitOptions, CommitResult
    from ckstore.torch.staging import Snapshot, Written


@dataclass
class Save:
    """A commit that is being made while the training goes on.

    `staged` is done once the state is copied and may change, with its size in bytes; `durable` once the commit
    survives power loss, with the same `CommitResult` as `Repo.commit` returns. Both raise what went wrong.
    """

    staged: Future[int] = field(default_factory=Future)
    durable: Future[CommitResult] = field(default_factory=Future)

    def __post_init__(self) -> None:
        for future in (self.staged, self.durable):
            future.set_running_or_notify_cancel()  # the commit is made whether or not somebody waits

    def result(self, timeout_s: float | None = None) -> CommitResult:
        """Wait until the commit is durable. Raises what went wrong, or `TimeoutError`."""
        return self.durable.result(timeout_s)

    def done(self) -> bool:
        """Whether it is durable, or has failed."""
        return self.durable.done()

    def fail(self, error: BaseException) -> None:
        """Let whoever waits for it know that there will be nothing."""
        for future in (self.staged, self.durable):
            if not future.done():
                future.set_exception(error)


class Torn(SaveFailed):
    """A snapshot was written to while it was taken; nothing was committed. What was to be is to be taken again."""

    def __init__(
        self, written: list[Written], save: Save, options: CommitOptions, extra: Mapping[str, Any] | None
    ) -> None:
        self.save = save
        self.options = options
        self.extra = extra
        more = f" and {len(written) - 3} more" if len(written) > 3 else ""
        paths = ", ".join(one.path for one in written[:3]) + more
        super().__init__(f"written to while it was being copied: {paths}", hint="track(..., overlap=False)")


class Saver:
    """Makes commits from snapshots. `begin` and `wait` are for one thread, the training's."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._snapshot: Snapshot | None = None
        self._failure: BaseException | None = None
        self._written: tuple[list[Written], Save] | None = None

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, snapshot: Snapshot, save: Save, commit: Callable[[Snapshot], CommitResult]) -> None:
        """Have `commit` make a commit of a snapshot. None other may be under way."""
        self._snapshot = snapshot
        # Not one the interpreter waits for: who leaves at once must be let go. A run waits when it ends.
        self._thread = threading.Thread(
            target=self._work, args=(snapshot, save, commit), name="ckstore-save", daemon=True
        )
        self._thread.start()

    def hold_up(self) -> None:
        """Return once the memory of the snapshot being taken may be written to."""
        if self._snapshot is not None:
            self._snapshot.hold_up()
            if self._snapshot.whole:
                self._snapshot = None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the commit that is under way; whether there is none any more."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.busy

    def take_failure(self) -> BaseException | None:
        """What went wrong since this was last asked."""
        failure, self._failure = self._failure, None
        return failure

    def take_written(self) -> tuple[list[Written], Save] | None:
        """The tensors that a snapshot was torn at, and who waits for it; None where none was since this was asked."""
        written, self._written = self._written, None
        return written

    def _work(self, snapshot: Snapshot, save: Save, commit: Callable[[Snapshot], CommitResult]) -> None:
        try:
            snapshot.finish()  # the optimizer's next step waits for this
            yield_to_others()
            written = snapshot.torn()
            if written:
                self._written = (written, save)
                return
            save.staged.set_result(snapshot.size_bytes)
            save.durable.set_result(commit(snapshot))
        except BaseException as error:  # whatever it was, the training's thread has to hear of it
            self._failure = error
            save.fail(error)


def as_save_failure(error: BaseException) -> CkstoreError:
    """An error of the background as the training gets it, by its own type where that is ckstore's."""
    if isinstance(error, CkstoreError):
        error.add_note("(raised by a commit in the background; the training's state is untouched)")
        return error
    failed = SaveFailed(f"a commit in the background failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
