"""fetch: what a repository lacks of a remote's commits is brought here; refs move last, in one record with the holes.

Survey, walk, bring packs, move refs. Where gc on either side was faster, it begins again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import Conflict, Format, Integrity, InvalidInput, NotFound, nearest
from ckstore.progress import SILENT
from ckstore.storage.record import FETCH, HEADS, NOT_FETCHED, REMOTES, SHALLOW, TAGS, Hole, Record, RefMove
from ckstore.sync.histories import ancestors_here
from ckstore.sync.needs import Need, add_tree, needs_of
from ckstore.sync.reader import RemoteReader
from ckstore.sync.survey import survey
from ckstore.sync.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.sync.local import Local
    from ckstore.sync.survey import Survey

MAX_NAME_BYTES = 400
"""Of a component: an index has no room for longer ones."""

_TRIES = 20


@dataclass(frozen=True)
class FetchRequest:
    """What to fetch from the remote that is called `name` here.

    `branches` by their short names (None: all), and all tags that are not here yet. Of new commits only the components
    `only` (None: all), or with `metadata` none; only of the newest `depth` commits of each branch anything but the
    commits themselves. With `prune` branches that are not there any more lose their remotes/NAME/BRANCH here.
    """

    name: str
    time_ns: int
    branches: Collection[str] | None = None
    only: Collection[str] | None = None
    depth: int | None = None
    metadata: bool = False
    prune: bool = False
    dry_run: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class Fetched:
    """What a fetch did, or in a dry run would do: how refs moved here, frames and their payloads that came, new holes.

    `branches` are the remote's by short name, `head` is the one that a clone stands on.
    """

    moves: tuple[RefMove, ...]
    commits: int = 0
    objects: int = 0
    stored_bytes: int = 0
    requests: int = 0
    holes: int = 0
    generation: int = 0
    head: str | None = None
    repository: str = ""
    record: int | None = None


def fetch(remote: Remote, local: Local, request: FetchRequest, progress: Progress = SILENT) -> Fetched:
    """Bring a remote's commits here and move the refs that follow it.

    Raises `NotFound` for a branch that is not there, `Integrity` or `Format` where something there is damaged or
    hostile, and where the remote is older than it was; `Conflict` where refs here are moved, or gc works, all the time;
    whatever the remote raises. Nothing that is not verified is adopted; a fetch that fails has moved no ref, and the
    next one goes on behind what it has brought.
    """
    failure: Conflict | NotFound | None = None
    for _ in range(_TRIES):
        found = survey(remote, local, foreign=request.foreign, older=request.older)
        try:
            return _Fetch(found, request, progress).run()
        except NotFound as error:
            root = remote.read_root()
            if (None if root is None else root.version) == found.version:
                raise
            failure = error
        except Conflict as error:
            failure = error
    assert failure is not None
    raise failure


class _Fetch:
    """One try of a fetch."""

    def __init__(self, found: Survey, request: FetchRequest, progress: Progress) -> None:
        self._survey = found
        self._local = found.local
        self._request = request
        self._progress = progress
        self._watch = found.local.watch()
        self._targets = found.local.targets()

    def run(self) -> Fetched:
        request, contents = self._request, self._survey.contents
        said = {"generation": contents.generation, "head": contents.head, "repository": contents.repository.hex()}
        if not contents.generation:
            raise NotFound(f"{self._survey.remote.url} holds nothing yet", hint="`ckstore push` sends something there")
        wanted = self._wanted()
        moves = self._moves(wanted)
        tips = [move.new for move in moves if isinstance(move.new, bytes)]
        seen = ancestors_here(self._local, [id for id in self._targets.values() if isinstance(id, bytes)])
        if not moves or all(tip in seen for tip in tips):
            record = None if request.dry_run else self._settle(moves, [], {})
            return Fetched(tuple(moves), record=record, **said)  # type: ignore[arg-type]
        reader = RemoteReader(self._survey.remote, self._local, self._survey.catalog, jobs=request.jobs)
        commits = walk(reader.commit, tips, seen)
        self._check_only(commits)
        holes = self._holes(commits)
        absent = {(hole.commit, hole.component) for hole in holes}
        ordered = [(id, commit) for id, (commit, _) in reversed(commits.items())]
        needs = needs_of(reader, ordered, lambda id, name: (id, name) in absent)
        transfer = Transfer(self._survey.remote, self._local, self._survey.catalog, needs)
        figures = (len(commits), len(transfer.places), transfer.stored_bytes, len(transfer.ranges()), len(holes))
        record = None
        if not request.dry_run:
            transfer.run(request.time_ns, request.jobs, self._progress)
            record = self._settle(moves, holes, needs)
        return Fetched(tuple(moves), *figures, record=record, **said)  # type: ignore[arg-type]

    def _wanted(self) -> dict[str, bytes]:
        """The commits of refs here, by full name, that follow the remote's."""
        branches = {name.removeprefix(HEADS): id for name, id in self._survey.refs.items() if name.startswith(HEADS)}
        chosen = self._request.branches
        for name in chosen or ():
            if name not in branches:
                raise NotFound(
                    f"{self._survey.remote.url} has no branch {name!r}", hint=f"it has {', '.join(sorted(branches))}"
                )
        prefix = f"{REMOTES}{self._request.name}/"
        wanted = {prefix + name: id for name, id in branches.items() if chosen is None or name in chosen}
        tags = {name: id for name, id in self._survey.refs.items() if name.startswith(TAGS)}
        if chosen is not None:
            return wanted
        return wanted | {name: id for name, id in tags.items() if name not in self._targets}

    def _moves(self, wanted: Mapping[str, bytes]) -> list[RefMove]:
        moves = [RefMove(name, self._targets.get(name), id) for name, id in sorted(wanted.items())]
        if self._request.prune:
            prefix = f"{REMOTES}{self._request.name}/"
            gone = [name for name in self._targets if name.startswith(prefix)]
            names = {prefix + name.removeprefix(HEADS) for name in self._survey.refs if name.startswith(HEADS)}
            moves += [RefMove(name, self._targets[name], None) for name in gone if name not in names]
        return [move for move in moves if move.old != move.new]

    def _holes(self, commits: Mapping[bytes, tuple[Commit, int]]) -> list[Hole]:
        """What of new commits will be absent here: absent there, or not asked for, and not here by chance."""
        pointer = self._survey.contents.state
        there = self._survey.holes if pointer is not None and pointer.holes else {}
        holes = []
        for id, (commit, depth) in commits.items():
            for component in commit.named():
                reason = there.get(id, {}).get(component.name) or self._left_out(component.name, depth)
                if reason is not None and not self._is_here(component.tree, component.name):
                    holes.append(Hole(id, component.name, reason))
        return holes

    def _check_only(self, commits: Mapping[bytes, tuple[Commit, int]]) -> None:
        """Raise `InvalidInput` where a first fetch asks for components that no commit has: it would bring nothing."""
        only, prefix = self._request.only, f"{REMOTES}{self._request.name}/"
        if only is None or any(name.startswith(prefix) for name in self._targets):
            return
        there = sorted({component.name for commit, _ in commits.values() for component in commit.components})
        if not set(only) & set(there):
            wanted = min(only, default="")
            hint = nearest(wanted, there) or f"there are {', '.join(there)}"
            raise InvalidInput(f"no commit on {self._survey.remote.url} has a component {wanted!r}", hint=hint)

    def _left_out(self, component: str, depth: int) -> str | None:
        request = self._request
        if request.depth is not None and depth >= request.depth:
            return SHALLOW
        chosen = component.startswith("@") or request.only is None or component in request.only
        return NOT_FETCHED if request.metadata or not chosen else None

    def _is_here(self, tree: bytes, component: str) -> bool:
        if not self._local.known([tree]):
            return False
        needs: dict[bytes, Need] = {}
        try:
            add_tree(needs, self._local, tree, component)
        except Integrity:
            return False
        return len(self._local.known(needs)) == len(needs)

    def _settle(self, moves: Sequence[RefMove], holes: Sequence[Hole], needs: Collection[bytes]) -> int | None:
        """Move the refs. Raises `Conflict` where they have moved, or gc has taken what they need."""

        def check() -> None:
            if self._watch() and (not needs or len(self._local.known(needs)) != len(needs)):
                raise Conflict("gc has taken what was fetched before its branch was there", hint="fetch again")

        record = None
        if moves:
            with self._local.incoming() as incoming:
                said = Record(self._request.time_ns, FETCH, refs=tuple(moves), holes=tuple(holes))
                record = incoming.publish(said, check)
        self._survey.note()
        return record


def walk(read: Callable[[bytes], Commit], tips: Sequence[bytes], seen: set[bytes]) -> dict[bytes, tuple[Commit, int]]:
    """The commits that are not in `seen`, each with how many steps it is from the nearest tip; those first."""
    found: dict[bytes, tuple[Commit, int]] = {}
    pending = deque((tip, 0) for tip in tips)
    while pending:
        id, depth = pending.popleft()
        if id not in found and id not in seen:
            commit = read(id)
            if any(len(component.name.encode()) > MAX_NAME_BYTES for component in commit.components):
                raise Format(f"the commit {id.hex()[:12]} has a component with too long a name")
            found[id] = (commit, depth)
            pending += ((parent, depth + 1) for parent in commit.parents)
    return found
