"""Frames of a remote are brought here in units: each is verified, and recorded after those before it.

A unit holds only what can be read with what is here by then: so that whatever an interrupted fetch has brought can be
used, and the next one goes on behind it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckstore.digest import NO_ID
from ckstore.errors import Integrity
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.record import FETCH, Record
from ckstore.storage.workers import Workers
from ckstore.sync.frames import Frames, ranges
from ckstore.sync.units import Units

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.pack.format import Frame
    from ckstore.progress import Progress
    from ckstore.remote.catalog import Catalog
    from ckstore.remote.interface import Remote
    from ckstore.remote.segment import Place
    from ckstore.sync.local import Incoming, Local
    from ckstore.sync.needs import Need

UNIT_BYTES = 256 << 20


class Transfer:
    """What is to be brought of a remote: `needs` that are not here, and what those hang on."""

    def __init__(self, remote: Remote, local: Local, catalog: Catalog, needs: Mapping[bytes, Need]) -> None:
        self._remote = remote
        self._local = local
        packs = catalog.packs
        self._ranks = {name: rank for rank, name in enumerate(packs)}
        self._frames = Frames(remote, packs)
        self._streams: dict[bytes, str] = {}
        self._here: dict[bytes, Frame] = {}
        self.places = self._wanted(catalog, needs)

    @property
    def stored_bytes(self) -> int:
        """The payloads of all that is to come."""
        return sum(place.frame.stored_length for place in self.places)

    def ranges(self) -> list[list[Place]]:
        """What each request of one unit for everything would bring."""
        return list(ranges(self.places))

    def run(self, time_ns: int, jobs: int, progress: Progress) -> None:
        """Bring everything. Raises `Integrity` where something is not what its id says; `Conflict`: try again."""
        progress.start("fetching", self.stored_bytes)
        workers = Workers(jobs)
        try:
            left = self.places
            while left:
                later: list[Place] = []
                units = Units(self._local.incoming, partial(self._read, progress), Record(time_ns, FETCH))
                units.run(workers, self._requests(left, later))
                if len(later) == len(left):
                    raise Integrity(
                        f"{len(later)} objects on {self._remote.url} hang on others that are missing",
                        hint="`ckstore verify --remote` lists all losses",
                    )
                left = later
        finally:
            workers.close()

    def _wanted(self, catalog: Catalog, needs: Mapping[bytes, Need]) -> list[Place]:
        """Where all that is to come lies, pack by pack as they came, in each as it lies."""
        known = self._local.known(needs)
        found: dict[bytes, Place] = {}
        for id, need in needs.items():
            if id in known:
                continue
            wanted, hanging = id, 0
            while wanted not in found:
                place = catalog.locate(wanted)
                if place is None or hanging > DEEPEST:
                    raise Integrity(
                        f"object {wanted.hex()} is missing on {self._remote.url}",
                        hint="`ckstore verify --remote` lists all losses; `ckstore repair --remote` mends what is here",
                    )
                found[wanted] = place
                self._streams[wanted] = need.stream
                hanging += 1
                base = place.frame.base
                if base == NO_ID or self._hangs_here(place.frame, hanging):
                    break
                wanted = base
        return sorted(found.values(), key=lambda place: (self._ranks[place.pack], place.offset))

    def _hangs_here(self, frame: Frame, hanging: int) -> bool:
        """Whether what a frame is kept against is here, in a version that it can be kept against."""
        chain = self._local.chain(frame.base)
        if not chain or not suits(chain[0].frame, frame) or len(chain) + hanging > DEEPEST:
            return False
        self._here[frame.base] = chain[0].frame
        return True

    def _closed(self, unit: Sequence[Place]) -> tuple[list[Place], list[Place]]:
        """Those of a unit that can be read with what is here, or is in it; and the others."""
        closed: dict[bytes, Frame] = {}
        for place in sorted(unit, key=lambda place: place.frame.version):
            frame = place.frame
            base = closed.get(frame.base) or self._here.get(frame.base)
            if frame.base == NO_ID or (base is not None and suits(base, frame)):
                closed[frame.id] = frame
        return [one for one in unit if one.frame.id in closed], [one for one in unit if one.frame.id not in closed]

    def _requests(self, places: Sequence[Place], later: list[Place]) -> Iterator[list[list[Place]]]:
        """The requests of each unit; what hangs on something that is not here by then is told in `later`."""
        for unit in _units(places):
            closed, open_ = self._closed(unit)
            later += open_
            self._here |= {place.frame.id: place.frame for place in closed}
            if closed:
                yield list(ranges(closed))

    def _read(self, progress: Progress, incoming: Incoming, places: Sequence[Place]) -> None:
        for place, payload in self._frames.read(places):
            incoming.add(self._streams[place.frame.id], place.frame, (payload,))
            progress.advance(place.frame.stored_length)


def _units(places: Sequence[Place]) -> Iterator[list[Place]]:
    unit: list[Place] = []
    size_bytes = 0
    for place in places:
        if size_bytes >= UNIT_BYTES and place.pack != unit[-1].pack:
            yield unit
            unit, size_bytes = [], 0
        unit.append(place)
        size_bytes += place.frame.stored_length
    if unit:
        yield unit
