"""Pushers, a gc and a puller at one remote, step by step: whose request comes next, and what becomes of it, is drawn.

Each actor runs the real engine in a thread of its own over a repository in memory, and waits before every request for
its turn: one thread runs at a time, so that a seed always gives the same course. Requests are dropped, doubled and
delayed, replies lost; actors are killed and begin again with what their notes say.
"""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import CkstoreError, Conflict, Integrity, RemoteFailed
from ckstore.graph.history import reachable
from ckstore.objects.commit import Commit, Component
from ckstore.objects.encoding import decode_commit, encode
from ckstore.objects.leaf import Bytes, Chunks
from ckstore.objects.tree import Entry, Tree
from ckstore.pack.format import Frame
from ckstore.remote.interface import RootMoved, Transient, Unclear
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.storage.chain import suits
from ckstore.storage.location import Location
from ckstore.sync.fetch import FetchRequest, fetch
from ckstore.sync.needs import needs_of
from ckstore.sync.prune import PruneRequest, prune
from ckstore.sync.push import PushRequest, push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Buffer

    from ckstore.remote.interface import Root, Stat, Version
    from ckstore.remote.source import Source
    from ckstore.storage.packer import Pieces
    from ckstore.storage.record import Record, Target

REPOSITORY = "0" * 32
POOL = 9
"""So many different chunks there are: what gc takes comes back again and again."""


class Killed(BaseException):
    """The process ends here."""


class MemoryNotes(dict[str, bytes]):
    """Notes that outlive a killed actor."""

    def read(self, name: str) -> bytes | None:
        return self.get(name)

    def write(self, name: str, data: bytes) -> None:
        self[name] = data

    def delete(self, name: str) -> None:
        self.pop(name, None)

    def names(self) -> Sequence[str]:
        return sorted(self)


class MemoryCache(dict[bytes, bytes]):
    """Segments of all remotes; what several actors keep is the same by its digest."""

    def put(self, digest: bytes, data: bytes) -> None:
        self[digest] = data

    def drop(self, digest: bytes) -> None:
        self.pop(digest, None)


class MemoryIncoming:
    """Frames on their way into a `MemoryLocal`, verified as those of a real one are."""

    def __init__(self, local: MemoryLocal) -> None:
        self._local = local
        self._frames: list[tuple[Frame, bytes]] = []

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        del stream
        self._frames.append((frame, b"".join(payload)))

    def publish(self, record: Record, check: Callable[[], None] = lambda: None) -> int | None:
        check()
        local = self._local
        for move in record.refs:
            if local.refs.get(move.name) != move.old:
                raise Conflict(f"{move.name} has moved")
        for frame, payload in sorted(self._frames, key=lambda one: one[0].version):
            local.hold(frame, payload)
        for move in record.refs:
            if move.new is None:
                local.refs.pop(move.name, None)
            else:
                local.refs[move.name] = move.new
        for hole in record.holes:
            local.absent.setdefault(hole.commit, {})[hole.component] = hole.reason
        return 1


class MemoryLocal:
    """A repository in memory. Its "deltas" hold their whole bytes, but count as readable only with their bases."""

    def __init__(self) -> None:
        self.id = REPOSITORY
        self.cache = MemoryCache()
        self.refs: dict[str, Target] = {}
        self.absent: dict[bytes, dict[str, str]] = {}
        self._held: dict[bytes, tuple[Frame, bytes]] = {}
        self._notes = MemoryNotes()

    def hold(self, frame: Frame, payload: bytes) -> None:
        raw = payload
        if frame.codec:
            from ckstore.codec.choice import Coder

            target = bytearray(frame.raw_length)
            Coder().decode(frame.codec, frame.width, memoryview(payload), memoryview(target))
            raw = bytes(target)
        if object_id(frame.kind, raw) != frame.id:
            raise Integrity("what came is not what its id says")
        if frame.base != NO_ID:
            base = self._held.get(frame.base)
            if base is None or not suits(base[0], frame):
                raise Integrity("what came hangs on what is not here")
        other = self._held.get(frame.id)
        if other is None or frame.version < other[0].version:
            self._held[frame.id] = (frame._replace(codec=0, stored_length=len(raw)), raw)

    def notes(self, url: str) -> MemoryNotes:
        del url
        return self._notes

    def targets(self) -> Mapping[str, Target]:
        return dict(self.refs)

    def commit(self, id: bytes) -> Commit:
        return decode_commit(self.read(Kind.COMMIT, id))

    def read(self, kind: Kind, id: bytes) -> bytes:
        held = self._held.get(id)
        if held is None or held[0].kind is not kind:
            raise Integrity(f"{id.hex()} is not here")
        return held[1]

    def holes(self) -> Mapping[bytes, Mapping[str, str]]:
        return self.absent

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        return {id for id in ids if id in self._held}

    def chain(self, id: bytes) -> Sequence[Location]:
        chain = []
        while id in self._held:
            frame = self._held[id][0]
            chain.append(Location(b"", 0, frame))
            id = frame.base
        return chain

    def payload(self, place: Location) -> bytes:
        return self._held[place.frame.id][1]

    @contextmanager
    def incoming(self) -> Iterator[MemoryIncoming]:
        yield MemoryIncoming(self)

    def watch(self) -> Callable[[], bool]:
        return lambda: False

    def put(self, kind: Kind, raw: bytes, base: Frame | None = None) -> bytes:
        id = object_id(kind, raw)
        if id not in self._held:
            version = base.version + 1 if base is not None else 0
            frame = Frame(kind, 0, 1, id, len(raw), len(raw), base.id if base else NO_ID, version, 0)
            self._held[id] = (frame, raw)
        return id

    def make_commit(self, parent: bytes | None, label: str, choose: random.Random) -> bytes:
        """A commit of two chunks out of the few that there are, as deltas of some that are here, or not."""
        ids = []
        for number in choose.sample(range(POOL), 2):
            raw = number.to_bytes(40, "little")
            bases = [frame for frame, _ in self._held.values() if frame.kind is Kind.CHUNK and frame.version < 5]
            base = choose.choice(bases) if bases and choose.random() < 0.6 else None
            ids.append(self.put(Kind.CHUNK, raw, base))
        entry = Entry(None, Bytes(Chunks(80, b"".join(ids)), mutable=False))
        tree = self.put(Kind.TREE, encode(Tree(40, (), (entry,))))
        parents = (parent,) if parent else ()
        made = Commit((Component("model", tree),), parents, 0, 0, "", label, ())
        return self.put(Kind.COMMIT, encode(made))

    def check(self) -> dict[bytes, Commit]:
        """All commits that refs lead to; raises `Integrity` where anything that they need is not here."""
        tips = [target for target in self.refs.values() if isinstance(target, bytes)]
        commits = reachable(tips, self.commit)
        needs = needs_of(self, commits.items(), lambda id, name: name in self.absent.get(id, ()))
        for id in needs:
            if id not in self._held:
                raise Integrity(f"{id.hex()} is lost")
        return commits


class Turns:
    """Lets one of several threads go on at a time. Who is about to send a request says who is next, as `pick` does.

    So a turn is handed from actor to actor, and one that is given to the actor who has it costs nothing.
    """

    def __init__(self, pick: Callable[[], str | None]) -> None:
        self._pick = pick
        self._over = _taken()
        self._mine: dict[str, threading.Lock] = {}
        self.waiting: list[str] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Begin an actor; it waits for its first turn."""
        turn = self._mine[name] = _taken()
        self.waiting.append(name)

        def run() -> None:
            turn.acquire()
            try:
                work()
            finally:
                self._give(self._pick())

        threading.Thread(target=run, daemon=True).start()

    def run(self) -> None:
        """Give turns until `pick` gives none any more."""
        self._give(self._pick())
        self._over.acquire()

    def wait(self, name: str) -> None:
        """Called by an actor: give the turn to whoever is next, and wait for it."""
        self.waiting.append(name)
        following = self._pick()
        if following != name:
            self._give(following)
            self._mine[name].acquire()

    def _give(self, name: str | None) -> None:
        (self._over if name is None else self._mine[name]).release()


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class SimulatedRemote(MemoryRemote):
    """One actor's way to the place: every request waits for its turn, and may go wrong as `fate` says."""

    def __init__(self, place: MemoryPlace, name: str, course: Course) -> None:
        super().__init__(place)
        self.name = name
        self.course = course

    def _request(self, what: str, do: Callable[[], Any], error: type[Transient], *, writes: bool) -> Any:
        if self.course.waits_for(self.name, what):
            self.course.turns.wait(self.name)
            self.course.steps.append((self.name, what))
        fate = self.course.fate(writes=writes)
        if fate == "kill":
            if writes and self.course.choose.random() < 0.5:
                self._quietly(do)
            raise Killed
        if fate == "drop":
            raise Transient("503")
        if fate == "delay":
            self.course.ghosts.append(lambda: self._quietly(do))
            raise error("timed out")
        if fate == "lost":
            self._quietly(do)
            raise error("the reply was lost")
        if fate == "double":
            self._quietly(do)
        return do()

    def _quietly(self, do: Callable[[], Any]) -> None:
        try:
            do()
        except CkstoreError:
            return

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        whole = super().read
        yield self._request(f"read {name}", lambda: b"".join(whole(name, start, stop)), Transient, writes=False)

    def put(self, name: str, source: Source) -> bool:
        return bool(self._request(f"put {name}", lambda: MemoryRemote.put(self, name, source), Transient, writes=True))

    def stat(self, name: str) -> Stat | None:
        found: Stat | None = self._request(
            f"stat {name}", lambda: MemoryRemote.stat(self, name), Transient, writes=False
        )
        return found

    def list(self, prefix: str) -> Iterator[Stat]:
        yield from self._request(
            f"list {prefix}", lambda: list(MemoryRemote.list(self, prefix)), Transient, writes=False
        )

    def delete(self, names: Sequence[str]) -> None:
        self._request("delete", lambda: MemoryRemote.delete(self, names), Transient, writes=True)

    def read_root(self) -> Root | None:
        root: Root | None = self._request("root", lambda: MemoryRemote.read_root(self), Transient, writes=False)
        return root

    def swap_root(self, data: Buffer, expected: Version | None) -> Version:
        held = bytes(data)
        version: Version = self._request(
            "swap", lambda: MemoryRemote.swap_root(self, held, expected), Unclear, writes=True
        )
        return version


class Course:
    """One course of events: `choose` draws everything. `faults` is the share of requests that go wrong."""

    def __init__(self, choose: random.Random, faults: float) -> None:
        self.choose = choose
        self.faults = faults
        self.turns = Turns(self._next)
        self._order: list[str] = []
        self._only_these = False
        self.ghosts: list[Callable[[], None]] = []
        self.now_ns = 0
        self.place = MemoryPlace("simulated", lambda: self.now_ns)
        self.errors: list[BaseException] = []
        self.steps: list[tuple[str, str]] = []
        self.waits_for: Callable[[str, str], bool] = lambda name, what: True

    def fate(self, *, writes: bool) -> str:
        """What becomes of a request."""
        if self.choose.random() >= self.faults:
            return "well"
        return self.choose.choice(["drop", "lost", "double", "delay", "kill"] if writes else ["drop", "drop", "kill"])

    def start(self, name: str, work: Callable[[SimulatedRemote], None]) -> None:
        """Begin an actor."""
        remote = SimulatedRemote(self.place, name, self)

        def run() -> None:
            try:
                work(remote)
            except BaseException as error:
                self.errors.append(error)

        self.turns.start(name, run)

    def run(self, order: Sequence[str] = (), *, only_these: bool = False) -> None:
        """Give turns, first in `order` as far as it goes, until nobody waits; raises what an actor could not bear.

        `only_these`: no more turns than those; the actors wait for another call.
        """
        self._order, self._only_these = list(reversed(order)), only_these
        self.turns.run()
        if not only_these:
            for ghost in self.ghosts:
                ghost()
        if self.errors:
            raise self.errors[0]

    def _next(self) -> str | None:
        """Whose turn it is; None: nobody's."""
        waiting = self.turns.waiting
        while self._order and self._order[-1] not in waiting:
            self._order.pop()
        if self._order:
            name = self._order.pop()
        elif self._only_these or not waiting:
            return None
        else:
            if self.ghosts and self.choose.random() < 0.2:
                self._haunt(self.ghosts.pop(self.choose.randrange(len(self.ghosts))))
            name = self.choose.choice(sorted(waiting))
        self.now_ns += 1
        waiting.remove(name)
        return name

    def _haunt(self, ghost: Callable[[], None]) -> None:
        """What was delayed comes; what it raises is no matter of the actor whose turn ends."""
        try:
            ghost()
        except BaseException as error:
            self.errors.append(error)


def persistent(attempt: Callable[[], Any]) -> Any:
    """Try until it works, as people do: whatever the network does, and after being killed."""
    for _ in range(200):
        try:
            return attempt()
        except (RemoteFailed, RootMoved, Killed):
            continue
    raise AssertionError("200 tries were not enough")


class Pusher:
    """Commits to a branch that others commit to as well, and to one of its own that it throws away each time."""

    def __init__(self, name: str, choose: random.Random, rounds: int) -> None:
        self.name = name
        self.local = MemoryLocal()
        self.acknowledged: list[bytes] = []
        self.side: bytes | None = None
        self._choose = choose
        self._rounds = rounds

    def work(self, remote: SimulatedRemote) -> None:
        for number in range(self._rounds):
            label = f"{self.name} {number}"
            self.acknowledged.append(self._on_main(remote, label))
            side = self.local.make_commit(None, f"side {label}", self._choose)
            self._push(remote, PushRequest({f"heads/{self.name}": side}, force=True, jobs=1))
            self.side = side

    def _push(self, remote: SimulatedRemote, request: PushRequest) -> None:
        persistent(lambda: push(remote, self.local, request))

    def _on_main(self, remote: SimulatedRemote, label: str) -> bytes:
        """Put a commit on the tip of main, wherever that is by then."""
        while True:
            tip = self.local.refs.get("remotes/origin/main")
            assert tip is None or isinstance(tip, bytes)
            mine = self.local.make_commit(tip, label, self._choose)
            try:
                self._push(remote, PushRequest({"heads/main": mine}, jobs=1, head="main"))
            except Conflict:
                persistent(lambda: fetch(remote, self.local, FetchRequest("origin", 0, jobs=1)))
                tip = self.local.refs["remotes/origin/main"]
                assert isinstance(tip, bytes)
                if mine in reachable([tip], self.local.commit):
                    return mine  # it had arrived, and others have built on it
            else:
                self.local.refs["remotes/origin/main"] = mine
                return mine


def pull(local: MemoryLocal, rounds: int) -> Callable[[SimulatedRemote], None]:
    """Fetches, and looks each time whether everything is there."""

    def work(remote: SimulatedRemote) -> None:
        for _ in range(rounds):
            persistent(lambda: _fetched(remote, local))
            local.check()

    return work


def _fetched(remote: SimulatedRemote, local: MemoryLocal) -> None:
    if remote.read_root() is not None:
        fetch(remote, local, FetchRequest("origin", 0, jobs=1, prune=True))


def collect(local: MemoryLocal, rounds: int, grace_ns: int) -> Callable[[SimulatedRemote], None]:
    """Takes away what the remote does not need."""

    def work(remote: SimulatedRemote) -> None:
        for _ in range(rounds):
            persistent(lambda: _pruned(remote, local, grace_ns))

    return work


def _pruned(remote: SimulatedRemote, local: MemoryLocal, grace_ns: int) -> None:
    if remote.read_root() is not None:
        prune(remote, local, PruneRequest(grace_ns))


def examine(course: Course, pushers: Sequence[Pusher]) -> None:
    """What must hold in the end, whatever happened."""
    fresh = MemoryLocal()
    fetch(MemoryRemote(course.place), fresh, FetchRequest("origin", 0, jobs=1))
    commits = fresh.check()
    tip = fresh.refs["remotes/origin/main"]
    assert isinstance(tip, bytes)
    line = reachable([tip], lambda id: commits[id])
    assert all(len(commit.parents) <= 1 for commit in line.values())
    for pusher in pushers:
        assert set(pusher.acknowledged) <= set(line), "an acknowledged push is lost"
        assert fresh.refs[f"remotes/origin/{pusher.name}"] == pusher.side


def simulate(seed: int, faults: float = 0.08) -> Course:
    """Two pushers, a gc and a puller."""
    choose = random.Random(seed)
    course = Course(choose, faults)
    pushers = [Pusher(f"p{number}", choose, choose.randint(1, 2)) for number in range(2)]
    for pusher in pushers:
        course.start(pusher.name, pusher.work)
    course.start("gc", collect(MemoryLocal(), choose.randint(2, 3), choose.choice([0, 0, 20])))
    course.start("puller", pull(MemoryLocal(), choose.randint(1, 3)))
    course.run()
    examine(course, pushers)
    return course
