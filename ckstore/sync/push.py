"""push: what a remote lacks of some commits is sent, then its root is moved. Nothing shows before that.

Survey, plan, send packs, send a segment, prove that everything is there, swap the root. Who loses the swap begins
again with a new survey; what was sent already is in the upload log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.codec.preset import BALANCED
from ckstore.errors import Conflict, Integrity, NotFound
from ckstore.progress import SILENT
from ckstore.remote.segment import Place, RemotePack
from ckstore.remote.source import Watched
from ckstore.remote.state import RemoteHole
from ckstore.storage.record import HEADS, TAGS
from ckstore.storage.workers import Workers
from ckstore.sync.chains import Chains
from ckstore.sync.histories import ancestors_here, new_commits
from ckstore.sync.levels import grown
from ckstore.sync.needs import add_tree, needs_of
from ckstore.sync.outgoing import Lacking, outgoing
from ckstore.sync.packing import PackSource, runs
from ckstore.sync.publish import following, put_segments, put_state, swap
from ckstore.sync.survey import survey
from ckstore.sync.upload_log import Uploaded, UploadLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckstore.codec.preset import Preset
    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.sync.local import Local
    from ckstore.sync.needs import Need
    from ckstore.sync.outgoing import Sending
    from ckstore.sync.survey import Survey

_TRIES = 64


@dataclass(frozen=True)
class PushRequest:
    """What to push: for each ref of the remote by full name the commit it is to have, None to delete it.

    With `force` branches may move to what does not descend from where they are, and tags at all. `fill` sends what the
    remote is known to lack of older commits. `head` is the branch that a clone stands on, if the remote has none yet.
    """

    refs: Mapping[str, bytes | None]
    force: bool = False
    fill: bool = False
    dry_run: bool = False
    head: str | None = None
    jobs: int = 4
    preset: Preset = BALANCED
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class RemoteMove:
    """How a ref of a remote moved; `forced` where the new commit does not descend from the old one."""

    name: str
    old: bytes | None
    new: bytes | None
    forced: bool = False


@dataclass(frozen=True)
class Pushed:
    """What a push did, or in a dry run would do.

    `objects` and `stored_bytes` are of the frames sent now, `packs` and `sent_bytes` of what they were sent in,
    segments counted; `resumed_packs` had been sent before. `holes` were noted there, `filled` are filled.
    """

    moves: tuple[RemoteMove, ...]
    objects: int = 0
    stored_bytes: int = 0
    packs: int = 0
    sent_bytes: int = 0
    resumed_packs: int = 0
    holes: int = 0
    filled: int = 0
    generation: int = 0
    refs: Mapping[str, bytes] = field(default_factory=dict)


def push(
    remote: Remote,
    local: Local,
    request: PushRequest,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> Pushed:
    """Make a remote have what `request` says.

    `pause` is called with the number of tries so far before another one, after somebody else has moved the root. Raises
    `Conflict` where a ref there has moved on, or its root is moved all the time; `Integrity` where something is damaged
    or missing, here or there, and where the remote is older than it was; whatever the remote raises. A push that fails
    has changed nothing there, and may be run again.
    """
    for tries in range(_TRIES):
        if tries:
            pause(tries)
        found = survey(remote, local, foreign=request.foreign, older=request.older)
        try:
            done = _Push(found, request, progress).run()
        except NotFound:
            if not _has_moved(found):
                raise
            continue
        if done is not None:
            return done
    raise Conflict(f"others kept moving the root of {remote.url}", hint="try again")


def _has_moved(found: Survey) -> bool:
    """Whether a root is not there any more: then what it names may be gone."""
    root = found.remote.read_root()
    return (None if root is None else root.version) != found.version


class _Push:
    """One try of a push."""

    def __init__(self, found: Survey, request: PushRequest, progress: Progress) -> None:
        self._survey = found
        self._remote = found.remote
        self._local = found.local
        self._request = request
        self._progress = progress
        self._log = UploadLog(found.local.notes(found.remote.url))
        self._uploaded: dict[bytes, Uploaded] = {}
        self._new: dict[bytes, Place] = {}

    def run(self) -> Pushed | None:
        """Do it all; None where somebody else moved the root first."""
        request, contents = self._request, self._survey.contents
        moves = self._moves()
        if not moves and not (request.fill and contents.state is not None and contents.state.holes):
            self._survey.note()
            return Pushed((), generation=contents.generation, refs=self._survey.refs)
        commits = self._new_commits([move.new for move in moves if move.new is not None])
        needs = self._needs(commits)
        holes, added, filled = self._holes(commits, needs)
        if not (moves or filled):
            return Pushed((), generation=contents.generation, refs=self._survey.refs)
        if not request.dry_run:
            self._resume()
        sendings = self._lacking(needs)
        stored = sum(one.place.frame.stored_length for one in sendings)
        resumed = len(self._uploaded)
        sources = map(PackSource, map(list, runs(outgoing(self._local, sendings, request.preset))))
        if request.dry_run:
            sizes = [source.size_bytes for source in sources]
            return Pushed(
                tuple(moves), len(sendings), stored, len(sizes), sum(sizes), 0, added, filled, contents.generation
            )
        sent = self._send(sources, sendings)
        places = sorted(self._new.values(), key=lambda place: place.frame.id)
        pointers, segments = grown(self._survey.catalog, places, [one.pack for one in self._uploaded.values()])
        self._prove(needs)
        put_segments(self._survey, segments)
        state = contents.state
        if added or filled:
            state = put_state(self._survey, holes, self._survey.state.condemned)
        refs = dict(self._survey.refs)
        for move in moves:
            if move.new is None:
                refs.pop(move.name, None)
            else:
                refs[move.name] = move.new
        after = following(contents, refs, pointers, state, self._head(refs))
        if not swap(self._survey, after):
            return None
        self._log.drop(list(self._uploaded))
        sizes = [pack.size_bytes for pack in sent] + [len(segment.data) for segment in segments]
        return Pushed(
            tuple(moves), len(sendings), stored, len(sent), sum(sizes), resumed, added, filled, after.generation, refs
        )

    def _moves(self) -> list[RemoteMove]:
        """How refs have to move. Raises `Conflict`."""
        moves = []
        for name, new in self._request.refs.items():
            old = self._survey.refs.get(name)
            if old != new:
                forced = old is not None and new is not None and not self._descends(name, old, new)
                if forced and not self._request.force:
                    raise _moved_on(self._remote, name, known=bool(old and self._local.known([old])))
                moves.append(RemoteMove(name, old, new, forced))
        return moves

    def _descends(self, name: str, old: bytes, new: bytes) -> bool:
        if name.startswith(TAGS) or not self._local.known([old]):
            return False
        return old in ancestors_here(self._local, [new])

    def _new_commits(self, tips: Sequence[bytes]) -> list[tuple[bytes, Commit]]:
        """The commits that the remote's refs do not lead to, the oldest first."""
        seen = ancestors_here(self._local, self._survey.refs.values())
        return new_commits(self._local, tips, seen)

    def _needs(self, commits: Sequence[tuple[bytes, Commit]]) -> dict[bytes, Need]:
        self._here_absent = self._local.holes()
        return needs_of(self._local, commits, lambda id, name: name in self._here_absent.get(id, ()))

    def _holes(
        self, commits: Sequence[tuple[bytes, Commit]], needs: dict[bytes, Need]
    ) -> tuple[list[RemoteHole], int, int]:
        """The remote's holes from now on, how many are new, and how many are filled; what fills some joins `needs`."""
        absent = [
            RemoteHole(id, component.name, self._here_absent[id][component.name])
            for id, commit in commits
            for component in commit.named()
            if component.name in self._here_absent.get(id, ())
        ]
        pointer = self._survey.contents.state
        if not absent and (pointer is None or not pointer.holes):
            return [], 0, 0
        holes = {(hole.commit, hole.component): hole for hole in self._survey.state.holes}
        before = set(holes)
        for id, commit in commits:
            for component in commit.named():
                holes.pop((id, component.name), None)
        if self._request.fill:
            for id, name in list(holes):
                if self._fill(id, name, needs):
                    del holes[id, name]
        kept = set(holes)
        for hole in absent:
            holes[hole.commit, hole.component] = hole
        return list(holes.values()), len(set(holes) - before), len(before - kept - set(holes))

    def _fill(self, id: bytes, name: str, needs: dict[bytes, Need]) -> bool:
        """Add what a hole of the remote needs; whether it is here."""
        if name in self._here_absent.get(id, ()) or not self._local.known([id]):
            return False
        trees = {component.name: component.tree for component in self._local.commit(id).named()}
        if name in trees:
            add_tree(needs, self._local, trees[name], name)
        return name in trees

    def _resume(self) -> None:
        """Take up what an earlier try has sent and is still there; forget the rest."""
        entries = self._log.entries()
        stale = []
        named = self._survey.catalog.packs if entries else {}
        for one in entries:
            gone = one.pack.object_name in self._survey.condemned
            if not gone:
                there = self._remote.stat(one.pack.object_name)
                gone = there is None or there.size_bytes != one.pack.size_bytes
            if gone or one.pack.name in named:
                stale.append(one.pack.name)
                continue
            self._uploaded[one.pack.name] = one
            for place in one.places():
                self._take(place)
        self._log.drop(stale)
        while broken := self._broken():
            for id in broken:
                del self._new[id]

    def _broken(self) -> list[bytes]:
        """What was sent before and cannot be read there, as what it hangs on was in a pack that is gone."""
        chains = Chains(self._locate)
        return [id for id, place in self._new.items() if self._locate(id) is place and chains.reach(id) is None]

    def _take(self, place: Place) -> None:
        other = self._new.get(place.frame.id)
        if other is None or place.frame.version < other.frame.version:
            self._new[place.frame.id] = place

    def _locate(self, id: bytes) -> Place | None:
        there, new = self._survey.catalog.locate(id), self._new.get(id)
        if there is None or (new is not None and new.frame.version < there.frame.version):
            return new
        return there

    def _lacking(self, needs: Mapping[bytes, Need]) -> list[Sending]:
        reach = Chains(self._locate).reach
        lacking = Lacking(self._local, self._request.preset, reach, lambda id: self._locate(id) is not None)
        return lacking.sendings(needs)

    def _send(self, sources: map[PackSource], sendings: Sequence[Sending]) -> list[RemotePack]:
        """Send packs; what was sent by the time of an error is in the log."""
        sent: list[RemotePack] = []
        self._progress.start("sending", sum(one.place.frame.stored_length for one in sendings))

        def send(source: PackSource) -> None:
            sealed = source.sealed
            pack = RemotePack(sealed.name, sealed.digest, sealed.size_bytes)
            self._remote.put(pack.object_name, Watched(source, self._progress.advance))
            self._log.add(sealed)
            sent.append(pack)
            results.append(source)

        results: list[PackSource] = []
        workers = Workers(self._request.jobs)
        try:
            workers.map(send, sources)
        finally:
            workers.close()
        for source in results:
            one = _uploaded(source)
            self._uploaded[one.pack.name] = one
            for place in one.places():
                self._take(place)
        return sent

    def _prove(self, needs: Mapping[bytes, Need]) -> None:
        """Raise `Integrity` unless all that the new commits need can be read on the remote from now on."""
        chains = Chains(self._locate)
        lacking = [id for id in needs if chains.reach(id) is None]
        if lacking:
            raise Integrity(
                f"{len(lacking)} objects would be missing on {self._remote.url}: {lacking[0].hex()[:16]}",
                hint="this is a mistake in ckstore: please report it; nothing was changed",
            )

    def _head(self, refs: Mapping[str, bytes]) -> str | None:
        """The branch that a clone stands on: as it was, as asked, or any."""
        for name in (self._survey.contents.head, self._request.head):
            if name is not None and HEADS + name in refs:
                return name
        branches = [name.removeprefix(HEADS) for name in refs if name.startswith(HEADS)]
        return min(branches, default=None)


def _uploaded(source: PackSource) -> Uploaded:
    sealed = source.sealed
    return Uploaded(RemotePack(sealed.name, sealed.digest, sealed.size_bytes), sealed.rows)


def _moved_on(remote: Remote, name: str, *, known: bool) -> Conflict:
    if name.startswith(TAGS):
        short = name.removeprefix(TAGS)
        return Conflict(
            f"the tag {short!r} of {remote.url} names another commit", hint="choose another name, or push with --force"
        )
    short = name.removeprefix(HEADS)
    return Conflict(
        f"the branch {short!r} of {remote.url} has moved on",
        why="its commits are not here" if not known else "what is pushed does not descend from it",
        hint="`ckstore pull`, then push again; or push with --force, which leaves its commits behind",
    )
