"""repair of a remote: what is damaged or missing there and sound here is sent anew; damaged packs are condemned.

Inspect everything, drop the damaged packs from the index, send in new packs what that leaves lacking, prove that all is
there, swap the root. Nothing shows before the swap; who loses it begins again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from ckstore.codec.preset import BALANCED
from ckstore.digest import payload_checksum
from ckstore.errors import CkstoreError, Conflict, Format, Integrity, NotFound
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.progress import SILENT
from ckstore.remote.segment import Place, RemotePack, pack_object
from ckstore.remote.source import Watched
from ckstore.remote.state import CondemnedObject, RemoteHole
from ckstore.storage.workers import Workers
from ckstore.sync.chains import Chains, extended
from ckstore.sync.holding import Holding
from ckstore.sync.inspect import Inspection
from ckstore.sync.levels import split
from ckstore.sync.needs import add_tree
from ckstore.sync.outgoing import Lacking, outgoing
from ckstore.sync.packing import Outgoing, PackSource, runs
from ckstore.sync.publish import following, put_segments, put_state, swap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from ckstore.codec.preset import Preset
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.remote.root import SegmentPointer
    from ckstore.sync.chains import Reached
    from ckstore.sync.levels import NewSegment
    from ckstore.sync.local import Local
    from ckstore.sync.needs import Need

LOST = "lost: damaged"
"""The reason of holes that this makes, as of those that repair makes here."""

_TRIES = 64


@dataclass(frozen=True)
class MendRequest:
    """How to repair a remote: `preset` is what new frames are encoded with, `jobs` transfers run at once."""

    jobs: int = 4
    preset: Preset = BALANCED
    dry_run: bool = False
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class Mended:
    """What was wrong with a remote, and what became of it; in a dry run what would.

    `packs` are condemned, by name, with what is wrong with each; `segments` of the index are made anew. `sent` objects
    came from here, `copied` ones were sound in packs that are condemned; `sent_bytes` is of the new packs. `lost`
    components (commit, name) could be read neither here nor there and are holes there now; so could `lost_commits`,
    which refs there still lead to.
    """

    packs: tuple[tuple[bytes, str], ...] = ()
    segments: int = 0
    sent: int = 0
    copied: int = 0
    sent_bytes: int = 0
    lost: tuple[tuple[bytes, str], ...] = ()
    lost_objects: int = 0
    lost_commits: tuple[bytes, ...] = ()
    generation: int = 0


def mend(
    remote: Remote,
    local: Local,
    request: MendRequest,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> Mended:
    """Repair a remote as far as what is here suffices.

    Raises `Integrity` or `Format` where its root is damaged, or older than when it was last seen: nothing here can say
    what it should be; `Conflict` where others move the root all the time; whatever the remote raises. May be
    interrupted at any moment and run again.
    """
    for tries in range(_TRIES):
        if tries:
            pause(tries)
        holding = Holding(remote, local, kept=True, foreign=request.foreign, older=request.older)
        done = _Mend(holding, local, request, progress).run()
        if done is not None:
            return done
    raise Conflict(f"others kept moving the root of {remote.url}", hint="try again")


class _Mend:
    """One try."""

    def __init__(self, holding: Holding, local: Local, request: MendRequest, progress: Progress) -> None:
        self._holding = holding
        self._remote = holding.survey.remote
        self._local = local
        self._request = request
        self._progress = progress
        self._found = Inspection(holding, local, request.jobs, progress, read_data=True)
        condemned = {one.name for one in holding.state.condemned}
        self._dropped = dict(self._found.faulty_packs)
        for name, pack in holding.packs.items():
            if pack.object_name in condemned:
                self._dropped.setdefault(name, "it is condemned")
        self._segments = [holding.catalog.segment(pointer.digest) for pointer in holding.catalog.pointers]
        self._new: dict[bytes, Place] = {}

    def run(self) -> Mended | None:
        """Do it all; None where somebody else moved the root first."""
        holding, contents = self._holding, self._holding.survey.contents
        needs = self._found.needs
        lacking = self._unreachable(needs, {})
        if not (self._dropped or holding.lost or holding.state_fault or lacking):
            commits = tuple(self._found.lost_commits)
            return Mended(lost_commits=commits, generation=contents.generation)
        here = {id for id, need in lacking.items() if self._is_here(id, need)}
        reach = Chains(self._locate).reach
        plan = Lacking(self._local, self._request.preset, reach, lambda id: self._locate(id) is not None)
        # What is gone first: with it back most of what hangs on it can be read as it lies there.
        gone = {id: need for id, need in lacking.items() if self._locate(id) is None}
        sendings = plan.sendings({id: need for id, need in gone.items() if id in here})
        copies = list(self._copies(plan, {id: need for id, need in gone.items() if id not in here}))
        rest = self._unreachable(lacking, plan.planned)
        sendings += plan.sendings({id: need for id, need in rest.items() if id in here})
        lost = self._unreachable(rest, plan.planned).keys()
        holes = self._lost_components(lost)
        sources = map(
            PackSource,
            map(list, runs(chain(outgoing(self._local, sendings, self._request.preset), copies))),
        )
        if self._request.dry_run:
            packs, sent_bytes = [], sum(source.size_bytes for source in sources)
        else:
            frames = [*(one.place.frame for one in sendings), *(one.frame for one in copies)]
            self._progress.start("sending", sum(frame.stored_length for frame in frames))
            packs = self._send(sources)
            sent_bytes = sum(pack.size_bytes for pack in packs)
        result = Mended(
            packs=tuple(self._dropped.items()),
            segments=len(holding.lost),
            sent=len(sendings),
            copied=len(copies),
            sent_bytes=sent_bytes,
            lost=tuple((hole.commit, hole.component) for hole in holes),
            lost_objects=len(lost),
            lost_commits=tuple(self._found.lost_commits),
            generation=contents.generation,
        )
        if self._request.dry_run:
            return result
        pointers, segments = self._index(packs)
        self._prove(needs, lost)
        put_segments(holding.survey, segments)
        state = put_state(holding.survey, [*holding.state.holes, *holes], self._condemned(pointers))
        after = following(contents, holding.survey.refs, pointers, state, contents.head)
        return result if swap(holding.survey, after) else None

    def _locate(self, id: bytes) -> Place | None:
        """Where an object lies once damaged packs are dropped."""
        best = self._new.get(id)
        for segment in self._segments:
            place = segment.find(id)
            if place is None or place.pack in self._dropped:
                continue
            if best is None or place.frame.version < best.frame.version:
                best = place
        return best

    def _unreachable(self, needs: Mapping[bytes, Need], planned: Mapping[bytes, Reached]) -> dict[bytes, Need]:
        """What cannot be read there once damaged packs are dropped, and the frames of `planned` are there."""

        def locate(id: bytes) -> Place | None:
            coming = planned.get(id)
            return self._locate(id) if coming is None else Place(b"", 0, coming.frame)

        reach = Chains(locate).reach
        return {id: need for id, need in needs.items() if reach(id) is None}

    def _is_here(self, id: bytes, need: Need) -> bool:
        """Whether an object is here, every byte of it sound."""
        if not self._local.known([id]):
            return False
        try:
            self._local.read(need.kind, id)
        except CkstoreError:
            return False
        return True

    def _copies(self, plan: Lacking, lacking: dict[bytes, Need]) -> Iterator[Outgoing]:
        """Sound frames of damaged packs, of what is not here; what they hang on is there, or comes too."""
        for place in sorted(self._left(lacking), key=lambda place: place.frame.version):
            frame = place.frame
            reached = extended(plan.reach(frame.base), frame)
            if reached is not None and frame.id not in plan.planned:
                plan.planned[frame.id] = reached
                yield Outgoing(lacking[frame.id].stream, frame, partial(self._payload, place))

    def _left(self, lacking: Collection[bytes]) -> Iterator[Place]:
        """The frames of damaged packs that are sound."""
        for segment in self._segments:
            for id in lacking:
                place = segment.find(id)
                if place is None or place.pack not in self._dropped or place.pack in self._holding.pack_faults:
                    continue
                if place not in self._found.bad and self._can_read(place):
                    yield place

    def _can_read(self, place: Place) -> bool:
        try:
            self._payload(place)
        except (Integrity, Format, NotFound):
            return False
        return True

    def _payload(self, place: Place) -> bytes:
        """The payload of a frame there. Raises `Integrity`, `Format`."""
        data = self._remote.get(self._holding.packs[place.pack].object_name, place.offset, place.stop)
        frame, checksum = read_frame_header(data)
        payload = data[FRAME_HEADER_SIZE:]
        if frame != place.frame or payload_checksum([payload]) != checksum:
            raise Integrity(f"object {place.frame.id.hex()} on {self._remote.url} is damaged", hint="try again")
        return payload

    def _lost_components(self, lost: Collection[bytes]) -> list[RemoteHole]:
        """The components of commits that need what is lost."""
        if not lost:
            return []
        holes = []
        trees: dict[bytes, bool] = {}
        absent = self._holding.holes
        for id, commit in self._found.commits.items():
            for component in commit.named():
                if component.name in absent.get(id, ()):
                    continue
                if component.tree not in trees:
                    trees[component.tree] = self._needs_any(component.tree, lost)
                if trees[component.tree]:
                    holes.append(RemoteHole(id, component.name, LOST))
        return holes

    def _needs_any(self, tree: bytes, lost: Collection[bytes]) -> bool:
        needed: dict[bytes, Need] = {}
        try:
            add_tree(needed, self._found, tree, "")
        except (Integrity, Format, NotFound):
            return True
        return any(id in lost for id in needed)

    def _send(self, sources: map[PackSource]) -> list[RemotePack]:
        """Send packs; from now on what they hold is found there."""
        sent: list[PackSource] = []

        def send(source: PackSource) -> None:
            self._remote.put(pack_object(source.sealed.name), Watched(source, self._progress.advance))
            sent.append(source)

        workers = Workers(self._request.jobs)
        try:
            workers.map(send, sources)
        finally:
            workers.close()
        for source in sent:
            for row in source.sealed.rows:
                self._new[row.frame.id] = Place(source.sealed.name, row.offset, row.frame)
        return [RemotePack(*source.sealed[:3]) for source in sent]

    def _index(self, packs: list[RemotePack]) -> tuple[list[SegmentPointer], list[NewSegment]]:
        """The pointers of a root without damaged packs and with new ones, and the segments to send for it."""
        pointers: list[SegmentPointer] = []
        segments: list[NewSegment] = []
        for pointer, segment in zip(self._holding.catalog.pointers, self._segments, strict=True):
            named = {pack.name: pack for pack in segment.packs}
            if pointer not in self._holding.lost and not named.keys() & self._dropped.keys():
                pointers.append(pointer)
                continue
            places = (place for place in segment.places() if place.pack not in self._dropped)
            segments += split(places, named, pointer.level)
        places_new = sorted(self._new.values(), key=lambda place: place.frame.id)
        segments += split(places_new, {pack.name: pack for pack in packs}, 0)
        return [*pointers, *(one.pointer for one in segments)], segments

    def _condemned(self, pointers: list[SegmentPointer]) -> list[CondemnedObject]:
        """What was condemned, and what this replaces as far as it is there."""
        holding = self._holding
        now_ns = self._remote.clock_ns()
        names = {holding.packs[name].object_name for name in self._dropped}
        sizes = {name: stat.size_bytes for name, stat in holding.listed.items() if name in names}
        kept = {pointer.name for pointer in pointers}
        replaced = {one.name: one.size_bytes for one in holding.survey.contents.segments if one.name not in kept}
        known = {one.name for one in holding.state.condemned}
        new = [CondemnedObject(name, size, now_ns) for name, size in (sizes | replaced).items() if name not in known]
        return [*holding.state.condemned, *new]

    def _prove(self, needs: Collection[bytes], lost: Collection[bytes]) -> None:
        """Raise `Integrity` unless all but what is lost can be read there from now on."""
        reach = Chains(self._locate).reach
        lacking = [id for id in needs if id not in lost and reach(id) is None]
        if lacking:
            raise Integrity(
                f"{len(lacking)} objects would be missing on {self._remote.url}: {lacking[0].hex()[:16]}",
                hint="this is a mistake in ckstore: please report it; nothing was changed",
            )
