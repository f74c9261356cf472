"""Is what a remote promises really there? Everything its refs reach, looked up and, if wanted, read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import NO_ID, Kind
from ckstore.errors import Format, Integrity, NotFound
from ckstore.objects.encoding import decode_commit
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.packer import META
from ckstore.sync.needs import Need, add_tree
from ckstore.sync.pack_check import PackCheck
from ckstore.sync.reader import RemoteReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.remote.segment import Place
    from ckstore.sync.holding import Holding
    from ckstore.sync.local import Local

_DAMAGE = (Integrity, Format, NotFound)


class Fault(NamedTuple):
    """What is wrong: `kind` is root, state, segment, pack, object or commit."""

    kind: str
    what: str


class Inspection:
    """What of a remote is there and what is not.

    `faults` lists what is wrong by itself, `faulty_packs` the packs to blame with what, `bad` the frames. `commits` are
    those that refs reach and that can be read, `lost_commits` the others. `needs` is what they need as far as that is
    known, `broken` those of it that cannot be read there. `hit` says which faults affect a component of a commit (or ""
    for the commit itself). With `read_data` every frame is fetched, decoded and hashed. Raises whatever the remote
    raises but damage.
    """

    def __init__(self, holding: Holding, local: Local, jobs: int, progress: Progress, *, read_data: bool) -> None:
        self.holding = holding
        self._local = local
        self._reader = RemoteReader(holding.survey.remote, None, holding.catalog, jobs=jobs)
        self.faults: list[Fault] = []
        self.faulty_packs: dict[bytes, str] = dict(holding.pack_faults)
        self.read_bytes = 0
        self.read_packs = 0
        self.bad = self._read(jobs, progress) if read_data else {}
        self._bad = self._bad_objects(self.bad)
        if holding.state_fault is not None:
            self.faults.append(Fault("state", holding.state_fault))
        self.faults += [Fault("segment", f"{pointer.name}: {what}") for pointer, what in holding.lost.items()]
        self.faults += [Fault("pack", f"pack {name.hex()}: {what}") for name, what in self.faulty_packs.items()]
        self.faults += [
            Fault("pack", f"pack {name.hex()} is condemned, but the index names it")
            for name, pack in holding.packs.items()
            if pack.object_name in {one.name for one in holding.state.condemned}
        ]
        self.commits: dict[bytes, Commit] = {}
        self.lost_commits: dict[bytes, Fault] = {}
        self.needs: dict[bytes, Need] = {}
        self.broken: dict[bytes, Fault] = {}
        self.hit: dict[tuple[bytes, str], set[Fault]] = {}
        self._trees: dict[bytes, set[Fault]] = {}
        self._sound: set[bytes] = set()
        self._walk()

    def _read(self, jobs: int, progress: Progress) -> dict[Place, str]:
        holding = self.holding
        check = PackCheck(holding, self._local)
        there = [name for name in holding.packs if name not in holding.pack_faults]
        check.run(there, jobs, progress)
        self.faulty_packs |= check.faults
        self.read_bytes, self.read_packs = check.read_bytes, len(there)
        return check.bad

    def _bad_objects(self, bad: dict[Place, str]) -> dict[bytes, Fault]:
        """The objects whose frame, the one that is looked up, cannot be read for its own pack's fault."""
        if not bad and not self.holding.pack_faults:
            return {}
        found: dict[bytes, Fault] = {}
        for place in self.holding.catalog.places():
            if place.pack in self.holding.pack_faults or place in bad:
                found[place.frame.id] = Fault("pack", f"pack {place.pack.hex()}: {self.faulty_packs[place.pack]}")
        return found

    def _walk(self) -> None:
        holes = self.holding.holes
        pending = list(self.holding.survey.refs.values())
        while pending:
            id = pending.pop()
            if id in self.commits or id in self.lost_commits:
                continue
            try:
                commit = decode_commit(self.read(Kind.COMMIT, id))
            except _DAMAGE as error:
                fault = self._wrong(id) or Fault("commit", f"commit {id.hex()}: {error.what}")
                self.lost_commits[id] = fault
                self.hit[id, ""] = {fault}
                continue
            self.commits[id] = commit
            self.needs.setdefault(id, Need(Kind.COMMIT, META, "uint8"))
            fault_here = self._wrong(id)
            if fault_here is not None:
                self.broken[id] = fault_here
                self.hit[id, ""] = {fault_here}
            pending += commit.parents
            for component in commit.named():
                if component.name in holes.get(id, ()):
                    continue
                if component.tree not in self._trees:
                    self._trees[component.tree] = set(self._tree(component.tree, component.name))
                if self._trees[component.tree]:
                    self.hit[id, component.name] = self._trees[component.tree]

    def _tree(self, tree: bytes, component: str) -> Iterator[Fault]:
        found: dict[bytes, Need] = {}
        try:
            add_tree(found, self, tree, component)
        except _DAMAGE as error:
            fault = Fault("object", error.what)
            self.broken.setdefault(tree, fault)
            yield fault
        for id, need in found.items():
            self.needs.setdefault(id, need)
            wrong = self._wrong(id)
            if wrong is not None:
                self.broken[id] = wrong
                yield wrong

    def read(self, kind: Kind, id: bytes) -> bytes:
        """A tree or commit, from here if it is sound, else from there. Raises `Integrity`, `Format`, `NotFound`."""
        if self._local.known([id]):
            try:
                return self._local.read(kind, id)
            except Integrity:
                pass
        return self._reader.read(kind, id)

    def _wrong(self, id: bytes) -> Fault | None:
        """Why an object cannot be read there; None where it can, as far as that is known."""
        seen: list[bytes] = []
        wanted, above = id, None
        while wanted not in self._sound:
            place = self.holding.catalog.locate(wanted)
            if place is None or len(seen) > DEEPEST or (above is not None and not suits(place.frame, above)):
                what = f"object {wanted.hex()} is missing"
                return Fault("object", what if wanted == id else f"{what}, on which others hang")
            if wanted in self._bad:
                return self._bad[wanted]
            seen.append(wanted)
            above, wanted = place.frame, place.frame.base
            if wanted == NO_ID:
                break
        self._sound.update(seen)
        return None
