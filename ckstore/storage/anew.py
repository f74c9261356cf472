"""A journal made anew from what the packs hold, and the index as far as it can be read, where none can be read.

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
from ckstore.storage.index import Index
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
    """What was found: commits, branches put on those that nothing else leads to, and the segments set aside.

    With `names_kept` the index still knew the names and what was dropped.
    """

    commits: int
    branches: Mapping[str, str]
    segments: Sequence[str]
    names_kept: bool


def make_journal_anew(layout: Layout, branch: str = "main") -> JournalAnew:
    """Begin a new segment with a branch for every commit that nothing leads to; the old ones move to `quarantine/`.

    Where the index in the folder is lost as well, so is what only the journal said: names, and what was dropped and
    why; HEAD is then on the newest commit, or on unborn `branch`.
    Raises `InvalidInput` where the journal can be read, `Locked`, `SaveFailed`.
    """
    id = read_format(layout)
    with ExitStack() as stack:
        for lock in (layout.gc_lock, layout.lock):
            stack.enter_context(FileLock(lock).held(0.0))
        durable.make_folder(layout.journal)
        durable.make_folder(layout.quarantine)
        journal = Journal(layout.journal)
        _check_lost(journal)
        found = _Found(layout, _known(layout, id))
        segments = journal.segments()
        _, seq, previous = FIRST
        number = max(segments, default=0) + 1
        journal.begin(number, found.snapshot(branch), found.seq or seq, previous)
        names = [journal.path(segment).name for segment in segments]
        set_aside(layout, layout.journal, names)
    branches = {name: tip.hex() for name, tip in found.branches.items()}
    return JournalAnew(len(found.commits), branches, tuple(names), found.known is not None)


def _known(layout: Layout, repository_id: str) -> tuple[int, Snapshot] | None:
    """The last record that the index followed, and what all amounted to then; None where it cannot say."""
    if not (layout.index / "data.mdb").exists():
        return None
    try:
        index = Index(layout.index, repository_id)
    except CkstoreError:
        return None
    try:
        with index.reading() as view:
            cursor = view.cursor(index.id)
            return None if cursor is None else (cursor.seq, view.snapshot())
    except CkstoreError:
        return None
    finally:
        index.close()


def _check_lost(journal: Journal) -> None:
    """Raise `InvalidInput` unless the newest segment cannot be read."""
    try:
        journal.newest()
    except (OSError, CkstoreError):
        return
    raise InvalidInput("the journal can be read", hint="`ckstore repair` mends the rest")


class _Found:
    """Packs as they lie in the folder and as the index knew them, commits, and branches for those that nothing names.

    `seq` is the last record that the index followed.
    """

    def __init__(self, layout: Layout, known: tuple[int, Snapshot] | None) -> None:
        self.seq = known[0] if known else 0
        self.known = known[1] if known else None
        self._packs = PackFiles(layout)
        self._objects = ObjectStore(_nothing_known, self._packs, Workers(1), lambda: False)
        named = {} if self.known is None else {entry.name: entry for entry in self.known.packs}
        waiting = set() if self.known is None else {one.pack.name for one in self.known.condemned}
        self.entries = list(named.values())
        self.commits: dict[bytes, Commit] = {}
        self._new: set[bytes] = set()  # in packs that the index did not know
        try:
            for name in _names(layout):
                if name not in waiting:
                    self._take(name, new=name not in named)
        finally:
            self._packs.close()
        parents = {parent for commit in self.commits.values() for parent in commit.parents}
        refs = () if self.known is None else self.known.refs
        tips = self._new - parents - {ref.target for ref in refs}
        self.branches = {f"{RECOVERED}{id.hex()[:_SHORT]}": id for id in sorted(tips, key=self._age)}

    def _age(self, id: bytes) -> tuple[int, bytes]:
        return self.commits[id].time_ns, id

    def snapshot(self, branch: str) -> Snapshot:
        """What the new segment begins with."""
        if self.known is not None:
            refs = {ref.name: ref.target for ref in self.known.refs}
            refs |= {HEADS + name: id for name, id in self.branches.items()}
            known = tuple(Ref(name, target) for name, target in sorted(refs.items()))
            return Snapshot(tuple(self.entries), known, self.known.holes, self.known.condemned)
        head = next(reversed(self.branches), branch)
        tips = [Ref(HEADS + name, id) for name, id in sorted(self.branches.items())]
        return Snapshot(tuple(self.entries), (Ref(HEAD, Symbolic(HEADS + head)), *tips))

    def _take(self, name: bytes, *, new: bool) -> None:
        """A pack with its commits. A `new` one whose table is damaged is named with no digest: `repair` replaces it."""
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
        if new:
            self.entries.append(PackEntry(name, digest, source.size_bytes))
        for frame, offset in rows:
            if frame.kind is Kind.COMMIT:
                try:
                    data = self._objects.read_at(Location(name, offset, frame))
                    self.commits[frame.id] = decode_commit(data)
                    self._new |= {frame.id} if new else set()
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
