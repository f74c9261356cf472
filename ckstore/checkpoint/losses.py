"""What of the commits that refs reach is lost, once it is known which frames are sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.checkpoint.absent import LOST
from ckstore.digest import NO_ID, Kind
from ckstore.errors import Format, Integrity
from ckstore.graph.history import unseen
from ckstore.graph.reachability import objects_of_tree, runs_of_tree
from ckstore.objects.encoding import decode_commit, encode
from ckstore.objects.tree import split_ids
from ckstore.pack.reader import read_sealed
from ckstore.storage.collector import Outdated
from ckstore.storage.examine import SoundReader
from ckstore.storage.record import HEAD, Filled, Hole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository
    from ckstore.storage.examine import Examined
    from ckstore.storage.record import PackEntry, Record


@dataclass
class Losses:
    """`holes` are components that are lost and not noted yet, `filled` those noted as lost that are all here.

    `commits` are lost commits by id, each with the refs and commits that lead to it; `copies` the bytes of those
    without a sound frame that the index still has. `objects` are needed and lost. `reached` are the others.
    """

    holes: list[Hole] = field(default_factory=list)
    filled: list[Filled] = field(default_factory=list)
    commits: dict[bytes, list[str]] = field(default_factory=dict)
    copies: dict[bytes, bytes] = field(default_factory=dict)
    objects: set[bytes] = field(default_factory=set)
    reached: set[bytes] = field(default_factory=set)


def losses(repository: Repository, commits: Commits, examined: Examined) -> Losses:
    """Walk everything that refs and HEAD reach but what is known to be absent for another reason.

    Raises `Format` for what a newer version wrote: that is not damage.
    """
    return _Walk(repository, commits, examined).found


class _Walk:
    def __init__(self, repository: Repository, commits: Commits, examined: Examined) -> None:
        self.found = Losses()
        self._commits = commits
        self._examined = examined
        self._reader = SoundReader(repository.store, examined)
        self._absent = repository.absent()
        self._trees: dict[bytes, set[bytes]] = {}
        heads = [] if commits.head is None or commits.head_name is not None else [(commits.head, HEAD)]
        pending = [*((id, name) for name, id in commits.refs.items()), *heads]
        while pending:
            id, leads = pending.pop()
            if id in self.found.commits:
                self.found.commits[id].append(leads)
                continue
            if id in self.found.reached:
                continue
            commit = self._read(id)
            if commit is None:
                self.found.commits[id] = [leads]
                continue
            self.found.reached.add(id)
            pending += [(parent, id.hex()) for parent in commit.parents]
            self._components(id, commit)

    def _read(self, id: bytes) -> Commit | None:
        """A commit, from the index where no frame is left; None where it is lost."""
        if id in self._examined.best:
            return decode_commit(self._reader.read(Kind.COMMIT, id))
        try:
            commit = self._commits.read_commit(id)
        except Integrity:
            return None
        self.found.copies[id] = encode(commit)
        return commit

    def _components(self, id: bytes, commit: Commit) -> None:
        absent = self._absent.get(id, {})
        for component in commit.named():
            reason = absent.get(component.name)
            if reason is not None and reason != LOST:
                continue
            lost = self._lost(component.tree)
            self.found.objects |= lost
            if lost and reason is None:
                self.found.holes.append(Hole(id, component.name, LOST))
            elif reason is not None and not lost:
                self.found.filled.append(Filled(id, component.name))

    def _lost(self, tree: bytes) -> set[bytes]:
        """What of a tree is lost, as far as it can be read."""
        lost = self._trees.get(tree)
        if lost is None:
            lost = self._trees[tree] = set()
            try:
                for run in runs_of_tree(self._reader, tree):
                    lost.update(id for id in split_ids(run.ids) if id not in self._examined.best)
            except Integrity:
                if not lost:
                    raise  # sound a moment ago
        return lost


class Meanwhile:
    """Called under the repository lock with the records since an examination. Raises `Outdated`.

    What was saved meanwhile must not rely on anything that is lost.
    """

    def __init__(self, repository: Repository, examined: Examined, found: Losses) -> None:
        self._repository = repository
        self._versions = {id: place.frame.version for id, place in examined.best.items()}
        self._versions |= dict.fromkeys(found.copies, 0)
        self._known = found.reached | set(found.commits)

    def __call__(self, records: Sequence[Record]) -> None:
        """Check packs and refs of `records`."""
        for record in reversed(records):
            for entry in record.packs:
                self._check_pack(entry)
        for record in records:
            for move in record.refs:
                if isinstance(move.new, bytes):
                    try:
                        self._check_commits(move.new)
                    except Integrity as error:
                        raise _outdated(f"{move.name} was put on what is lost") from error

    def _check_pack(self, entry: PackEntry) -> None:
        try:
            frames = [row.frame for row in read_sealed(self._repository.store.packs.get(entry.name)).rows]
        except (OSError, Format) as error:
            raise _outdated(f"pack {entry.name.hex()}, written meanwhile, cannot be read: {error}") from error
        for frame in sorted(frames, key=lambda frame: frame.version):
            if frame.base != NO_ID and self._versions.get(frame.base, frame.version) >= frame.version:
                raise _outdated("a commit made meanwhile is kept against what is lost")
            self._versions[frame.id] = min(frame.version, self._versions.get(frame.id, frame.version))

    def _check_commits(self, tip: bytes) -> None:
        objects = self._repository.store.objects
        for id, commit in unseen([tip], self._known, lambda id: decode_commit(objects.read(Kind.COMMIT, id))):
            for component in commit.named():
                if any(one not in self._versions for _, one in objects_of_tree(objects, component.tree)):
                    raise _outdated(f"{id.hex()[:12]}, committed meanwhile, needs what is lost")


def _outdated(what: str) -> Outdated:
    return Outdated(what, hint="run repair again")
