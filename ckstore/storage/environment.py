"""The LMDB environment behind an index: opened once a process, anew in a forked child; its errors typed.

The only place that knows lmdb.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import lmdb

from ckstore import durable
from ckstore.errors import Integrity, SaveFailed, StoreFull
from ckstore.storage.lmdb_file import is_mappable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAP_SIZE = 64 << 30
"""Bytes of address space the environment may grow into; the file is only as long as its content."""

Transaction = lmdb.Transaction
Table = lmdb._Database

TABLES = ("frames", "spares", "commits", "packs", "condemned", "refs", "holes", "journal", "meta")

_WANTING = {
    errno.ENOMEM: f"allow {MAP_SIZE >> 30} GiB of address space (`ulimit -v unlimited`); it takes no memory",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "this machine has too many files open",
}

_LOCK_TABLE_SIZE = 36 << 10  # of LMDB's table of 512 readers, which it maps for writing


class IndexDamaged(Integrity):
    """The index cannot be believed; packs and journal can. Rebuild it."""


class Shared:
    """One LMDB environment for all Index objects of this process over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users = 0
        self.pid = os.getpid()
        self.tables: dict[str, lmdb._Database] = {}
        self.environment = self._open()

    def _open(self) -> lmdb.Environment:
        existed = self.folder.exists()
        if not is_mappable(self.folder / "data.mdb"):
            raise IndexDamaged(f"the index in {self.folder} is cut short")
        durable.make_folder(self.folder)
        durable.reserve(self.folder / "lock.mdb", _LOCK_TABLE_SIZE)
        with _starved(self.folder):
            environment = lmdb.open(
                str(self.folder),
                map_size=MAP_SIZE,
                max_dbs=len(TABLES),
                sync=True,
                writemap=False,
                max_readers=512,
                create=False,  # the folder is there
            )
        environment.reader_check()
        with environment.begin(write=True) as transaction:
            # All at once, so that one that is missing later has been lost.
            fresh = not environment.stat()["entries"]
            self.tables = {name: environment.open_db(name.encode(), transaction, create=fresh) for name in TABLES}
        if not existed:
            durable.sync_folder(self.folder)
            durable.sync_folder(self.folder.parent)
        return environment

    def current(self) -> lmdb.Environment:
        """The environment of this process; a forked child's is its own."""
        if self.pid != os.getpid():
            with REGISTRY.lock:
                if self.pid != os.getpid():
                    self.environment.close()
                    self.environment = self._open()
                    self.pid = os.getpid()
        return self.environment

    def begin(self, *, write: bool = False) -> lmdb.Transaction:
        """A transaction; in a new environment where LMDB has given the old one up."""
        environment = self.current()
        try:
            return environment.begin(write=write)
        except lmdb.PanicError:
            return self.reopen(environment).begin(write=write)

    def reopen(self, broken: lmdb.Environment) -> lmdb.Environment:
        """Replace an environment that LMDB has given up after a failed write of its root."""
        with REGISTRY.lock:
            if self.environment is broken:
                broken.close()
                self.environment = self._open()
            return self.environment

    def renew(self, damaged: lmdb.Environment) -> None:
        """Begin with empty files in place of those that LMDB can neither read nor empty.

        Whoever has the old ones open goes on with them, and follows the journal there.
        """
        with REGISTRY.lock:
            if self.environment is damaged:
                damaged.close()
                for name in ("data.mdb", "lock.mdb"):
                    (self.folder / name).unlink(missing_ok=True)
                self.environment = self._open()


class Registry:
    """The environments open in this process, by the folder's real path: LMDB forbids a second one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shared: dict[str, Shared] = {}


REGISTRY = Registry()
LMDB_ERROR = lmdb.Error
"""What LMDB raises; `typed` makes it ours."""


def _fresh_lock() -> None:
    REGISTRY.lock = threading.Lock()


os.register_at_fork(after_in_child=_fresh_lock)


@contextmanager
def _starved(folder: Path) -> Iterator[None]:
    """An index that cannot be opened for want of memory or descriptors is not damaged."""
    try:
        yield
    except lmdb.Error as error:
        for number, hint in _WANTING.items():
            if os.strerror(number) in str(error):
                what = f"cannot open the index in {folder}: {os.strerror(number)}"
                raise SaveFailed(what, hint=hint) from error
        raise


@contextmanager
def lmdb_errors() -> Iterator[None]:
    """What LMDB says, as our errors."""
    try:
        yield
    except lmdb.Error as error:
        raise typed(error) from error


def typed(error: lmdb.Error) -> StoreFull | IndexDamaged:
    """What LMDB says, as our error."""
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(f"the index has reached its {MAP_SIZE >> 30} GiB", hint="run `ckstore gc`")
    if isinstance(error, lmdb.DiskError):
        return StoreFull(f"cannot write the index: {error}", hint="free some space, then try again")
    return IndexDamaged(f"the index cannot be used: {error}")


@contextmanager
def write_errors() -> Iterator[None]:
    """What the system says of a write is no damage to the index."""
    try:
        yield
    except lmdb.Error as error:
        if type(error) is not lmdb.Error:
            raise
        if os.strerror(errno.ENOSPC) in str(error):
            raise StoreFull(f"cannot write the index: {error}", hint="free some space, then try again") from error
        raise SaveFailed(
            f"cannot write the index: {error}", hint="check the disk (`dmesg`), then save again"
        ) from error
