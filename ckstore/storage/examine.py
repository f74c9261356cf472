"""Which frames are sound: every byte of every pack is read, decoded and hashed, whatever the index says."""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import NO_ID
from ckstore.errors import Format, Integrity, SaveFailed
from ckstore.pack.reader import read_sealed, recover
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.location import Location
from ckstore.storage.view import View
from ckstore.storage.workers import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.digest import Kind
    from ckstore.pack.format import Row
    from ckstore.progress import Progress
    from ckstore.storage.journal import Cursor
    from ckstore.storage.record import PackEntry, Target
    from ckstore.storage.store import Store

_DAMAGE = frozenset({errno.ENOENT, errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN})
"""What the system says of files and sectors that are lost; all else is no damage, and ends the examination."""


class _Structure(NamedTuple):
    """What a pack says it holds, as far as that can be found out, and what is wrong with that."""

    rows: Sequence[Row]
    fault: str | None


@dataclass
class Examined:
    """Packs and refs at the place `end` of the journal, and `best`: the sound frame of the lowest version, by object.

    `faults` says of packs, by name, what is damaged in their own bytes; `unusable` counts by pack the frames that
    nothing can be made of, because they are damaged or what they are kept against is lost. `condemned` are packs that
    wait for their removal and are damaged.
    """

    end: Cursor
    refs: Mapping[str, Target]
    packs: Sequence[PackEntry]
    best: dict[bytes, Location] = field(default_factory=dict)
    faults: dict[bytes, str] = field(default_factory=dict)
    unusable: dict[bytes, int] = field(default_factory=dict)
    condemned: list[bytes] = field(default_factory=list)

    @property
    def damaged(self) -> list[PackEntry]:
        """The packs to replace."""
        return [entry for entry in self.packs if entry.name in self.faults or entry.name in self.unusable]

    def chain(self, place: Location) -> list[Location] | None:
        """A frame and the sound ones that it needs; None where one is lost."""
        chain = [place]
        while chain[-1].frame.base != NO_ID:
            base = self.best.get(chain[-1].frame.base)
            if base is None or not suits(base.frame, chain[-1].frame) or len(chain) > DEEPEST:
                return None
            chain.append(base)
        return chain


class SoundReader:
    """Reads trees and commits from sound frames, wherever the index would look."""

    def __init__(self, store: Store, examined: Examined) -> None:
        self._store = store
        self._examined = examined

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of an object. Raises `Integrity`."""
        place = self._examined.best.get(id)
        chain = None if place is None or place.frame.kind is not kind else self._examined.chain(place)
        if chain is None:
            raise Integrity(f"object {id.hex()} is lost", hint="a remote may still hold it")
        try:
            return self._store.objects.read_along(chain)
        except OSError as error:
            raise Integrity(f"cannot read pack {chain[0].pack.hex()}: {error.strerror}") from error


class Examiner:
    """Examines a store; what it has found sound is not read again when it examines once more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._structures: dict[bytes, _Structure] = {}
        self._sound: set[tuple[bytes, int]] = set()
        self._lock = threading.Lock()

    def examine(self, progress: Progress) -> Examined:
        """Read everything. Raises `SaveFailed` where packs cannot be read for another reason than damage."""
        store = self._store
        store.refresh()
        end, refs, packs, condemned = store.ask(
            lambda view: (view.cursor(store.index.id), view.refs(), View.packs(view), View.condemned(view))
        )
        if end is None:
            raise Integrity("the index is empty", hint="open the repository again")
        found = Examined(end, refs, packs)
        levels: dict[int, list[Location]] = {}
        for entry in packs:
            structure = self._structure(entry)
            if structure.fault is not None:
                found.faults[entry.name] = structure.fault
            for row in structure.rows:
                levels.setdefault(row.frame.version, []).append(Location(entry.name, row.offset, row.frame))
        progress.start("reading", sum(place.frame.stored_length for level in levels.values() for place in level))
        for version in sorted(levels):  # what a frame is kept against has a lower one
            self._level(found, levels[version], progress)
        found.condemned = [one.pack.name for one in condemned if self._is_rotten(one.pack)]
        return found

    def _structure(self, entry: PackEntry) -> _Structure:
        known = self._structures.get(entry.name)
        if known is None:
            known = self._structures[entry.name] = _read_structure(self._store, entry)
        return known

    def _level(self, found: Examined, places: Sequence[Location], progress: Progress) -> None:
        """Frames of one version."""
        sound: set[Location] = set()

        def check(job: list[Location]) -> None:
            for place in job:
                if self._is_sound(found, place):
                    with self._lock:
                        sound.add(place)
                progress.advance(place.frame.stored_length)

        self._store.workers.map(check, jobs(places, lambda place: place.frame.stored_length))
        for place in places:
            if place in sound:
                found.best.setdefault(place.frame.id, place)
            else:
                found.unusable[place.pack] = found.unusable.get(place.pack, 0) + 1

    def _is_sound(self, found: Examined, place: Location) -> bool:
        """Whether a frame stands for what it says; what its own bytes are to blame for is noted."""
        chain = found.chain(place)
        key = (place.pack, place.offset)
        if chain is not None and key in self._sound:
            return True
        try:
            if chain is None:
                self._store.objects.payload(place)
                return False
            self._store.objects.read_along(chain)
        except OSError as error:
            _check_damage(place.pack, error)
            fault = f"byte {place.offset}: {error.strerror}"
        except Integrity:
            fault = f"byte {place.offset}: a frame is damaged"
        else:
            with self._lock:
                self._sound.add(key)
            return True
        with self._lock:
            found.faults.setdefault(place.pack, fault)
        return False

    def _is_rotten(self, entry: PackEntry) -> bool:
        """Whether anything of a condemned pack is damaged, or it is gone."""
        structure = self._structure(entry)
        if structure.fault is not None:
            return True
        for row in structure.rows:
            try:
                self._store.objects.payload(Location(entry.name, row.offset, row.frame))
            except OSError as error:
                _check_damage(entry.name, error)
                return True
            except Integrity:
                return True
        return False


def _read_structure(store: Store, entry: PackEntry) -> _Structure:
    store.packs.forget(entry.name)  # a file that is gone may still be open
    try:
        source = store.packs.get(entry.name)
        try:
            sealed = read_sealed(source)
            if (sealed.name, sealed.digest, sealed.size_bytes) == (entry.name, entry.digest, entry.size_bytes):
                return _Structure(sealed.rows, None)
            fault = "it is not the pack that the journal names"
        except Format as error:
            fault = str(error)
        return _Structure(list(_as_far_as_possible(recover(source))), fault)
    except OSError as error:
        _check_damage(entry.name, error)
        return _Structure((), "it is gone" if error.errno == errno.ENOENT else f"it cannot be read: {error.strerror}")


def _as_far_as_possible(rows: Iterator[Row]) -> Iterator[Row]:
    with suppress(OSError):
        yield from rows


def _check_damage(pack: bytes, error: OSError) -> None:
    """Raise `SaveFailed` unless that is how a disk tells that something is lost."""
    if error.errno not in _DAMAGE:
        raise SaveFailed(
            f"cannot read pack {pack.hex()}: {error.strerror}",
            why="that is no damage, and nothing has been changed",
            hint="check permissions and mount, then try again",
        ) from error
