"""The documented stand-in for `ckstore.durable.os`: does what it is told, writes it down, and fails on demand.

LMDB is not recorded; after each of its commits its file is copied, so that a crash finds it as it then was.
"""

from __future__ import annotations

import errno
import os
import random
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.storage.index import Index
from tests.crash.operations import ROOT, Cut, Indexed, Log, Make, Move, Operation, Remove, Sync, Write
from tests.crash.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CALLS = ("open", "writev", "fdatasync", "fsync", "rename", "unlink", "rmdir", "ftruncate", "pwrite", "mkdir")
"""Calls of `durable` that change the disk, and that faults are counted in."""


class Killed(BaseException):
    """The process is dead: this call and all later ones have no effect."""


class Place(NamedTuple):
    """An open file: which inode, and the path it was opened by."""

    inode: int
    path: str


class RecordingOs:
    """Stands in for `os` in `durable`. What lies under `root`, the index apart, is written into `log`.

    `fault(call, path)` is asked before each of CALLS and may raise.
    """

    def __init__(self, root: Path, log: Log, fault: Callable[[str, str], None] | None = None) -> None:
        self.log = log
        self._root = str(root)
        self._fault = fault or (lambda _call, _path: None)
        self._open: dict[int, Place] = {}
        self._folders: dict[int, dict[str, int]] = {ROOT: {}}
        self._inodes = count(ROOT + 1)
        self._processes = count()
        self._process = next(self._processes)

    def adopt(self, index_file: Path) -> None:
        """Write what already lies under the root into the log, as durable as it can be."""
        inodes = [ROOT]
        for path in sorted(Path(self._root).rglob("*")):
            place = self._find(path)
            if place is not None:
                self._make(*place, is_folder=path.is_dir())
                inodes.append(self._folders[place[0]][place[1]])
                if path.is_file():
                    self._say(Write(inodes[-1], 0, path.read_bytes()))
        for inode in inodes:
            self._say(Sync(inode, True, self._process))
        if index_file.exists():
            self.log.copies.append(index_file.read_bytes())
            self._say(Indexed(len(self.log.copies) - 1))

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def another(self, fault: Callable[[str, str], None] | None = None) -> RecordingOs:
        """The same disk and log for the process that comes next."""
        other = RecordingOs(Path(self._root), self.log, fault)
        other._folders, other._inodes = self._folders, self._inodes
        other._process = next(self._processes)
        return other

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        self._fault("open" if new else "reopen", str(path))
        descriptor = os.open(path, flags, mode)
        place = self._find(path)
        if place is not None:
            folder, name = place
            if new:
                self._make(folder, name, is_folder=False)
            self._open[descriptor] = Place(self._folders[folder][name] if name else ROOT, str(path))
        else:
            self._open.pop(descriptor, None)
        return descriptor

    def writev(self, descriptor: int, buffers: Sequence[memoryview]) -> int:
        place = self._open.get(descriptor)
        try:
            self._fault("writev", place.path if place else "")
        except ShortWrite:
            buffers = [buffers[0][: max(1, buffers[0].nbytes // 2)]]
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        written = os.writev(descriptor, buffers)
        if place is not None:
            self._say(Write(place.inode, offset, b"".join(buffers)[:written]))
        return written

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """The note in a lock file: its content means nothing and is not recorded."""
        place = self._open.get(descriptor)
        self._fault("pwrite", place.path if place else "")
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        place = self._open.get(descriptor)
        self._fault("ftruncate", place.path if place else "")
        os.ftruncate(descriptor, size_bytes)
        if place is not None:
            self._say(Cut(place.inode, size_bytes))

    def fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._fault("rename", str(target))
        os.rename(source, target)
        old, new = self._find(source), self._find(target)
        if old is not None and new is not None:
            inode = self._folders[old[0]].pop(old[1])
            self._folders[new[0]][new[1]] = inode
            self._say(Move(*old, *new, inode))

    def unlink(self, path: Path) -> None:
        self._remove("unlink", path)

    def rmdir(self, path: Path) -> None:
        self._remove("rmdir", path)

    def makedirs(self, path: Path, *, exist_ok: bool) -> None:
        for parent in (*reversed(path.parents), path):
            if not parent.is_dir():
                self.mkdir(parent)
        assert exist_ok

    def mkdir(self, path: Path) -> None:
        self._fault("mkdir", str(path))
        os.mkdir(path)
        place = self._find(path)
        if place is not None:
            self._make(*place, is_folder=True)

    def _sync(self, call: str, descriptor: int) -> None:
        place = self._open.get(descriptor)
        try:
            self._fault(call, place.path if place else "")
        except OSError:
            if place is not None:
                self._say(Sync(place.inode, False, self._process))
            raise
        getattr(os, call)(descriptor)
        if place is not None:
            self._say(Sync(place.inode, True, self._process))

    def _remove(self, call: str, path: Path) -> None:
        if os.path.lexists(path):
            self._fault(call, str(path))
        getattr(os, call)(path)
        place = self._find(path)
        if place is not None:
            del self._folders[place[0]][place[1]]
            self._say(Remove(*place))

    def _make(self, folder: int, name: str, *, is_folder: bool) -> None:
        inode = self._folders[folder][name] = next(self._inodes)
        if is_folder:
            self._folders[inode] = {}
        self._say(Make(folder, name, inode, is_folder))

    def _find(self, path: Path) -> tuple[int, str] | None:
        """The inode of the folder that `path` lies in, and its name there; None for what is not recorded."""
        text = str(path)
        if text == self._root:
            return ROOT, ""
        if not text.startswith(self._root + "/"):
            return None
        *folders, name = text[len(self._root) + 1 :].split("/")
        inode = ROOT
        for folder in folders:
            inode = self._folders.get(inode, {}).get(folder, -1)
        return None if inode not in self._folders or "index" in (name, *folders) else (inode, name)

    def _say(self, operation: Operation) -> None:
        self.log.operations.append(operation)


class ShortWrite(Exception):
    """A fault that lets only a part of a write through."""


class Nth:
    """The fault that call number `n` of a kind meets, counted from 1: an OSError, a short write, or death.

    `call` is one of CALLS, or None for all of them; `times` calls of that kind fail, one after another. After
    death every call does.
    """

    def __init__(self, call: str | None, n: int, error: int | type[BaseException], times: int = 1) -> None:
        self.hit = False
        self.times = times
        self._call = call
        self._n = n
        self._error = error
        self._seen = 0

    def __call__(self, call: str, path: str) -> None:
        if call not in CALLS:
            return
        if self.hit and self._error is Killed:
            raise Killed
        if self._call not in (None, call):
            return
        self._seen += 1
        if self._n <= self._seen < self._n + self.times:
            self.hit = True
            if isinstance(self._error, int):
                raise OSError(self._error, os.strerror(self._error), path)
            raise self._error


def dying(n: int, call: str | None = None) -> Nth:
    """Death at the nth call, of all or of a kind."""
    return Nth(call, n, Killed)


FOREVER = 1 << 40


def failing(call: str, n: int, error: int = errno.EIO, times: int = 1) -> Nth:
    """Calls that the system refuses."""
    return Nth(call, n, error, times)


def shortening(n: int, times: int) -> Nth:
    """Writes of which only a part goes through."""
    return Nth("writev", n, ShortWrite, times)


@contextmanager
def recording(stand_in: RecordingOs, index_file: Path, seed: int) -> Iterator[None]:
    """`durable` works through `stand_in`; LMDB's file is copied at each commit; random names come from `seed`."""
    log = stand_in.log
    with ExitStack() as stack:
        stack.enter_context(replaced(durable, "os", stand_in))
        stack.enter_context(replaced(os, "urandom", random.Random(seed).randbytes))
        for verb in ("apply", "rebuild"):
            stack.enter_context(replaced(Index, verb, _copied(getattr(Index, verb), index_file, log)))
        yield


def _copied(commit: Callable[..., None], index_file: Path, log: Log) -> Callable[..., None]:
    def commit_and_copy(index: Index, *arguments: object) -> None:
        commit(index, *arguments)
        log.copies.append(index_file.read_bytes())
        log.operations.append(Indexed(len(log.copies) - 1))

    return commit_and_copy
