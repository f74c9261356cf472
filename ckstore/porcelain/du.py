"""du: what takes the space, by component and by branch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ckstore.digest import Kind
from ckstore.graph.history import ancestry
from ckstore.graph.reachability import objects_of_tree
from ckstore.graph.revision import resolve
from ckstore.pack.format import FRAME_HEADER_SIZE, ROW_SIZE
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckstore.objects.commit import Commit
    from ckstore.pack.format import Frame
    from ckstore.repository import Commits, Repository

_PER_OBJECT = FRAME_HEADER_SIZE + ROW_SIZE


@dataclass(frozen=True)
class DuOptions:
    """`revision`: only its history (None: all branches and tags)."""

    now_ns: int
    revision: str | None = None


@dataclass(frozen=True)
class DuRow:
    """A component or branch: how many commits have it, what they were given as, what that takes, and what of it
    nothing else needs. Bytes.
    """

    name: str
    commits: int
    raw_bytes: int
    stored_bytes: int
    own_bytes: int


@dataclass(frozen=True)
class DuResult:
    """Bytes given to all commits, and bytes that takes: each object once, with its frame.

    `disk_bytes` are all packs and the journal; `unreached_bytes` in packs no branch or tag leads to; `index_bytes` the
    index, which is a cache.
    """

    commits: int
    raw_bytes: int
    stored_bytes: int
    disk_bytes: int
    unreached_bytes: int
    index_bytes: int
    by_component: tuple[DuRow, ...]
    by_branch: tuple[DuRow, ...]


class _Trees:
    """The objects of each tree, read once."""

    def __init__(self, repository: Repository, frames: dict[bytes, Frame]) -> None:
        self._reader = repository.store.objects
        self._frames = frames
        self._known: dict[bytes, tuple[int, frozenset[bytes]]] = {}

    def of(self, id: bytes) -> tuple[int, frozenset[bytes]]:
        """The raw bytes of the chunks a tree names, each as often as it does, and the ids of all its objects."""
        if id not in self._known:
            named = list(objects_of_tree(self._reader, id))
            raw = sum(self._frames[one].raw_length for kind, one in named if kind is Kind.CHUNK and one in self._frames)
            self._known[id] = raw, frozenset(one for _, one in named)
        return self._known[id]


def du(repository: Repository, options: DuOptions) -> DuResult:
    """Count what is stored. Reads trees, no data. Raises `Integrity`, `NoRevision`."""
    commits = repository.commits()
    store = repository.store
    locations = store.ask(lambda view: list(view.locations()))
    frames = {location.frame.id: location.frame for location in locations}
    tips = dict(commits.refs)
    if options.revision is not None:
        tips = {options.revision: resolve(options.revision, commits, options.now_ns)}
    trees = _Trees(repository, frames)
    histories = {name: dict(ancestry([tip], commits.read_commit)) for name, tip in tips.items()}
    everything: dict[bytes, Commit] = {}
    for history in histories.values():
        everything |= history
    absent = repository.absent()
    everything = {id: _present(commit, absent.get(id, ())) for id, commit in everything.items()}
    histories = {name: {id: everything[id] for id in history} for name, history in histories.items()}
    components = _by_component(everything, trees, frames)
    reached = {one for id, commit in everything.items() for one in _objects(id, commit, trees)}
    packs = store.ask(View.packs)
    all_stored = _stored(frames, frames)
    stored = _stored(reached, frames)
    return DuResult(
        commits=len(everything),
        raw_bytes=sum(row.raw_bytes for row in components),
        stored_bytes=stored,
        disk_bytes=sum(pack.size_bytes for pack in packs) + store.journal_bytes,
        unreached_bytes=all_stored - stored if options.revision is None else 0,
        index_bytes=store.index_bytes,
        by_component=components,
        by_branch=_by_branch(commits, histories, trees, frames),
    )


def _present(commit: Commit, absent: Collection[str]) -> Commit:
    """A commit with the components that are here."""
    if not absent:
        return commit
    return replace(commit, components=tuple(entry for entry in commit.components if entry.name not in absent))


def _by_component(everything: dict[bytes, Commit], trees: _Trees, frames: dict[bytes, Frame]) -> tuple[DuRow, ...]:
    raw: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    objects: dict[str, set[bytes]] = defaultdict(set)
    for commit in everything.values():
        for component in commit.named():
            given, held = trees.of(component.tree)
            raw[component.name] += given
            count[component.name] += 1
            objects[component.name] |= held
    return _rows(raw, count, objects, frames)


def _by_branch(
    commits: Commits, histories: dict[str, dict[bytes, Commit]], trees: _Trees, frames: dict[bytes, Frame]
) -> tuple[DuRow, ...]:
    raw: dict[str, int] = {}
    count: dict[str, int] = {}
    objects: dict[str, set[bytes]] = {}
    for name, history in histories.items():
        short = name.partition("/")[2] if name in commits.refs else name
        if name in commits.refs and not name.startswith("heads/"):
            continue
        raw[short] = sum(trees.of(component.tree)[0] for commit in history.values() for component in commit.named())
        count[short] = len(history)
        objects[short] = {one for id, commit in history.items() for one in _objects(id, commit, trees)}
    return _rows(raw, count, objects, frames)


def _rows(
    raw: dict[str, int], count: dict[str, int], objects: dict[str, set[bytes]], frames: dict[bytes, Frame]
) -> tuple[DuRow, ...]:
    """A row for each name, the largest first."""
    users: dict[bytes, int] = defaultdict(int)
    for held in objects.values():
        for one in held:
            users[one] += 1
    rows = [
        DuRow(
            name,
            count[name],
            raw[name],
            _stored(held, frames),
            _stored((one for one in held if users[one] == 1), frames),
        )
        for name, held in objects.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.stored_bytes, row.name)))


def _objects(id: bytes, commit: Commit, trees: _Trees) -> set[bytes]:
    return {id}.union(*(trees.of(component.tree)[1] for component in commit.named()))


def _stored(ids: Iterable[bytes], frames: dict[bytes, Frame]) -> int:
    return sum(frames[id].stored_length + _PER_OBJECT for id in ids if id in frames)
