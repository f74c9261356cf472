"""`tmp/`: a folder for each save under way, owned through a lock that dies with its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import CkstoreError, SaveFailed
from ckstore.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckstore.storage.layout import Layout

_OWNER = "owner"


class Scratch:
    """The folders under `tmp/` and the packs that a dead save left behind.

    `lock` is the repository's; `named_packs` the names that the journal's records hold, asked for under it.
    """

    def __init__(self, layout: Layout, lock: FileLock, named_packs: Callable[[], set[str]]) -> None:
        self._layout = layout
        self._lock = lock
        self._named_packs = named_packs

    def open(self, folder: Path) -> FileLock:
        """Make `folder` and own it; what dead saves left is removed first."""
        with self._lock.held():
            self._sweep()
            durable.make_scratch_folder(folder)
            owner = FileLock(folder / _OWNER)
            owner.try_acquire()
        return owner

    def close(self, folder: Path, owner: FileLock, *, failed: bool) -> None:
        """Give `folder` up. After a failure it stays, empty, so that the next save looks for stray packs."""
        try:
            for path in sorted(folder.iterdir()):
                if not (failed and path.name == _OWNER):
                    durable.unlink(path)
            if not failed:
                durable.remove_folder(folder)
        except (OSError, CkstoreError):
            # The next save sweeps it; the save's own outcome is what the caller must hear.
            return
        finally:
            owner.release()

    def _sweep(self) -> None:
        dead = []
        try:
            found = list(self._layout.tmp.iterdir())
        except OSError as error:
            raise SaveFailed(f"cannot read {self._layout.tmp}: {error.strerror}", hint="try again") from error
        for folder in found:
            if not folder.is_dir():
                durable.unlink(folder)  # nobody's: what a file system left of a folder that it lost
                continue
            owner = FileLock(folder / _OWNER)
            try:
                free = owner.try_acquire()
            except SaveFailed:
                if folder.exists():
                    raise
                continue  # its save has just ended and taken it away
            if free:
                owner.release()
                dead.append(folder)
        if not dead:
            return
        named = self._named_packs()
        strays = [path for path in self._layout.packs.iterdir() if path.name not in named]
        strays += self._layout.journal.glob(".*.part")
        for path in strays:
            durable.unlink(path)
        for folder in {path.parent for path in strays}:
            durable.sync_folder(folder)  # before what points to them goes
        for folder in dead:
            for path in folder.iterdir():
                durable.unlink(path)
            durable.remove_folder(folder)
