"""gc of a remote: what its refs do not need is condemned by a swap of the root, and deleted once the grace is over.

Whoever relied on something condemned loses the swap, and sends it again under a new name; names are never used again.
Objects that no root names (packs of a push that was given up, segments that were merged) are condemned too, once they
are older than the grace: a push under way has sent them and will name them soon. All times are the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.digest import NO_ID
from ckstore.errors import Conflict, Integrity, InvalidInput, NotFound
from ckstore.graph.history import reachable
from ckstore.progress import SILENT
from ckstore.remote.state import CondemnedObject, RemoteHole
from ckstore.sync.chains import Chains
from ckstore.sync.levels import split
from ckstore.sync.needs import needs_of
from ckstore.sync.publish import following, put_segments, put_state, swap
from ckstore.sync.reader import RemoteReader
from ckstore.sync.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote, Stat
    from ckstore.remote.root import SegmentPointer
    from ckstore.sync.levels import NewSegment
    from ckstore.sync.local import Local
    from ckstore.sync.survey import Survey

FOLDERS = ("packs/", "index/", "state/")
_TRIES = 64


@dataclass(frozen=True)
class PruneRequest:
    """What to drop besides what no ref needs: `holes` name components of commits, each with a reason.

    `grace_ns` is how long what is condemned stays, by the server's clock.
    """

    grace_ns: int
    holes: Collection[tuple[bytes, str, str]] = ()
    dry_run: bool = False
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class Pruned:
    """What a gc of a remote did, or in a dry run would do: objects condemned and deleted, and their bytes.

    `left_bytes` nothing needs, but they lie in packs that are needed.
    """

    condemned: int
    condemned_bytes: int
    deleted: int
    deleted_bytes: int
    left_bytes: int
    holes: int
    waiting: int
    generation: int


def prune(
    remote: Remote,
    local: Local,
    request: PruneRequest,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> Pruned:
    """Condemn what a remote does not need, delete what was condemned before and has waited long enough.

    Raises `Integrity` where an object that is needed is missing: then nothing is condemned. Raises `Conflict` where
    others move the root all the time, and whatever the remote raises. May be interrupted at any moment.
    """
    if request.grace_ns < 0:
        raise InvalidInput("the grace time is negative", hint="give a span such as 7d, or 0")
    for tries in range(_TRIES):
        if tries:
            pause(tries)
        found = survey(remote, local, foreign=request.foreign, older=request.older)
        if not found.contents.generation:
            raise NotFound(f"{remote.url} holds nothing yet", hint="`ckstore push` sends something there")
        try:
            done = _Prune(found, request, progress).run()
        except NotFound:
            root = remote.read_root()
            if root is not None and root.version == found.version:
                raise
            continue
        if done is not None:
            return done
    raise Conflict(f"others kept moving the root of {remote.url}", hint="try again")


class _Prune:
    """One try."""

    def __init__(self, found: Survey, request: PruneRequest, progress: Progress) -> None:
        self._survey = found
        self._remote = found.remote
        self._request = request
        self._progress = progress
        self._now_ns = found.remote.clock_ns()

    def run(self) -> Pruned | None:
        """Do it all; None where somebody else moved the root first."""
        survey, request = self._survey, self._request
        contents, state = survey.contents, survey.state
        listed = [one for folder in FOLDERS for one in self._remote.list(folder)]
        reader = RemoteReader(self._remote, survey.local, survey.catalog)
        commits = reachable(survey.refs.values(), reader.commit)
        holes = self._holes(commits)
        needed = self._needed(reader, commits, {(hole.commit, hole.component) for hole in holes})
        used = {survey.catalog.locate(id).pack for id in needed}  # type: ignore[union-attr]
        packs = survey.catalog.packs
        unused = {name for name in packs if name not in used}
        pointers, segments = self._without(unused)
        named = {pointer.name for pointer in pointers} | {packs[name].object_name for name in used}
        due = [
            one for one in state.condemned if self._now_ns - one.since_ns >= request.grace_ns and one.name not in named
        ]
        waiting = [one for one in state.condemned if one not in due]
        going = self._condemned(listed, named, {packs[name].object_name for name in unused})
        result = Pruned(
            condemned=len(going),
            condemned_bytes=sum(one.size_bytes for one in going),
            deleted=len(due),
            deleted_bytes=sum(one.size_bytes for one in due),
            left_bytes=self._left(used, needed),
            holes=len(holes) - len(set(state.holes) & set(holes)),
            waiting=len(waiting) + len(going),
            generation=contents.generation,
        )
        changed = bool(going or due or segments or set(holes) != set(state.holes))
        if request.dry_run or not changed:
            return result
        if due:
            self._remote.delete([one.name for one in due])
        put_segments(survey, segments)
        pointer = put_state(survey, holes, [*waiting, *going])
        after = following(contents, survey.refs, pointers, pointer, contents.head)
        if not swap(survey, after):
            return None
        return result

    def _holes(self, commits: Mapping[bytes, Commit]) -> list[RemoteHole]:
        """The holes of commits that are reached, with those that were asked for."""
        holes = {(hole.commit, hole.component): hole for hole in self._survey.state.holes if hole.commit in commits}
        for id, name, reason in self._request.holes:
            if id not in commits or name not in [component.name for component in commits[id].named()]:
                raise InvalidInput(f"{self._remote.url} has no component {name!r} of {id.hex()[:12]}")
            holes.setdefault((id, name), RemoteHole(id, name, reason))
        return list(holes.values())

    def _needed(
        self, reader: RemoteReader, commits: Mapping[bytes, Commit], absent: Collection[tuple[bytes, str]]
    ) -> set[bytes]:
        """Every object that commits need, and what those are kept against. Raises `Integrity` where one is missing."""
        needs = needs_of(reader, commits.items(), lambda id, name: (id, name) in absent)
        chains = Chains(self._survey.catalog.locate)
        needed: set[bytes] = set()
        for id in needs:
            reached = chains.reach(id)
            if reached is None:
                raise Integrity(
                    f"object {id.hex()} is missing on {self._remote.url}",
                    why="where something is missing nothing is removed",
                    hint="`ckstore repair --remote` mends what is here",
                )
            while reached is not None and reached.frame.id not in needed:
                needed.add(reached.frame.id)
                base = reached.frame.base
                reached = chains.reach(base) if base != NO_ID else None
        return needed

    def _without(self, unused: Collection[bytes]) -> tuple[list[SegmentPointer], list[NewSegment]]:
        """The pointers of a root that does not know some packs, and the segments that have to be sent for it."""
        catalog = self._survey.catalog
        pointers: list[SegmentPointer] = []
        sent: list[NewSegment] = []
        for pointer in catalog.pointers:
            segment = catalog.segment(pointer.digest)
            if not any(pack.name in unused for pack in segment.packs):
                pointers.append(pointer)
                continue
            places = (place for place in segment.places() if place.pack not in unused)
            new = list(split(places, {pack.name: pack for pack in segment.packs}, pointer.level))
            pointers += [one.pointer for one in new]
            sent += new
        return pointers, sent

    def _condemned(
        self, listed: Sequence[Stat], named: Collection[str], unused: Collection[str]
    ) -> list[CondemnedObject]:
        """What to condemn of all that is there: what the next root drops, and what none names once it is old enough.

        States by themselves are left alone: each gc that condemns them makes another one.
        """
        contents = self._survey.contents
        dropped = {pointer.name for pointer in contents.segments} | set(unused)
        if contents.state is not None:
            dropped.add(contents.state.name)
        known = {one.name for one in self._survey.state.condemned}
        going = []
        for one in listed:
            if one.name in named or one.name in known:
                continue
            if one.name in dropped or self._now_ns - one.modified_ns >= self._request.grace_ns:
                going.append(CondemnedObject(one.name, one.size_bytes, self._now_ns))
        return going if any(not one.name.startswith("state/") for one in going) else []

    def _left(self, used: Collection[bytes], needed: Collection[bytes]) -> int:
        places = self._survey.catalog.places()
        return sum(place.frame.stored_length for place in places if place.pack in used and place.frame.id not in needed)
