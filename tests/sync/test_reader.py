"""Walking a remote's history: packs of trees and commits come several at once, and none too often."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ckstore.remote.memory import MemoryPlace
from ckstore.sync.fetch import FetchRequest, fetch
from tests.sync.places import Counting, counting, fetch_all, local, objects_of, opened, push_all, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUSHES = 40


class Together(Counting):
    """Waits a moment in each read of a pack for another one; `most` were under way at once."""

    def __init__(self, place: MemoryPlace) -> None:
        super().__init__(place)
        self._changed = threading.Condition()
        self._inside = 0
        self.most = 0
        self.alone = 0

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if name.startswith("packs/"):
            with self._changed:
                self._inside += 1
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: self._inside > 1, 0.05):
                    self.alone += 1
                self.most = max(self.most, self._inside)
        yield from super().read(name, start, stop)
        if name.startswith("packs/"):
            with self._changed:
                self._inside -= 1


def test_a_long_history_is_read_many_packs_at_once(tmp_path: Path) -> None:
    remote = Together(MemoryPlace("origin"))
    with opened(tmp_path / "mine") as mine, opened(tmp_path / "other") as other, opened(tmp_path / "third") as third:
        for step in range(PUSHES):
            mine.commit(state(step, size=3000), step=step)
            push_all(mine, remote)
        packs = len(list(remote.list("packs/")))
        remote.reset()
        fetch(remote, local(other), FetchRequest("origin", 1, metadata=True, jobs=4))
        reads = sum(one.startswith("read packs/") for one in remote.requests)
        assert remote.most > 2
        assert remote.alone < PUSHES
        assert reads <= 2 * packs  # once to walk, once to bring
        fetch_all(third, remote)
        assert objects_of(third) == objects_of(mine)


def test_one_push_more_costs_no_more_reads(tmp_path: Path) -> None:
    remote = counting()
    with opened(tmp_path / "mine") as mine, opened(tmp_path / "other") as other:
        for step in range(5):
            mine.commit(state(step, size=3000), step=step)
            push_all(mine, remote)
        fetch_all(other, remote)
        mine.commit(state(9, size=3000), step=9)
        sent = push_all(mine, remote).packs
        remote.reset()
        fetch(remote, local(other), FetchRequest("origin", 1, jobs=4))
        assert sum(one.startswith("read packs/") for one in remote.requests) <= sent + 1
