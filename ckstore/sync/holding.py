"""What a remote really holds: its root, state, segments and packs, each looked at whatever the others are like."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckstore.errors import Format, Integrity, NotFound
from ckstore.remote.catalog import Catalog
from ckstore.remote.segment import open_segment
from ckstore.remote.state import State, decode_state
from ckstore.sync.survey import survey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

    from ckstore.remote.interface import Remote, Stat
    from ckstore.remote.root import SegmentPointer
    from ckstore.remote.segment import RemotePack
    from ckstore.sync.local import Local


class _Held:
    """A `SegmentCache` in memory: what has been read of the remote itself is not read again."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}

    def get(self, digest: bytes) -> Buffer | None:
        return self._data.get(digest)

    def put(self, digest: bytes, data: bytes) -> None:
        self._data[digest] = data

    def drop(self, digest: bytes) -> None:
        self._data.pop(digest, None)


class Holding:
    """A remote as its newest root describes it, as far as that holds together.

    `catalog` is of the segments that are sound there; `lost` are those that are not, with what is wrong; `packs` those
    of the catalog, `pack_faults` says of those that are gone, or of another length, what is wrong. `state_fault` is
    None for a sound state. With `kept` what is damaged there and kept here is taken from here for `catalog` and `state`
    all the same. Raises `Integrity` or `Format` where the root itself is damaged or older than it was, `NotFound` where
    there is none, and whatever the remote raises.
    """

    def __init__(
        self, remote: Remote, local: Local, *, kept: bool = False, foreign: bool = False, older: bool = False
    ) -> None:
        self.survey = survey(remote, local, foreign=foreign, older=older)
        contents = self.survey.contents
        if not contents.generation:
            raise NotFound(f"{remote.url} holds nothing yet", hint="`ckstore push` sends something there")
        self.state, self.state_fault = self._state(remote, kept=kept)
        held = _Held()
        self.lost: dict[SegmentPointer, str] = {}
        known = []
        for pointer in contents.segments:
            try:
                Catalog(remote, [pointer], held)
            except (Integrity, Format, NotFound) as error:
                self.lost[pointer] = error.what
                copy = local.cache.get(pointer.digest) if kept else None
                if copy is None or not _is_segment(pointer, copy):
                    continue
                held.put(pointer.digest, bytes(memoryview(copy)))
            known.append(pointer)
        self.catalog = Catalog(remote, known, held)
        self.packs: Mapping[bytes, RemotePack] = self.catalog.packs
        self.listed: Mapping[str, Stat] = {one.name: one for one in remote.list("packs/")}
        self.pack_faults = {name: fault for name, pack in self.packs.items() if (fault := self._fault(pack))}

    def _state(self, remote: Remote, *, kept: bool) -> tuple[State, str | None]:
        """The state as it is there; where that is damaged, as it is kept here, or none at all."""
        pointer = self.survey.contents.state
        if pointer is None:
            return State(), None
        try:
            return decode_state(remote.get(pointer.name, 0, pointer.size_bytes), pointer), None
        except (Integrity, Format, NotFound) as error:
            fault = error.what
        copy = self.survey.local.cache.get(pointer.digest) if kept else None
        if copy is not None:
            with suppress(Integrity, Format):
                return decode_state(bytes(memoryview(copy)), pointer), fault
        return State(), fault

    def _fault(self, pack: RemotePack) -> str | None:
        there = self.listed.get(pack.object_name)
        if there is None:
            return "it is gone"
        if there.size_bytes != pack.size_bytes:
            return f"it has {there.size_bytes:,} bytes in place of {pack.size_bytes:,}"
        return None

    @property
    def holes(self) -> Mapping[bytes, Mapping[str, str]]:
        """The components that are known to be absent there, with the reason, by commit."""
        found: dict[bytes, dict[str, str]] = {}
        for hole in self.state.holes:
            found.setdefault(hole.commit, {})[hole.component] = hole.reason
        return found


def _is_segment(pointer: SegmentPointer, data: Buffer) -> bool:
    view = memoryview(data)
    try:
        open_segment(pointer.digest, pointer.rows, pointer.packs, lambda start, stop: view[start:stop]).check()
    except (Integrity, Format):
        return False
    return True
