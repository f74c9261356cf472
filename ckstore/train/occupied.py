"""A run's folder and name, which one process at a time may use."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from ckstore import durable
from ckstore.errors import InvalidInput, Locked
from ckstore.lock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.storage.layout import Layout


def occupy(layout: Layout, name: str) -> tuple[Path, FileLock]:
    """Take a run's name until the lock is released or the process dies; the run's folder.

    Raises `Locked`, with who has it, on what host and since when; `SaveFailed`, `StoreFull`.
    """
    folder = layout.runs / quote(name, safe="")
    for place in (layout.runs, folder):
        if not place.is_dir():
            with suppress(InvalidInput):
                durable.make_folder(place)
    lock = FileLock(folder / "lock")
    if not lock.try_acquire(note=True):
        raise Locked(
            f"the run {name!r} is going on elsewhere",
            why=lock.held_by(),
            hint="end that process, or give this run another name; a dead process holds nothing",
        )
    return folder, lock
