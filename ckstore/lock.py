"""A lock between processes, over a file, that the kernel frees when its holder dies.

Open-file-description locks where the system has them, else a POSIX lock; in both cases with one more lock
inside the process. The file's content names the holder for people; it decides nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import InvalidInput, Locked

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY = frozenset({errno.EACCES, errno.EAGAIN})
_OFD = hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi4x")
LONGEST_NAP_S = 0.02
"""Whoever waits for a lock looks again after so long at the most."""


class FileLock:
    """An exclusive lock on `path`, usable by many threads and processes.

    A forked child starts unlocked: its copies of the descriptors are closed, never unlocked, so that the
    parent keeps what it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inner = threading.Lock()
        self._descriptor = -1
        _ALIVE.add(self)

    @contextmanager
    def held(self, timeout_s: float = 60.0) -> Iterator[None]:
        """Hold the lock for the body. Raises `Locked`, naming the holder, after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        inner = self._inner
        if not inner.acquire(timeout=max(timeout_s, 0)):
            raise self._locked(timeout_s)
        try:
            descriptor = self._acquire(deadline, timeout_s)
            try:
                yield
            finally:
                if self._descriptor == descriptor:
                    self._descriptor = -1
                    _let_go(descriptor)
        finally:
            if self._inner is inner:
                inner.release()

    def try_acquire(self, *, note: bool = False) -> bool:
        """Take the lock if it is free, to be held until `release` or the death of the process.

        With `note` the file says whose it is.
        """
        if not self._inner.acquire(blocking=False):
            return False
        descriptor = -1
        try:
            descriptor = durable.open_lock_file(self.path)
            if _set_lock(descriptor):
                self._descriptor = descriptor
                if note:
                    durable.overwrite(descriptor, json.dumps(holder()).encode())
                return True
            return False
        finally:
            if self._descriptor < 0:
                if descriptor >= 0:
                    os.close(descriptor)
                self._inner.release()

    def release(self) -> None:
        """Give back what `try_acquire` took."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            _let_go(descriptor)
            self._inner.release()

    def _acquire(self, deadline: float, timeout_s: float) -> int:
        # Known before it is locked, so that a child forked in between lets go of its copy.
        descriptor = self._descriptor = durable.open_lock_file(self.path)
        nap_s = 0.0005
        try:
            while not _set_lock(descriptor):
                if time.monotonic() >= deadline:
                    raise self._locked(timeout_s)
                time.sleep(nap_s)
                nap_s = min(nap_s * 1.5, LONGEST_NAP_S)
            durable.overwrite(descriptor, json.dumps(holder()).encode())
        except BaseException:
            self._descriptor = -1
            os.close(descriptor)
            raise
        return descriptor

    def held_by(self) -> str:
        """Who holds it, as the note in the file says."""
        try:
            note = json.loads(self.path.read_bytes())
            return f"held by process {note['pid']} on {note['host']} since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "its holder left no note"

    def _locked(self, timeout_s: float) -> Locked:
        return Locked(
            f"the repository lock {self.path} is busy",
            why=f"{self.held_by()}; waited {timeout_s:g} s",
            hint="wait for that process or end it: the lock of a dead process frees itself",
        )

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._inner = threading.Lock()


_ALIVE: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_inherited() -> None:
    for lock in list(_ALIVE):
        lock._forget()


os.register_at_fork(after_in_child=_forget_inherited)


def _set_lock(descriptor: int) -> bool:
    try:
        if _OFD:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise InvalidInput(
            f"this file system cannot lock files: {error.strerror}",
            hint="mount it with locking (NFS: without `nolock`; Lustre: with `flock`)",
        ) from error
    return True


def _let_go(descriptor: int) -> None:
    """Unlock before closing: a child between fork and exec may still hold a copy of the descriptor."""
    try:
        if _OFD:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def holder() -> dict[str, object]:
    """Who this process is: host, boot id, pid, start time in clock ticks since boot, and now."""
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _start_ticks(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _start_ticks() -> int:
    try:
        return int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
