"""Segments that have been read from remotes, kept in a folder of this machine: bounded, and safe to delete."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from ckstore import durable
from ckstore.errors import CkstoreError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

MOST_BYTES = 512 << 20


class SegmentCache(Protocol):
    """Keeps bytes by digest; what it gives is checked by whoever asked."""

    def get(self, digest: bytes) -> Buffer | None:
        """The bytes kept under a digest; None where there are none."""

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep bytes, if there is room for them. Never raises."""

    def drop(self, digest: bytes) -> None:
        """Forget what was kept. Never raises."""


class FolderCache:
    """A `SegmentCache` of files; what was not used for longest goes first."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most = most_bytes

    def get(self, digest: bytes) -> Buffer | None:
        path = self._folder / digest.hex()
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # an empty file cannot be mapped
            return None
        with suppress(CkstoreError):
            durable.touch_ns(path)
        return data

    def put(self, digest: bytes, data: bytes) -> None:
        try:
            durable.make_folder(self._folder)
            durable.put(self._folder / digest.hex(), data)
            self._shrink(keep=digest.hex())
        except (CkstoreError, OSError):
            return

    def drop(self, digest: bytes) -> None:
        with suppress(CkstoreError):
            durable.unlink(self._folder / digest.hex())

    def _shrink(self, keep: str) -> None:
        files = [(path, path.stat()) for path in self._folder.iterdir()]
        files.sort(key=lambda file: file[1].st_mtime_ns, reverse=True)
        total = 0
        for path, stat in files:
            total += stat.st_size
            if total > self._most and path.name != keep:
                durable.unlink(path)


class NoCache:
    """A `SegmentCache` that keeps nothing."""

    def get(self, digest: bytes) -> Buffer | None:
        return None

    def put(self, digest: bytes, data: bytes) -> None:
        pass

    def drop(self, digest: bytes) -> None:
        pass
