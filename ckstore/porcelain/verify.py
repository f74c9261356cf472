"""verify: is what the repository promises really there?"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError, Format, InvalidInput
from ckstore.graph.reachability import objects_of_tree
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, read_frame_header
from ckstore.pack.reader import read_sealed
from ckstore.progress import SILENT
from ckstore.storage.location import Location
from ckstore.storage.verified import read_looked_at, write_verified
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository
    from ckstore.storage.pack_file import PackFile
    from ckstore.storage.record import PackEntry

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(%?)", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """Something wrong: `kind` is journal, pack, index, object or commit; `commits` names what it affects."""

    kind: str
    what: str
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """What was checked, and what was found. No findings: everything the refs reach is there.

    `read_packs` of the packs were read whole, which took `read_bytes`.
    """

    commits: int
    objects: int
    packs: int
    read_bytes: int
    findings: tuple[Finding, ...]
    read_packs: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass
class _Found:
    """Kind and text of what is wrong, each with the commits it affects; and what is to blame: packs, and objects."""

    commits: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    packs: set[bytes] = field(default_factory=set)
    objects: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def add(self, kind: str, what: str, pack: bytes | None = None, objects: Iterable[bytes] = ()) -> None:
        """Note a finding, the pack it is in, and objects that cannot be read for it."""
        self.commits.setdefault((kind, what), [])
        if pack is not None:
            self.packs.add(pack)
        for id in objects:
            self.objects[id] = (kind, what)

    def findings(self) -> tuple[Finding, ...]:
        """As the caller gets them."""
        return tuple(Finding(kind, what, tuple(ids)) for (kind, what), ids in self.commits.items())


@dataclass(frozen=True)
class _Pack:
    """A pack of the journal, and the frames that the index has of it: with the row of their object, and spares."""

    entry: PackEntry
    rows: list[Location] = field(default_factory=list)
    spares: list[Location] = field(default_factory=list)


def verify(
    repository: Repository,
    progress: Progress = SILENT,
    *,
    read_data: bool = False,
    subset: str | None = None,
    now_ns: int | None = None,
) -> VerifyResult:
    """Check journal, packs and their frames' headers against the index, and that every commit's objects are known.

    With `read_data` all bytes are read and hashed; with `subset` (`10%`, `0.1`) only so much of them, of the packs
    looked at longest ago: one such run after another comes round to all. Changes nothing and never raises for damage:
    it becomes a Finding. What packs were read and found sound is noted with the time `now_ns`, for `status`.
    Raises `InvalidInput` for a subset that is none.
    """
    share = Fraction(1) if subset is None else _share(subset)
    found = _Found()
    repository.store.ask(View.check)  # an index that is damaged is made anew first
    commits = repository.commits()
    for what in _journal(repository):
        found.add("journal", what)
    packs = _packs(repository)
    for pack in packs:
        _check_pack(repository, pack, found)
    chosen = _oldest(repository, packs, share) if read_data or subset is not None else []
    read_bytes = _read(repository, chosen, found, progress)
    count = _graph(repository, commits, {place.frame.id for pack in packs for place in pack.rows}, found)
    if chosen and now_ns is not None and repository.store.may_write:
        names = {pack.entry.name for pack in chosen}
        existing = [pack.entry.name for pack in packs]
        write_verified(
            repository.store.layout, names - found.packs, now_ns, existing=existing, damaged=names & found.packs
        )
    objects = sum(len(pack.rows) for pack in packs)
    return VerifyResult(count, objects, len(packs), read_bytes, found.findings(), len(chosen))


def _share(text: str) -> Fraction:
    match = _SHARE.fullmatch(text.strip())
    share = Fraction(0) if match is None else Fraction(match[1]) / (100 if match[2] else 1)
    if not 0 < share <= 1:
        raise InvalidInput(f"{text!r} is no share of the data", hint="write it as 10%, or 0.1")
    return share


def _journal(repository: Repository) -> Iterator[str]:
    """The newest segment read from its first byte, against what the index followed."""
    store = repository.store
    copies = store.ask(View.copies)  # first: a commit beside this one may lengthen the journal meanwhile
    try:
        frames = store.journal.newest().frames
    except (OSError, CkstoreError) as error:
        yield str(error)
        return
    if [frame.raw for frame in frames[: len(copies)]] != copies:
        yield "the journal is not the one the index followed"


def _packs(repository: Repository) -> list[_Pack]:
    """The packs in the order they came."""
    entries, rows, spares = repository.store.ask(
        lambda view: (view.packs(), list(view.locations()), list(view.spares()))
    )
    packs = {entry.name: _Pack(entry) for entry in entries}
    for place in rows:
        packs[place.pack].rows.append(place)
    for place in spares:
        packs[place.pack].spares.append(place)
    return list(packs.values())


def _check_pack(repository: Repository, pack: _Pack, found: _Found) -> None:
    """A pack's table against journal and index, and the headers of its frames against both, from front to back."""
    store, entry = repository.store, pack.entry
    where = store.layout.pack(entry.name).name
    known = {place.offset: place for place in (*pack.rows, *pack.spares)}
    expected, whole = known, False
    store.packs.forget(entry.name)  # a file that is gone may still be open
    try:
        source = store.packs.get(entry.name)
        try:
            sealed = read_sealed(source)
            if (sealed.name, sealed.digest, sealed.size_bytes) != (entry.name, entry.digest, entry.size_bytes):
                raise Format("it is not the pack the journal names")
            expected = {offset: Location(entry.name, offset, frame) for frame, offset in sealed.rows}
            whole = True
        except Format as error:
            found.add("pack", f"{where}: {error}", entry.name)
        strangers = [place for offset, place in known.items() if expected.get(offset) != place]
        for place in strangers:
            found.add("index", f"{place.frame.id.hex()} is not where the index says", entry.name, [place.frame.id])
        unknown = len(expected.keys() - known.keys())
        if unknown:
            found.add("index", f"{unknown} frames of {where} are not in the index", entry.name)
        rows = {place.offset for place in pack.rows}
        in_order = sorted(expected.values(), key=lambda place: place.offset)
        for place, what in _walk(source, in_order, whole=whole):
            found.add("object", what, entry.name, [place.frame.id] if place.offset in rows else ())
    except OSError as error:
        if not _is_named(repository, entry):
            return
        ids = [place.frame.id for place in pack.rows]
        found.add("pack", f"{where} cannot be read: {error.strerror}", entry.name, ids)


def _is_named(repository: Repository, entry: PackEntry) -> bool:
    """Whether a pack is still in use: a gc beside this may have taken it away."""
    repository.store.refresh()
    return entry in repository.store.ask(View.packs)


def _walk(source: PackFile, places: Sequence[Location], *, whole: bool) -> Iterator[tuple[Location, str]]:
    """The frames whose headers are not what they must be, or, of a `whole` table, not one right after another."""
    position = HEADER_SIZE
    for place in places:
        what = f"object {place.frame.id.hex()} in pack {place.pack.hex()} at byte {place.offset}"
        if whole and place.offset != position:
            yield place, f"{what} is not where the frame before it ends"
        position = place.offset + FRAME_HEADER_SIZE + place.frame.stored_length
        try:
            frame, _ = read_frame_header(source.read_at(place.offset, FRAME_HEADER_SIZE))
        except Format as error:
            yield place, f"{what}: {error}"
            continue
        if frame != place.frame:
            yield place, f"{what}: its frame is another"
        elif position > source.size_bytes:
            yield place, f"{what} is cut short"


def _oldest(repository: Repository, packs: Sequence[_Pack], share: Fraction) -> list[_Pack]:
    """The packs looked at longest ago, until they hold so much of all bytes."""
    looked_at = read_looked_at(repository.store.layout)
    wanted = share * sum(pack.entry.size_bytes for pack in packs)
    chosen: list[_Pack] = []
    taken = 0
    for pack in sorted(packs, key=lambda pack: looked_at.get(pack.entry.name, 0)):
        if taken >= wanted:
            break
        chosen.append(pack)
        taken += pack.entry.size_bytes
    return chosen


def _read(repository: Repository, packs: Sequence[_Pack], found: _Found, progress: Progress) -> int:
    """Read and hash every object of some packs, and of spares what they take; the stored bytes read."""
    objects = repository.store.objects
    lock = threading.Lock()
    entries = {pack.entry.name: pack.entry for pack in packs}
    places = [(place, True) for pack in packs for place in pack.rows]
    places += [(place, False) for pack in packs for place in pack.spares]
    total = sum(place.frame.stored_length for place, _ in places)
    if packs:
        progress.start("reading", total)

    def check(job: tuple[Location, bool]) -> None:
        place, is_row = job
        try:
            if is_row:
                objects.read_at(place)
            else:
                objects.payload(place)
        except (OSError, CkstoreError) as error:
            with lock:
                if place.frame.id not in found.objects and _is_named(repository, entries[place.pack]):
                    found.add("object", _what(error), place.pack, [place.frame.id] if is_row else ())
        progress.advance(place.frame.stored_length)

    repository.store.workers.map(check, sorted(places, key=lambda job: (job[0].pack, job[0].offset)))
    return total


def _what(error: OSError | CkstoreError) -> str:
    """What happened, without the way out: that is the same for all findings."""
    return error.what if isinstance(error, CkstoreError) else str(error)


def _graph(repository: Repository, commits: Commits, known: set[bytes], found: _Found) -> int:
    """Walk everything the refs reach but what is known to be absent; how many commits. Notes whom findings affect."""
    absent = repository.absent()
    seen: dict[bytes, set[tuple[str, str]]] = {}
    pending, visited = list(commits.refs.values()), set()
    while pending:
        id = pending.pop()
        if id in visited:
            continue
        visited.add(id)
        try:
            commit = commits.read_commit(id)
        except CkstoreError as error:
            found.commits.setdefault(("commit", f"commit {id.hex()}: {_what(error)}"), []).append(id.hex())
            continue
        pending += commit.parents
        bad = _blamed([id], known, found)
        for component in commit.named():
            if component.name in absent.get(id, ()):
                continue
            if component.tree not in seen:
                seen[component.tree] = _bad_of_tree(repository, component.tree, known, found)
            bad |= seen[component.tree]
        for one in bad:
            found.commits.setdefault(one, []).append(id.hex())
    return len(visited)


def _bad_of_tree(repository: Repository, tree: bytes, known: set[bytes], found: _Found) -> set[tuple[str, str]]:
    """The findings that affect a tree, and what it names."""
    ids: set[bytes] = set()
    try:
        for _, id in objects_of_tree(repository.store.objects, tree):
            ids.add(id)
    except CkstoreError as error:
        return _blamed(ids, known, found) or {("object", _what(error))}
    return _blamed(ids, known, found)


def _blamed(ids: Iterable[bytes], known: set[bytes], found: _Found) -> set[tuple[str, str]]:
    """The findings for those of some objects that are missing or cannot be read."""
    bad = {found.objects[id] for id in ids if id in found.objects}
    return bad | {("object", f"object {id.hex()} is missing") for id in ids if id not in known}
