"""A remote in a folder: a local disk, an external one, a network file system.

    root         the root, replaced by a rename while `.lock` is held
    packs/...    objects, each written in `.tmp`, synced, and then renamed to its name
    .lock .clock .tmp/

Every write goes through `durable`, and what is acknowledged survives a power cut. No name leads out of the folder,
whatever links somebody left in it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.digest import derived
from ckstore.errors import Auth, CkstoreError, Integrity, InvalidInput, Locked, NotFound, RemoteFailed, SaveFailed
from ckstore.filesystem import mount_of
from ckstore.lock import FileLock
from ckstore.remote.interface import (
    BLOCK_BYTES,
    MAX_ROOT_BYTES,
    ROOT,
    Remote,
    Root,
    RootMoved,
    Stat,
    Transient,
    Unclear,
    Version,
    check_name,
    check_range,
    check_size,
    is_name,
    other_length,
    too_short,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.remote.source import Source

_CONTEXT = "ckstore directory root v1"
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_PASSING = frozenset({errno.EINTR, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, *durable.TOO_MANY_OPEN})
_OLD_PART_NS = 24 * 3600 * 10**9


class DirectoryRemote(Remote):
    """Objects in the files below `folder`, which must be there.

    Raises `InvalidInput` where the locks of a network mount hold on one machine only. `lock_timeout_s` is how long a
    writer waits for another one.
    """

    def __init__(self, folder: Path, lock_timeout_s: float = 60.0) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._real = os.path.realpath(self.folder)
        self._lock_timeout_s = lock_timeout_s
        self._lock = FileLock(self.folder / ".lock")
        self._tmp = self.folder / ".tmp"
        self._numbers = count()
        self._own = os.urandom(8).hex()
        self._within = False
        mount_of(self.folder).check_locks()

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_range(start, stop)
        with self._typed("read", name):
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                about = os.fstat(descriptor)
                if not stat.S_ISREG(about.st_mode):
                    raise _no_file(self.url, name)
                end = about.st_size if stop is None else stop
                if max(start, end) > about.st_size:
                    raise too_short(self.url, name, max(start, end), about.st_size)
                while start < end:
                    block = os.pread(descriptor, min(BLOCK_BYTES, end - start), start)
                    if not block:
                        raise too_short(self.url, name, end, start)
                    start += len(block)
                    yield block
            finally:
                os.close(descriptor)

    def put(self, name: str, source: Source) -> bool:
        path = self._path(name)
        check_size(name, source.size_bytes)
        there = self._there(name, path, source.size_bytes)
        if not there:
            part = self._write(name, source)
            try:
                with self._typed("write", name), self._locked():
                    there = self._there(name, path, source.size_bytes)
                    if not there:
                        durable.make_folder(path.parent)
                        self._check_inside(path, name)
                        durable.rename(part, path)
            finally:
                if there or not path.exists():
                    durable.unlink(part)
        with self._typed("write", name):
            durable.sync_folder(path.parent)
        return not there

    def stat(self, name: str) -> Stat | None:
        path = self._path(name)
        try:
            with self._typed("look at", name):
                about = os.lstat(path)
        except NotFound:
            self._check_place()
            return None
        if not stat.S_ISREG(about.st_mode):
            raise _no_file(self.url, name)
        return _stat(name, about)

    def list(self, prefix: str) -> Iterator[Stat]:
        self._check_place()
        with self._typed("list", prefix):
            yield from self._below(self.folder, "", prefix)

    def delete(self, names: Sequence[str]) -> None:
        paths = [self._path(name) for name in names]
        self._check_place()
        with self._typed("delete from", ""):
            for path in paths:
                durable.unlink(path)
            for folder in sorted({path.parent for path in paths}):
                if folder.exists():
                    durable.sync_folder(folder)
            self._drop_old_parts()

    def read_root(self) -> Root | None:
        path = self.folder / ROOT
        try:
            with self._typed("read", ROOT):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                with open(descriptor, "rb") as file:
                    data = file.read(MAX_ROOT_BYTES + 1)
        except NotFound:
            self._check_place()
            return None
        if len(data) > MAX_ROOT_BYTES:
            raise Integrity(f"the root of {self.url} has more than {MAX_ROOT_BYTES:,} bytes")
        return Root(data, _version(data))

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        self._check_place()
        part = self._part()
        with self._typed("write", ROOT):
            try:
                with durable.create(part) as file:
                    file.write(data)
                    file.sync()
                with self._locked():
                    now = self.read_root()
                    there = None if now is None else now.version
                    if there != expected:
                        raise RootMoved(f"the root of {self.url} is not at {expected} any more, but at {there}")
                    durable.rename(part, self.folder / ROOT)
                    self._sync_root()
            finally:
                durable.unlink(part)
        return _version(data)

    def clock_ns(self) -> int:
        self._check_place()
        path = self.folder / ".clock"
        with self._typed("read the clock of", ""):
            if not path.exists():
                os.close(durable.open_lock_file(path))
            return durable.touch_ns(path)

    def remove_root(self) -> None:
        self._check_place()
        with self._typed("delete from", ""), self._locked():
            durable.unlink(self.folder / ROOT)
            durable.sync_folder(self.folder)

    def inside(self, name: str) -> DirectoryRemote:
        check_name(name)
        self._check_place()
        folder = self.folder / f".{name}"
        with self._typed("write", ""):
            durable.make_folder(folder)
        within = DirectoryRemote(folder, self._lock_timeout_s)
        within._within = True
        return within

    def close(self) -> None:
        """Nothing stays open between calls; of a place within another that is empty, no folders stay."""
        if self._within:
            with suppress(CkstoreError, OSError):
                if self.read_root() is None and not any(self.list("")):
                    self._vanish()

    def _vanish(self) -> None:
        for name in (".lock", ".clock"):
            durable.unlink(self.folder / name)
        folders = [path for path in self.folder.rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in (*sorted(folders, reverse=True), self.folder):
            durable.remove_folder(folder)

    def _path(self, name: str) -> Path:
        check_name(name)
        path = self.folder / name
        self._check_inside(path, name)
        return path

    def _check_inside(self, path: Path, name: str) -> None:
        real = os.path.realpath(path.parent)
        if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
            raise InvalidInput(
                f"{name} lies outside of {self.folder}",
                why=f"a symbolic link leads to {real}",
                hint="put a folder in the place of that link (a mount is fine)",
            )

    def _check_place(self) -> None:
        if not self.folder.is_dir():
            raise NotFound(f"there is no folder {self.folder}", hint=f"mount it, or make it: mkdir {self.folder}")

    def _there(self, name: str, path: Path, size_bytes: int) -> bool:
        """Whether an object of that length is there already."""
        try:
            with self._typed("look at", name):
                about = os.lstat(path)
        except NotFound:
            return False
        if not stat.S_ISREG(about.st_mode):
            raise _no_file(self.url, name)
        if about.st_size != size_bytes:
            raise other_length(self.url, name, about.st_size, size_bytes)
        return True

    def _part(self) -> Path:
        """A path in `.tmp` that nobody else uses."""
        with self._typed("write", ""):
            if not self._tmp.is_dir():
                self._check_place()
                durable.make_folder(self._tmp)
        return self._tmp / f"{self._own}-{os.getpid()}-{next(self._numbers)}.part"

    def _write(self, name: str, source: Source) -> Path:
        """The content of `source` in `.tmp`, synced."""
        part = self._part()
        try:
            with self._typed("write", name):
                file = durable.create(part)
            with file:
                for block in source.blocks():  # what goes wrong there is not this place's fault
                    with self._typed("write", name):
                        file.write(block)
                with self._typed("write", name):
                    file.sync()
        except BaseException:
            durable.unlink(part)
            raise
        return part

    def _sync_root(self) -> None:
        try:
            durable.sync_folder(self.folder)
        except CkstoreError as error:
            raise Unclear(f"the root of {self.url} may not outlive a power cut", why=error.what) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock.held(self._lock_timeout_s):
                yield
        except Locked as error:
            raise Transient(f"others hold the lock of {self.url}", why=error.why, hint="try again later") from error

    def _below(self, folder: Path, above: str, prefix: str) -> Iterator[Stat]:
        """The objects in `folder`, all of whose names begin with `above`, in order of their whole names."""
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False), entry) for entry in entries]
        except FileNotFoundError:
            return
        # A folder's objects stand where its name and a slash do.
        for name, is_folder, entry in sorted(found, key=lambda item: item[0] + "/" * item[1]):
            whole = above + name + "/" * is_folder
            if name.startswith("."):
                continue
            if is_folder and (whole.startswith(prefix) or prefix.startswith(whole)):
                yield from self._below(folder / name, whole, prefix)
            elif whole.startswith(prefix) and is_name(whole) and entry.is_file(follow_symlinks=False):
                try:
                    yield _stat(whole, entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue

    def _drop_old_parts(self) -> None:
        """Remove what writers that died left in `.tmp`, a day after they did."""
        if not self._tmp.is_dir():
            return
        now_ns = self.clock_ns()
        for path in self._tmp.iterdir():
            try:
                old = now_ns - path.lstat().st_mtime_ns > _OLD_PART_NS
            except FileNotFoundError:
                continue
            if old:
                durable.unlink(path)

    @contextmanager
    def _typed(self, action: str, name: str) -> Iterator[None]:
        """Errors of the disk as those of a remote."""
        try:
            yield
        except SaveFailed as error:
            cause = error.__cause__
            raise self._error(action, name, cause if isinstance(cause, OSError) else None, error.what) from error
        except OSError as error:
            raise self._error(action, name, error, error.strerror or str(error)) from error

    def _error(self, action: str, name: str, cause: OSError | None, why: str) -> CkstoreError:
        what = f"cannot {action} {name + ' at ' if name else ''}{self.url}"
        number = None if cause is None else cause.errno
        if number in _GONE:
            hint = None if self.folder.is_dir() else f"mount it, or make it: mkdir {self.folder}"
            return NotFound(
                f"{self.url} has no {name}" if hint is None else f"there is no folder {self.folder}", hint=hint
            )
        if number in _REFUSED:
            return Auth(what, why=why, hint="check the permissions of that folder")
        if number == errno.ELOOP:
            return _no_file(self.url, name)
        if number in _PASSING:
            return Transient(what, why=why)
        return RemoteFailed(what, why=why, hint="check that disk or mount (`dmesg`), then try again")


def _stat(name: str, about: os.stat_result) -> Stat:
    return Stat(name, about.st_size, Version(f"{about.st_ino}-{about.st_mtime_ns}"), about.st_mtime_ns)


def _version(data: bytes) -> Version:
    return Version(derived(_CONTEXT, data).hex())


def _no_file(url: str, name: str) -> Integrity:
    return Integrity(f"{name} at {url} is no plain file", hint="remove it there")
