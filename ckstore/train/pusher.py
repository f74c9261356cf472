"""Pushing a run's commits while the training goes on: it never fails a training, and never holds one up."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError, Conflict
from ckstore.porcelain.push import Listening, PushOptions, push

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.repository import Repository

_TRIES = 3
_LOOK_S = 0.2
_GRACE_S = 2.0


class Pusher:
    """Pushes one branch to one remote in a thread of its own, at most one push at a time.

    What goes wrong is kept for the training's thread to say, each kind of failure once; the next commit tries again.
    `now_ns` is the clock.
    """

    def __init__(self, repository: Repository, remote: str, branch: str, now_ns: Callable[[], int]) -> None:
        self.pushed = 0
        self._repository = repository
        self._remote = remote
        self._branch = branch
        self._now_ns = now_ns
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._due = self._busy = self._ended = False
        self._kinds: set[str] = set()
        self._texts: list[str] = []

    def wake(self) -> None:
        """There is a new commit: push it as soon as the push that is under way is done. Returns at once."""
        with self._change:
            if self._ended:
                return
            self._due = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ckstore-push", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def take_warnings(self) -> list[str]:
        """What is to be said of pushes that failed, once."""
        if not self._texts:
            return []
        with self._change:
            texts, self._texts = self._texts, []
            return texts

    def finish(self, patience_s: float) -> None:
        """Wait for what is due, `patience_s` at most. What is not pushed by then stays here."""
        until_s = time.monotonic() + patience_s
        with self._change:
            while (self._due or self._busy) and (left_s := until_s - time.monotonic()) > 0:
                self._change.wait(min(left_s, _LOOK_S))
            if self._due or self._busy:
                self._texts.append(
                    f"the run's last commits are not all on {self._remote!r} after {patience_s:g} s of waiting; "
                    f"they are safe here. Fix: `ckstore push {self._remote} {self._branch}`"
                )
        self.stop()

    def stop(self) -> None:
        """End the thread: a transfer that is under way is given up, and the next push goes on behind it."""
        with self._change:
            self._ended, self._due = True, False
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_GRACE_S)

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._due or self._ended):
                    self._change.wait()
                if self._ended:
                    return
                self._due, self._busy = False, True
            try:
                self._push()
            except Exception as error:
                self._note(error)
            finally:
                with self._change:
                    self._busy = False
                    self._change.notify_all()

    def _push(self) -> None:
        listening = Listening(ended=lambda: self._ended)
        for left in reversed(range(_TRIES)):
            options = PushOptions(self._now_ns(), self._remote, (self._branch,))
            try:
                push(self._repository, options, listening=listening)
            except Conflict:
                if not left:  # gc may have taken a pack meanwhile; if others moved the branch, it stays so
                    raise
            else:
                self.pushed += 1
                return

    def _note(self, error: Exception) -> None:
        kind = error.code if isinstance(error, CkstoreError) else type(error).__name__
        said = str(error) if isinstance(error, CkstoreError) else repr(error)
        with self._change:
            if self._ended or kind in self._kinds:
                return
            self._kinds.add(kind)
            self._texts.append(
                f"a commit of the run {self._branch!r} is safe here, but not pushed to {self._remote!r}; "
                f"the next commit tries again. {said}"
            )
