"""Commits in the background that are held up, or go wrong, where a test says so."""

from __future__ import annotations

import resource
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ckstore.storage.workers import Workers
from ckstore.torch.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckstore.objects.draft import Draft
    from ckstore.torch.staging import Place, Snapshot

T = TypeVar("T")
LONGEST_S = 30.0


class HeldCopy(Staging):
    """Snapshots that the background begins to copy only once `go` is set. Others may copy at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def take(self, drafts: Mapping[str, Draft], later: Iterable[Place] = ()) -> Snapshot:
        snapshot = super().take(drafts, later)
        finish = snapshot.finish

        def held() -> None:
            if threading.current_thread().name == "ckstore-save":
                assert self.go.wait(LONGEST_S)
            finish()

        snapshot.finish = held  # type: ignore[method-assign]
        return snapshot


class HeldStore(Workers):
    """Threads that begin to store only once `go` is set, and first do `before`, which may raise."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(1)
        self.go = threading.Event()
        self.before = before

    def map(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        assert self.go.wait(LONGEST_S)
        self.before()
        super().map(work, items)


def hold_copy(run: Any) -> HeldCopy:
    """Hold up a run's copies."""
    run._recorder.committer._staging = held = HeldCopy()
    return held


def hold_store(run: Any, before: Callable[[], object] = lambda: None) -> HeldStore:
    """Hold up what a run stores."""
    run._recorder.committer._workers = held = HeldStore(before)
    return held


@contextmanager
def short_files(most_bytes: int) -> Iterator[None]:
    """No file may become longer inside: a full disk for whoever writes more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
