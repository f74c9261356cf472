"""Crash states: what a power cut may leave of a recorded run on a POSIX file system, and that on a real disk.

A state is a prefix of the operations. Of those not covered by a sync since, any may be missing; a write may
also be there in part: cut at any byte, or with its length but with some 512-byte sectors never written.

    covered                by a successful
    write, truncation      sync of the file, if none failed in between (a failed one drops them for good)
    name made or removed   fsync of its folder
    rename                 fsync of the folder it goes to; the old name may stay until that of the other
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.crash.operations import ROOT, Acknowledged, Cut, Indexed, Log, Make, Move, Remove, Sync, Write, brief

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.crash.operations import Operation
    from tests.crash.states import Label

SECTOR = 512


class CrashState(NamedTuple):
    """What a power cut after `prefix` operations left.

    `missing` are operations without effect, `torn` writes replaced by their surviving parts, `doubled` renames
    whose old name is still there; `copy` is the index (None: lost). `leaks` are names of files that may stay for
    ever: the folder of their save was lost, what was renamed out of it was not (ext4 and xfs keep the order).
    """

    prefix: int
    missing: frozenset[int]
    torn: Mapping[int, Sequence[Write]]
    doubled: frozenset[int]
    copy: int | None
    acknowledged: Mapping[str, Label]
    leaks: frozenset[str]

    def described(self, log: Log) -> str:
        """The state in a few lines, for whoever has to find out what went wrong."""
        names = {"missing": self.missing, "torn": self.torn, "doubled": self.doubled}
        lines = [f"{what} {n}: {brief(log.operations[n])}" for what, which in names.items() for n in sorted(which)]
        last = brief(log.operations[self.prefix - 1]) if self.prefix else "nothing"
        return "\n".join([f"power cut after {self.prefix} operations ({last}), index copy {self.copy}", *lines])


def crash_state(log: Log, prefix: int, rng: random.Random) -> CrashState:
    """One of the states that `prefix` operations may leave."""
    done = log.operations[:prefix]
    loose = [n for n, operation in enumerate(done) if _may_be_missing(done, n, operation)]
    missing = frozenset(_some(loose, rng))
    kept = [(n, done[n]) for n in loose if n not in missing]
    torn = {n: _torn(write, rng) for n, write in kept if isinstance(write, Write) and rng.random() < 0.5}
    moves = [n for n, operation in enumerate(done) if isinstance(operation, Move) and n not in missing]
    doubled = [n for n in moves if _may_keep_old_name(done, n) and rng.random() < 0.2]
    copies = [operation.copy for operation in done if isinstance(operation, Indexed)]
    return CrashState(
        prefix,
        missing,
        torn,
        frozenset(doubled),
        _index(copies, rng),
        {operation.id: operation.name for operation in done if isinstance(operation, Acknowledged)},
        frozenset(name for n in missing for name in _forgotten(done, n)),
    )


def _some(loose: list[int], rng: random.Random) -> list[int]:
    """None, one, all, or any of `loose`."""
    choice = rng.randrange(4)
    if not loose or choice == 0:
        return []
    if choice == 1:
        return [rng.choice(loose)]
    return loose if choice == 2 else [n for n in loose if rng.random() < 0.5]


def _index(copies: list[int], rng: random.Random) -> int | None:
    """Mostly the newest copy; sometimes an older one, as of a host that lags; sometimes none."""
    choice = rng.randrange(8)
    if not copies or choice == 0:
        return None
    return copies[-1] if choice < 6 else rng.choice(copies)


def _may_be_missing(done: Sequence[Operation], n: int, operation: Operation) -> bool:
    if isinstance(operation, (Write, Cut)):
        syncs = [later.ok for later in done[n:] if isinstance(later, Sync) and later.inode == operation.inode]
        return syncs[:1] != [True]
    if isinstance(operation, (Make, Move, Remove)):
        return not _synced(done[n:], operation.folder)
    return False


def _forgotten(done: Sequence[Operation], n: int) -> Iterator[str]:
    """What nobody looks for where the folder of a save, made by operation `n`, is lost: its packs and segments."""
    made = done[n]
    if not isinstance(made, Make) or not made.is_folder:
        return
    alone = True  # until another folder is made: a segment may then be of either
    for one in done[n + 1 :]:
        alone = alone and not (isinstance(one, Make) and one.is_folder)
        is_pack = isinstance(one, Move) and one.source == made.inode
        if isinstance(one, (Make, Move)) and (is_pack or (alone and one.name.endswith(".part"))):
            yield one.name


def _may_keep_old_name(done: Sequence[Operation], n: int) -> bool:
    move = done[n]
    return isinstance(move, Move) and move.source != move.folder and not _synced(done[n:], move.source)


def _synced(operations: Sequence[Operation], inode: int) -> bool:
    return any(isinstance(one, Sync) and one.ok and one.inode == inode for one in operations)


def _torn(write: Write, rng: random.Random) -> list[Write]:
    """What is left of a write: its beginning, or all but some of its sectors, with its length."""
    inode, offset, data = write
    if rng.random() < 0.5:
        return [Write(inode, offset, data[: rng.randrange(len(data))])]
    bounds = [0, *range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
    parts = [Write(inode, offset + start, data[start:stop]) for start, stop in pairwise(bounds)]
    lost = {rng.randrange(len(parts))} | {n for n in range(len(parts)) if rng.random() < rng.choice((0.1, 0.5))}
    length = Write(inode, offset + len(data), b"")
    return [*(part for n, part in enumerate(parts) if n not in lost), length]


class _Disk:
    """Inodes in memory."""

    def __init__(self) -> None:
        self.names: dict[int, dict[str, int]] = {ROOT: {}}
        self.files: dict[int, bytearray] = {}

    def apply(self, operation: Operation, *, doubled: bool = False) -> None:
        if isinstance(operation, Make):
            self.names.setdefault(operation.folder, {})[operation.name] = operation.inode
            if operation.is_folder:
                self.names.setdefault(operation.inode, {})
        elif isinstance(operation, Move):
            source = self.names.setdefault(operation.source, {})
            if not doubled and source.get(operation.source_name) == operation.inode:
                del source[operation.source_name]
            self.names.setdefault(operation.folder, {})[operation.name] = operation.inode
        elif isinstance(operation, Remove):
            self.names.setdefault(operation.folder, {}).pop(operation.name, None)
        elif isinstance(operation, Write):
            content = self.files.setdefault(operation.inode, bytearray())
            end = operation.offset + len(operation.data)
            content.extend(bytes(max(0, end - len(content))))
            content[operation.offset : end] = operation.data
        elif isinstance(operation, Cut):
            content = self.files.setdefault(operation.inode, bytearray())
            content.extend(bytes(max(0, operation.size_bytes - len(content))))
            del content[operation.size_bytes :]

    def write_out(self, folder: Path, inode: int = ROOT) -> None:
        folder.mkdir()
        for name, child in self.names[inode].items():
            if child in self.names:
                self.write_out(folder / name, child)
            else:
                (folder / name).write_bytes(self.files.get(child, b""))


def materialise(log: Log, state: CrashState, folder: Path, index: str) -> None:
    """Write a crash state to `folder`, which must not be there; `index` is where LMDB's folder lies in it."""
    disk = _Disk()
    for n, operation in enumerate(log.operations[: state.prefix]):
        if n not in state.missing:
            for part in state.torn.get(n, [operation]):
                disk.apply(part, doubled=n in state.doubled)
    disk.write_out(folder)
    where = folder / index
    if state.copy is not None and where.parent.is_dir():
        where.mkdir()
        (where / "data.mdb").write_bytes(log.copies[state.copy])
