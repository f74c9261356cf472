"""The index: an LMDB environment that says where each object lies. A cache that follows the journal.

Everything here can be rebuilt from packs and journal, and is never ahead of them. Each row carries a checksum
over its table, key and value; a row that does not match raises `IndexDamaged`, and the index is rebuilt.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ckstore.storage.environment import LMDB_ERROR, REGISTRY, IndexDamaged, Shared, lmdb_errors, typed, write_errors
from ckstore.storage.follower import Follower
from ckstore.storage.view import GENERATION_KEY, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckstore.storage.follower import PackRows
    from ckstore.storage.journal import Cursor, JournalFrame

T = TypeVar("T")
_LAYOUT = b"1"
"""Changes with what the tables hold; an index of another layout is made anew."""


class Index:
    """The index in `folder`, of the repository `repository_id`."""

    def __init__(self, folder: Path, repository_id: str) -> None:
        self._key = os.path.realpath(folder)
        self.id = _LAYOUT + repository_id.encode()
        with REGISTRY.lock, lmdb_errors():
            shared = REGISTRY.shared.get(self._key)
            if shared is None:
                shared = REGISTRY.shared[self._key] = Shared(folder)
            shared.users += 1
        self._shared = shared
        self._closed = False

    def close(self) -> None:
        """Let go of the environment; the last user in the process closes it."""
        if self._closed:
            return
        self._closed = True
        with REGISTRY.lock:
            self._shared.users -= 1
            if not self._shared.users:
                del REGISTRY.shared[self._key]
                if self._shared.pid == os.getpid():
                    self._shared.environment.close()

    def cursor(self) -> Cursor | None:
        """How far this index has followed the journal; None for an empty one or another repository's."""
        with self.reading() as view:
            return view.cursor(self.id)

    def moment(self) -> tuple[int, bytes | None]:
        """Where in the journal the index is, and what changes when it is made anew: rows go only with one of both."""
        with self.reading() as view:
            return view.moment(self.id)

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A consistent view. Keep it short: LMDB cannot reuse pages meanwhile."""
        with lmdb_errors():
            transaction = self._shared.begin()
            try:
                yield View(transaction, self._shared.tables)
            finally:
                transaction.abort()

    def ask(self, question: Callable[[View], T]) -> T:
        """What a question to a consistent view answers: as `reading`, at half its price. Raises `IndexDamaged`."""
        try:
            transaction = self._shared.begin()
            try:
                return question(View(transaction, self._shared.tables))
            finally:
                transaction.abort()
        except LMDB_ERROR as error:
            raise typed(error) from error

    def apply(self, since: Cursor, frames: Sequence[JournalFrame], packs: PackRows) -> None:
        """Follow the journal over `frames`, which come right after `since`, in one transaction: **W5**.

        Does nothing where the index is not at `since` any more: someone else has followed.
        """
        with lmdb_errors(), write_errors(), self._shared.begin(write=True) as transaction:
            writer = Follower(transaction, self._shared.tables)
            if writer.cursor(self.id) == since:
                writer.follow_all(frames, packs, self.id)

    def rebuild(self, frames: Sequence[JournalFrame], packs: PackRows) -> None:
        """Empty the index and follow `frames`, the first of which is a snapshot, in one transaction."""
        environment = self._shared.current()
        try:
            self._rebuild(frames, packs)
            with self.reading() as view:
                view.check()
        except IndexDamaged:
            with lmdb_errors():
                self._shared.renew(environment)
            self._rebuild(frames, packs)

    def _rebuild(self, frames: Sequence[JournalFrame], packs: PackRows) -> None:
        with lmdb_errors(), write_errors(), self._shared.begin(write=True) as transaction:
            for table in self._shared.tables.values():
                transaction.drop(table, delete=False)
            writer = Follower(transaction, self._shared.tables)
            writer.put("meta", GENERATION_KEY, os.urandom(8))
            writer.follow_all(frames, packs, self.id)
