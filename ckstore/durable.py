"""The only door to the disk for writing: create, write, sync, rename, unlink, truncate.

Crash tests stand in for this module's `os`. Every failure comes out typed: `StoreFull` where room, quota or
inodes are gone, `SaveFailed` for the rest. After a failed sync a file is abandoned: it refuses every further
write and sync, because the kernel may have dropped the pages and called them clean.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, cast

from ckstore.errors import CkstoreError, InvalidInput, SaveFailed, StoreFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from typing_extensions import Buffer

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TOO_MANY_OPEN = frozenset({errno.EMFILE, errno.ENFILE})
"""What the system says where no descriptor is left: that is no damage."""
_IOV_MAX = 512
_WRITE_BACK_BYTES = 8 << 20
_AHEAD_BYTES = 16 << 20
_AMPLE_BYTES = 1 << 30
"""Less than this free, and blocks are left for who needs them now."""
_SYNC_FILE_RANGE_WRITE = 2
_FALLOC_FL_KEEP_SIZE = 1


@cache
def _hint(name: str, *types: type) -> Callable[..., object]:
    """A call of the Linux system that promises nothing, so that its answer is of no interest; one that does nothing
    elsewhere.
    """
    call = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if call is None:
        return lambda *_: None
    call.argtypes = types
    return cast("Callable[..., object]", call)


def _write_back(descriptor: int, offset: int, length: int) -> None:
    """Begin to write some bytes of a file to the disk, so that a later sync, which still reports what went wrong, has
    less to wait for.
    """
    begin = _hint("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    begin(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def _take_blocks(descriptor: int, offset: int, length: int) -> None:
    """Give a file blocks beyond its end, while its size stays.

    Where ext4 finds a block for each page only as it is written back, whoever writes on meanwhile waits for that.
    """
    take = _hint("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    take(descriptor, _FALLOC_FL_KEEP_SIZE, offset, length)


def _has_ample_blocks(descriptor: int) -> bool:
    """Whether the file lies on a disk of this machine (not in memory, nor on a network), with much of it free."""
    if not os.major(os.fstat(descriptor).st_dev):
        return False
    disk = os.fstatvfs(descriptor)
    return disk.f_bavail * disk.f_frsize >= _AMPLE_BYTES


@contextmanager
def _typed(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(action, path, error) from error


def failure(action: str, path: Path, error: OSError) -> CkstoreError:
    """The typed error for an operating-system error while doing `action` to `path`."""
    what = f"cannot {action} {path}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreFull(what, hint="free some space (or raise the quota), then save again; older commits are intact")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SaveFailed(what, hint="check the permissions of the repository's folder and its mount")
    return SaveFailed(what, hint="check the disk (`dmesg`), then save again; older commits are intact")


class DurableFile:
    """A file open for appending through one descriptor.

    `write` is all or an error; `sync` makes everything written so far survive power loss. Not safe for
    use by two threads at once.
    """

    def __init__(self, path: Path, descriptor: int, size_bytes: int = 0) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._descriptor = descriptor
        self._abandoned = False
        self._pushed = size_bytes
        self._taken = 0
        """Up to where blocks were asked for; 0 for nowhere."""

    def write(self, *buffers: Buffer) -> None:
        """Append `buffers` one after another. Short writes are continued."""
        self._check()
        pending = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
        try:
            while pending:
                written = os.writev(self._descriptor, pending[:_IOV_MAX])
                if written == 0:
                    raise OSError(errno.ENOSPC, "nothing was written")
                self.size_bytes += written
                while pending and written >= pending[0].nbytes:
                    written -= pending.pop(0).nbytes
                if written:
                    pending[0] = pending[0][written:]
        except OSError as error:
            self._abandoned = True
            raise failure("write", self.path, error) from error
        if self.size_bytes - self._pushed >= _WRITE_BACK_BYTES:
            self._push()

    def _push(self) -> None:
        """Begin to write out what is new, and have blocks at hand for what comes next."""
        _write_back(self._descriptor, self._pushed, self.size_bytes - self._pushed)
        self._pushed = self.size_bytes
        if self._taken < self.size_bytes + _WRITE_BACK_BYTES and _has_ample_blocks(self._descriptor):
            start = max(self._taken, self.size_bytes)
            _take_blocks(self._descriptor, start, _AHEAD_BYTES)
            self._taken = start + _AHEAD_BYTES

    def sync(self) -> None:
        """Make it survive power loss (fdatasync). A failure abandons the file for good."""
        self._check()
        if self._taken > self.size_bytes:
            self.truncate(self.size_bytes)
        try:
            with _typed("sync", self.path):
                os.fdatasync(self._descriptor)
        except CkstoreError:
            self._abandoned = True
            raise

    def truncate(self, size_bytes: int) -> None:
        """Cut the file to `size_bytes`; later writes go on from there. Works on an abandoned file too."""
        with _typed("truncate", self.path):
            os.ftruncate(self._descriptor, size_bytes)
            os.lseek(self._descriptor, size_bytes, os.SEEK_SET)
        self.size_bytes = size_bytes
        self._taken = 0

    def close(self) -> None:
        """Close the descriptor; says nothing about durability."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._abandoned:
            raise SaveFailed(f"{self.path} is abandoned after a failed write or sync")


def create(path: Path, mode: int = 0o666) -> DurableFile:
    """A new, empty file. Raises `InvalidInput` where the name is taken."""
    with _typed("create", path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            raise InvalidInput(f"{path} exists already", hint="choose another name") from None
        return DurableFile(path, descriptor)


def append(path: Path) -> DurableFile:
    """An existing file, positioned at its end."""
    with _typed("open", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return DurableFile(path, descriptor, os.lseek(descriptor, 0, os.SEEK_END))


def open_lock_file(path: Path) -> int:
    """Descriptor of a lock file, made if absent."""
    with _typed("open", path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def overwrite(descriptor: int, data: bytes) -> None:
    """Replace the content behind `descriptor` if that is possible, unsynced: for notes that carry no promise.

    A full disk must not keep anyone from taking a lock.
    """
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def touch_ns(path: Path) -> int:
    """The time now by the clock of the file system of the file `path`, in ns since 1970 UTC; it becomes the file's."""
    with _typed("touch", path):
        os.utime(path)
        return os.stat(path).st_mtime_ns


def make_folder(path: Path) -> None:
    """Make `path` and what leads to it, so that their names survive power loss; fine if it is there."""
    with _typed("make folder", path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        os.makedirs(path, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def check_room(folder: Path, size_bytes: int, files: int = 1) -> None:
    """Raise `StoreFull` unless so many bytes and new files fit on the disk of `folder`, which need not be there yet.

    What others write meanwhile may still fill it.
    """
    place = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()), None)
    if place is None:
        return
    with _typed("look at", place):
        disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < size_bytes:
        raise StoreFull(
            f"{size_bytes:,} bytes do not fit on the disk of {place}", why=f"{free:,} are free", hint="free some space"
        )
    if disk.f_files and disk.f_favail < files:
        raise StoreFull(
            f"{files:,} files do not fit on the disk of {place}",
            why=f"{disk.f_favail:,} inodes are free",
            hint="remove files that are not needed",
        )


def make_scratch_folder(path: Path) -> None:
    """Make a folder that need not survive power loss; its parent is there, and it is not."""
    with _typed("make folder", path):
        os.mkdir(path)


def reserve(path: Path, size_bytes: int) -> None:
    """Make `path` at least `size_bytes` long with all its blocks allocated: for what is written through a mapping.

    There a full disk would be no error but a SIGBUS.
    """
    with _typed("reserve", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.posix_fallocate(descriptor, 0, size_bytes)
        finally:
            os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Move `source` to `target` on the same file system, atomically. Durable after `sync_folder` of both parents."""
    with _typed("rename", source):
        os.rename(source, target)


def link(path: Path, target: bytes) -> None:
    """Make the symbolic link `path` to `target`, in place of what is there. Durable after `sync_folder`."""
    part = path.with_name(f".ckstore-{os.urandom(8).hex()}.part")
    with _typed("link", path):
        os.symlink(target, os.fsencode(part))
    try:
        rename(part, path)
    except BaseException:
        unlink(part)
        raise


def stamp(path: Path, mode: int, mtime_ns: int) -> None:
    """Give a file or folder its permissions and the time it was written. Promises nothing about power loss."""
    with _typed("set mode and time of", path):
        os.chmod(path, mode)
        os.utime(path, ns=(mtime_ns, mtime_ns))


def unlink(path: Path) -> None:
    """Remove a file; fine if it is gone."""
    with _typed("remove", path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def remove_folder(path: Path) -> None:
    """Remove an empty folder; fine if it is gone."""
    with _typed("remove", path):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return


def sync_folder(path: Path) -> None:
    """Make the names in `path` survive power loss."""
    with _typed("sync", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put(path: Path, *buffers: Buffer) -> None:
    """Write a whole small file so that `path` holds either the old content or the new one, durably."""
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        with create(part) as file:
            file.write(*buffers)
            file.sync()
        rename(part, path)
    except BaseException:
        unlink(part)
        raise
    sync_folder(path.parent)
