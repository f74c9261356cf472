"""verify: is what the repository promises really there?"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError
from ckstore.graph.reachability import objects_of_tree
from ckstore.pack.reader import read_sealed
from ckstore.progress import SILENT
from ckstore.storage.verified import write_verified
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository
    from ckstore.storage.location import Location


@dataclass(frozen=True)
class Finding:
    """Something wrong: `kind` is journal, pack, index, object or commit; `commits` names what it affects."""

    kind: str
    what: str
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """What was checked, and what was found. No findings: everything the refs reach is there."""

    commits: int
    objects: int
    packs: int
    read_bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(
    repository: Repository, progress: Progress = SILENT, *, read_data: bool = False, now_ns: int | None = None
) -> VerifyResult:
    """Check journal, packs against index, and that every commit's objects are known; with `read_data`, all bytes.

    Changes nothing and never raises for damage: it becomes a Finding. What packs were read and found sound is noted
    with the time `now_ns`, for `status`.
    """
    commits = repository.commits()
    findings = list(_journal(repository))
    packs, locations, more = _packs(repository)
    findings += more
    damaged: dict[bytes, str] = {}
    read_bytes = 0
    if read_data:
        damaged, read_bytes = _read_all(repository, locations, progress)
        if now_ns is not None:
            _note_sound(repository, locations, damaged, findings, now_ns)
    count, lost = _graph(repository, commits, {location.frame.id for location in locations}, damaged)
    findings += lost
    return VerifyResult(count, len(locations), packs, read_bytes, tuple(findings))


def _journal(repository: Repository) -> Iterator[Finding]:
    """The newest segment read from its first byte, against what the index followed."""
    store = repository.store
    copies = store.ask(View.copies)  # first: a commit beside this one may lengthen the journal meanwhile
    try:
        frames = store.journal.newest().frames
    except (OSError, CkstoreError) as error:
        yield Finding("journal", str(error))
        return
    if [frame.raw for frame in frames[: len(copies)]] != copies:
        yield Finding("journal", "the journal is not the one the index followed")


def _packs(repository: Repository) -> tuple[int, list[Location], list[Finding]]:
    """Every pack's table against journal and index."""
    store = repository.store
    findings = []
    entries, locations = store.ask(lambda view: (view.packs(), list(view.locations())))
    indexed: dict[bytes, list[Location]] = {}
    for location in locations:
        indexed.setdefault(location.pack, []).append(location)
    for entry in entries:
        where = store.layout.pack(entry.name).name
        try:
            sealed = read_sealed(store.packs.get(entry.name))
        except (OSError, CkstoreError) as error:
            findings.append(Finding("pack", f"{where}: {error}"))
            continue
        if (sealed.name, sealed.digest, sealed.size_bytes) != (entry.name, entry.digest, entry.size_bytes):
            findings.append(Finding("pack", f"{where} is not the pack the journal names"))
            continue
        rows = {row.offset: row.frame for row in sealed.rows}
        findings += [
            Finding("index", f"{location.frame.id.hex()} is not where the index says")
            for location in indexed.get(entry.name, ())
            if rows.get(location.offset) != location.frame
        ]
    return len(entries), locations, findings


def _read_all(repository: Repository, locations: list[Location], progress: Progress) -> tuple[dict[bytes, str], int]:
    """Read and hash every object; the damaged ones with what is wrong, and the stored bytes read."""
    damaged: dict[bytes, str] = {}
    lock = threading.Lock()
    total = sum(location.frame.stored_length for location in locations)
    progress.start("reading", total)

    def check(location: Location) -> None:
        try:
            repository.store.objects.read_at(location)
        except (OSError, CkstoreError) as error:
            with lock:
                damaged[location.frame.id] = str(error)
        progress.advance(location.frame.stored_length)

    repository.store.workers.map(check, sorted(locations, key=lambda location: (location.pack, location.offset)))
    return damaged, total


def _note_sound(
    repository: Repository,
    locations: list[Location],
    damaged: dict[bytes, str],
    findings: list[Finding],
    now_ns: int,
) -> None:
    """Note the packs that nothing is wrong with."""
    bad = {location.pack for location in locations if location.frame.id in damaged}
    bad |= {location.pack for location in locations if any(location.pack.hex() in one.what for one in findings)}
    entries = [entry.name for entry in repository.store.ask(View.packs)]
    if repository.store.may_write:
        sound = [name for name in entries if name not in bad]
        write_verified(repository.store.layout, sound, now_ns, existing=entries)


def _graph(
    repository: Repository, commits: Commits, known: set[bytes], damaged: dict[bytes, str]
) -> tuple[int, list[Finding]]:
    """Walk everything the refs reach but what is known to be absent; a finding for what is not whole."""
    affected: dict[str, list[str]] = {}
    absent = repository.absent()
    seen: dict[bytes, set[bytes]] = {}
    pending, visited = list(commits.refs.values()), set()
    while pending:
        id = pending.pop()
        if id in visited:
            continue
        visited.add(id)
        try:
            commit = commits.read_commit(id)
        except CkstoreError as error:
            affected.setdefault(f"commit {id.hex()}: {error}", []).append(id.hex())
            continue
        pending += commit.parents
        bad = {id} if id in damaged else set()
        for component in commit.components:
            if component.name in absent.get(id, ()):
                continue
            if component.tree not in seen:
                try:
                    objects = {found for _, found in objects_of_tree(repository.store.objects, component.tree)}
                    seen[component.tree] = {one for one in objects if one not in known or one in damaged}
                except CkstoreError as error:
                    damaged.setdefault(component.tree, str(error))
                    seen[component.tree] = {component.tree}
            bad |= seen[component.tree]
        for one in bad:
            affected.setdefault(damaged.get(one, f"object {one.hex()} is missing"), []).append(id.hex())
    reached = {one for bad in seen.values() for one in bad} | visited
    for one, what in damaged.items():
        if one not in reached:
            affected.setdefault(what, [])
    return len(visited), [Finding("object", what, tuple(ids)) for what, ids in affected.items()]
