"""Pack files of this disk: opened once, read at an offset by any thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import SaveFailed
from ckstore.storage.layout import pack_file_name

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.storage.layout import Layout

_OPEN_AT_ONCE = 64


class PackFile:
    """One pack file, a `Source`. Its descriptor closes when nobody refers to it any more."""

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._descriptor).st_size
        weakref.finalize(self, os.close, self._descriptor)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""
        length = max(0, min(length, self.size_bytes - offset))
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def read_into(self, offset: int, *targets: bytearray | memoryview) -> int:
        """Fill `targets` one after another from `offset`; the number of bytes read, short only at the end."""
        views = [memoryview(target) for target in targets]
        done = 0
        while views:
            count = os.preadv(self._descriptor, views, offset + done)
            if not count:
                break
            done += count
            while views and count >= views[0].nbytes:
                count -= views.pop(0).nbytes
            if count:
                views[0] = views[0][count:]
        return done


class PackFiles:
    """The open packs of a repository, the least recently used closed first."""

    def __init__(self, layout: Layout) -> None:
        self._folder = os.fspath(layout.packs)
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, PackFile] = OrderedDict()
        self._pid = os.getpid()

    def get(self, name: bytes) -> PackFile:
        """The pack `name`. Raises OSError (ENOENT, ESTALE) where the file is gone, `SaveFailed` without descriptors."""
        with self._held():
            pack = self._open.pop(name, None) or self._opened(f"{self._folder}/{pack_file_name(name)}")
            self._open[name] = pack
            if len(self._open) > _OPEN_AT_ONCE:
                self._open.popitem(last=False)
            return pack

    def _opened(self, path: str) -> PackFile:
        """A pack file; where there are too many open files, those that nobody reads now are closed first."""
        try:
            return PackFile(path)
        except OSError as error:
            if error.errno not in durable.TOO_MANY_OPEN:
                raise
        self._open.clear()
        try:
            return PackFile(path)
        except OSError as error:
            if error.errno not in durable.TOO_MANY_OPEN:
                raise
            raise SaveFailed(  # no damage: nothing is known of the pack
                f"cannot open {path}: {error.strerror}", hint="allow more open files (`ulimit -n`)"
            ) from error

    def forget(self, name: bytes) -> None:
        """Open `name` anew next time."""
        with self._held():
            self._open.pop(name, None)

    def close(self) -> None:
        """Let go of all packs; each closes once nobody reads it any more."""
        with self._held():
            self._open.clear()

    def _held(self) -> threading.Lock:
        """The lock; a forked child's is its own, as another thread may have held the parent's."""
        if os.getpid() != self._pid:
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


def evict(layout: Layout) -> None:
    """Ask the system to forget what it holds of the packs in memory, so that the next read comes from the disk."""
    for path in layout.packs.iterdir():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
