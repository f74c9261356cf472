"""A journal made anew from what the packs hold, where none can be read and no index knows better.

It works on the folder alone: such a repository cannot be opened.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckstore import durable
from ckstore.digest import ID_SIZE, Kind
from ckstore.errors import CkstoreError, CkstoreWarning, Format, Integrity, InvalidInput, SaveFailed
from ckstore.lock import FileLock
from ckstore.objects.encoding import decode_commit
from ckstore.pack.format import NAME_SIZE
from ckstore.pack.reader import read_sealed, recover
from ckstore.storage.collector import set_aside
from ckstore.storage.journal import FIRST, Journal
from ckstore.storage.layout import read_format
from ckstore.storage.location import Location
from ckstore.storage.object_store import ObjectStore
from ckstore.storage.pack_file import PackFiles
from ckstore.storage.record import HEAD, HEADS, PackEntry, Ref, Snapshot, Symbolic
from ckstore.storage.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.pack.format import Row
    from ckstore.storage.layout import Layout
    from ckstore.storage.view import View

T = TypeVar("T")
RECOVERED = "recovered/"
"""What names of branches begin with that a journal made anew puts on commits without a child."""

_SHORT = 12


@dataclass(frozen=True)
class JournalAnew:
    """What was found: commits, and the branches put on those that no other names as its parent; segments set aside."""

    commits: int
    branches: Mapping[str, str]
    segments: Sequence[str]


def make_journal_anew(layout: Layout, branch: str = "main") -> JournalAnew:
    """Begin a new segment with a branch for every commit without a child; HEAD is on the newest, or on unborn `branch`.

    The old segments move to `quarantine/`. What only the journal said is lost: names, what was dropped and why.
    Raises `InvalidInput` where the journal can be read, `Locked`, `SaveFailed`.
    """
    read_format(layout)
    with ExitStack() as stack:
        for lock in (layout.gc_lock, layout.lock):
            stack.enter_context(FileLock(lock).held(0.0))
        durable.make_folder(layout.journal)
        durable.make_folder(layout.quarantine)
        journal = Journal(layout.journal)
        _check_lost(journal)
        found = _Found(layout)
        segments = journal.segments()
        _, seq, previous = FIRST
        number = max(segments, default=0) + 1
        journal.begin(number, found.snapshot(branch), seq, previous)
        names = [journal.path(segment).name for segment in segments]
        set_aside(layout, layout.journal, names)
    return JournalAnew(len(found.commits), {name: id.hex() for name, id in found.branches.items()}, tuple(names))


def _check_lost(journal: Journal) -> None:
    """Raise `InvalidInput` unless the newest segment cannot be read."""
    try:
        journal.newest()
    except (OSError, CkstoreError):
        return
    raise InvalidInput("the journal can be read", hint="`ckstore repair` mends the rest")


class _Found:
    """Packs as they lie in the folder, commits, and branches for those without a child."""

    def __init__(self, layout: Layout) -> None:
        self._packs = PackFiles(layout)
        self._objects = ObjectStore(_nothing_known, self._packs, Workers(1), lambda: False)
        self.entries: list[PackEntry] = []
        self.commits: dict[bytes, Commit] = {}
        try:
            for name in _names(layout):
                self._take(name)
        finally:
            self._packs.close()
        parents = {parent for commit in self.commits.values() for parent in commit.parents}
        tips = sorted(self.commits.keys() - parents, key=lambda id: (self.commits[id].time_ns, id))
        self.branches = {f"{RECOVERED}{id.hex()[:_SHORT]}": id for id in tips}

    def snapshot(self, branch: str) -> Snapshot:
        """What the new segment begins with."""
        head = next(reversed(self.branches), branch)
        refs = [Ref(HEADS + name, id) for name, id in sorted(self.branches.items())]
        return Snapshot(tuple(self.entries), (Ref(HEAD, Symbolic(HEADS + head)), *refs))

    def _take(self, name: bytes) -> None:
        """A pack with its commits. One whose table is damaged is named with no digest: `repair` replaces it."""
        try:
            source = self._packs.get(name)
            rows: Sequence[Row]
            try:
                sealed = read_sealed(source)
                digest, rows = (sealed.digest if sealed.name == name else bytes(ID_SIZE)), sealed.rows
            except Format:
                digest, rows = bytes(ID_SIZE), list(recover(source))
        except OSError as error:
            raise SaveFailed(f"cannot read pack {name.hex()}: {error.strerror}", hint="check the disk") from error
        self.entries.append(PackEntry(name, digest, source.size_bytes))
        for frame, offset in rows:
            if frame.kind is Kind.COMMIT:
                try:
                    data = self._objects.read_at(Location(name, offset, frame))
                    self.commits[frame.id] = decode_commit(data)
                except (Integrity, Format) as error:
                    warnings.warn(f"commit {frame.id.hex()} cannot be read: {error.what}", CkstoreWarning, 2)


def _names(layout: Layout) -> Iterator[bytes]:
    """Names of the packs in the folder, the oldest file first."""
    paths = sorted(layout.packs.glob("*.pack"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for path in paths:
        with suppress(ValueError):
            name = bytes.fromhex(path.stem)
            if len(name) == NAME_SIZE:
                yield name


def _nothing_known(question: Callable[[View], T]) -> T:
    raise AssertionError("a commit is no delta")
