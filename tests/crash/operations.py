"""The log of a run: what was done to the disk, in order, by inode. Folders and files both have inode numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.crash.states import Label

ROOT = 0
"""The inode of the folder everything lies in; it is there from the start and is never lost."""


class Make(NamedTuple):
    """A new file or folder gets a name."""

    folder: int
    name: str
    inode: int
    is_folder: bool


class Move(NamedTuple):
    """`inode` goes from one name to another, atomically."""

    source: int
    source_name: str
    folder: int
    name: str
    inode: int


class Remove(NamedTuple):
    """A name goes: unlink or rmdir."""

    folder: int
    name: str


class Write(NamedTuple):
    inode: int
    offset: int
    data: bytes


class Cut(NamedTuple):
    """ftruncate."""

    inode: int
    size_bytes: int


class Sync(NamedTuple):
    """fsync or fdatasync of a file or folder. One that failed makes nothing durable, ever."""

    inode: int
    ok: bool
    process: int


class Acknowledged(NamedTuple):
    """The save of `name` returned."""

    id: str
    name: Label


class Indexed(NamedTuple):
    """LMDB committed; `copy` is the number of the copy made of its file."""

    copy: int


class Ended(NamedTuple):
    """The process ended here, perhaps killed; what follows is another's."""

    killed: bool


Operation = Make | Move | Remove | Write | Cut | Sync | Acknowledged | Indexed | Ended


def brief(operation: Operation) -> str:
    """One operation in a line."""
    if isinstance(operation, Write):
        return f"Write(inode={operation.inode}, offset={operation.offset}, {len(operation.data)} bytes)"
    return str(operation)


@dataclass
class Log:
    """Operations, and the copies of LMDB's file."""

    operations: list[Operation] = field(default_factory=list)
    copies: list[bytes] = field(default_factory=list)


def synced_again(log: Log) -> list[str]:
    """Files that a process synced once more after a failed sync: the kernel may have dropped what was written."""
    folders = {ROOT} | {one.inode for one in log.operations if isinstance(one, Make) and one.is_folder}
    failed: set[tuple[int, int]] = set()
    found = []
    for number, operation in enumerate(log.operations):
        if isinstance(operation, Sync) and operation.inode not in folders:
            which = (operation.process, operation.inode)
            if which in failed:
                found.append(f"operation {number} syncs inode {operation.inode} again after a failed sync")
            if not operation.ok:
                failed.add(which)
    return found
