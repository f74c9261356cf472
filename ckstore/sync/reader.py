"""Trees and commits of a remote, read for walking: from here where they are here, else from there, verified."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ckstore.codec.choice import Coder
from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import CkstoreError, Format, Integrity
from ckstore.objects.encoding import MAX_OBJECT, decode_commit
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, Frame, read_frame_header
from ckstore.storage.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.objects.commit import Commit
    from ckstore.remote.catalog import Catalog
    from ckstore.remote.interface import Remote
    from ckstore.remote.segment import Place, RemotePack
    from ckstore.sync.local import Local

_WHOLE_BYTES = 8 << 20
_WINDOW_BYTES = 1 << 20
_KEPT_BYTES = 64 << 20

_NEAR_BYTES = 256 << 10
"""Packs up to this length are read before they are asked for: such are those of trees and commits, mostly."""

_MOST_NEAR = 16


class _Kept(NamedTuple):
    frame: Frame
    payload: bytes


class RemoteReader:
    """A MetaReader. Whoever reads a tree or commit reads its neighbours next, and then those of the push before: with
    `ahead` they come along, with several `jobs` each time twice as many packs, on so many threads.

    With `local` None nothing is read here.
    """

    def __init__(
        self, remote: Remote, local: Local | None, catalog: Catalog, *, ahead: bool = True, jobs: int = 1
    ) -> None:
        self._remote = remote
        self._local = local
        self._catalog = catalog
        self._packs = catalog.packs
        self._earlier = [pack for pack in self._packs.values() if pack.size_bytes <= _NEAR_BYTES]
        self._ranks = {pack.name: rank for rank, pack in enumerate(self._earlier)}
        self._loaded: set[bytes] = set()
        self._jobs = jobs
        self._near = 0
        self._ahead = ahead
        self._coder = Coder()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._kept_bytes = 0

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of a tree or commit. Raises `Integrity`, `Format`, and whatever the remote raises."""
        if self._local is not None and self._local.known([id]):
            return self._local.read(kind, id)
        kept = self._kept.get(id)
        if kept is None:
            place = self._catalog.locate(id)
            if place is None:
                raise Integrity(
                    f"object {id.hex()} is missing on {self._remote.url}",
                    hint="`ckstore verify --remote` lists all losses; `ckstore repair --remote` mends what is here",
                )
            kept = self._load(place)
        else:
            self._kept.move_to_end(id)
        return self._decoded(kind, id, kept)

    def commit(self, id: bytes) -> Commit:
        """A commit. Raises as `read` does."""
        return decode_commit(self.read(Kind.COMMIT, id))

    def _decoded(self, kind: Kind, id: bytes, kept: _Kept) -> bytes:
        frame, payload = kept
        if frame.kind is not kind or kind is Kind.CHUNK or frame.base != NO_ID or frame.raw_length > MAX_OBJECT:
            raise Integrity(f"object {id.hex()} on {self._remote.url} is no {kind.name.lower()}")
        data = bytearray(frame.raw_length)
        try:
            self._coder.decode(frame.codec, frame.width, memoryview(payload), memoryview(data))
        except Format as error:
            raise Integrity(f"object {id.hex()} on {self._remote.url} is damaged", why=str(error)) from error
        if object_id(kind, data) != id:
            raise Integrity(
                f"object {id.hex()} on {self._remote.url} is damaged", hint="`ckstore repair --remote` mends it"
            )
        return bytes(data)

    def _load(self, place: Place) -> _Kept:
        """Read the frame at a place, and what lies around it."""
        pack = self._packs[place.pack]
        start, stop = _window(place, pack) if self._ahead else (place.offset, place.stop)
        near = self._before(pack) if self._ahead and self._jobs > 1 else []
        if not near:
            data = memoryview(self._remote.get(pack.object_name, start, stop))
        else:
            data = memoryview(self._with(pack, start, stop, near))
        self._take(data)
        at = place.offset - start
        payload = bytes(data[at + FRAME_HEADER_SIZE : at + FRAME_HEADER_SIZE + place.frame.stored_length])
        return _Kept(place.frame, payload)

    def _before(self, pack: RemotePack) -> list[RemotePack]:
        """Small packs that came before one, not read yet: none the first time, then one, two, four."""
        self._loaded.add(pack.name)
        rank = self._ranks.get(pack.name, 0)
        found: list[RemotePack] = []
        for other in reversed(self._earlier[max(rank - 4 * _MOST_NEAR, 0) : rank]):
            if len(found) == self._near:
                break
            if other.name not in self._loaded:
                found.append(other)
        self._near = min(max(2 * self._near, 1), _MOST_NEAR)
        return found

    def _with(self, pack: RemotePack, start: int, stop: int, near: Sequence[RemotePack]) -> bytes:
        """The bytes that are asked for; those of `near` are read at the same time, and kept."""
        data: dict[bytes, bytes] = {}

        def read(one: RemotePack) -> None:
            if one is pack:
                data[one.name] = self._remote.get(one.object_name, start, stop)
                return
            with suppress(CkstoreError):  # nobody has asked for it
                data[one.name] = self._remote.get(one.object_name, HEADER_SIZE, one.size_bytes)

        workers = Workers(self._jobs)
        try:
            workers.map(read, [pack, *near])
        finally:
            workers.close()
        for one in near:
            if one.name in data:
                self._loaded.add(one.name)
                self._take(memoryview(data[one.name]))
        return data[pack.name]

    def _take(self, data: memoryview) -> None:
        """Keep the trees and commits of the frames that `data` begins with."""
        at = 0
        while at + FRAME_HEADER_SIZE <= data.nbytes:
            try:
                frame, _ = read_frame_header(data[at:])
            except Format:
                break
            end = at + FRAME_HEADER_SIZE + frame.stored_length
            if end > data.nbytes:
                break
            if frame.kind is not Kind.CHUNK:
                self._keep(_Kept(frame, bytes(data[at + FRAME_HEADER_SIZE : end])))
            at = end

    def _keep(self, kept: _Kept) -> None:
        if kept.frame.id in self._kept:
            return
        self._kept[kept.frame.id] = kept
        self._kept_bytes += len(kept.payload)
        while self._kept_bytes > _KEPT_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone.payload)


def _window(place: Place, pack: RemotePack) -> tuple[int, int]:
    """Which bytes of a pack to read: small ones whole."""
    if pack.size_bytes <= _WHOLE_BYTES:
        return HEADER_SIZE, pack.size_bytes
    return place.offset, min(pack.size_bytes, max(place.stop, place.offset + _WINDOW_BYTES))
