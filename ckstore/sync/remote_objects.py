"""Objects read from a remote by range, without bringing them here: single tensors, and slices of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import Absent, Format, Integrity
from ckstore.objects.encoding import encode
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.remote.catalog import Catalog
from ckstore.remote.segment import pack_object
from ckstore.storage.chain import DEEPEST, suits
from ckstore.sync.frames import ranges
from ckstore.sync.reader import RemoteReader
from ckstore.sync.survey import survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.objects.commit import Commit
    from ckstore.remote.interface import Remote
    from ckstore.remote.segment import Place
    from ckstore.sync.local import Local

_GAP_BYTES = 16 << 10
_BATCH_BYTES = 64 << 20


class _Chain(NamedTuple):
    """Frames to decode, the object's own first; the last one hangs on nothing, or on a chunk that is here."""

    places: list[Place]
    base_is_here: bool


class RemoteObjects:
    """An ObjectReader over what is here and on a remote; for one thread. Only blocks of the catalog are read.

    Every method raises `Integrity` for a damaged or absent object, and whatever the remote raises. `read_bytes` counts
    what was read of packs, `catalog_bytes` of the catalog.
    """

    def __init__(self, remote: Remote, local: Local) -> None:
        found = survey(remote, local)
        self._survey = found
        self._remote = remote
        self._local = local
        self._catalog = Catalog(remote, found.contents.segments, local.cache, whole=False)
        self._reader = RemoteReader(remote, local, self._catalog, ahead=False)
        self._coder = Coder()
        self.read_bytes = 0

    @property
    def catalog_bytes(self) -> int:
        """What was read of the catalog."""
        return self._catalog.read_bytes

    def check_present(self, commit: Commit, component: str) -> None:
        """Raise `Absent` where the data of a component is known not to be on the remote, or is not known there."""
        id = object_id(Kind.COMMIT, encode(commit))
        reason = self._survey.holes.get(id, {}).get(component)
        if reason is None:
            (tree,) = [one.tree for one in commit.named() if one.name == component]
            if not self._local.known([tree]) and self._catalog.locate(tree) is None:
                reason = "its data was never pushed there"
        if reason is not None:
            raise Absent(
                f"the component {component!r} of {id.hex()[:12]} is not here, and {self._remote.url} lacks it too",
                why=reason,
                hint="ask another remote",
            )

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of a tree or commit, or of a chunk that is here."""
        return self._reader.read(kind, id)

    def read_into(self, id: bytes, target: memoryview) -> None:
        """Fill `target`, exactly as long as the chunk, with the chunk's raw bytes."""
        self.fill([(id, target)])

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        """`read_into` for many chunks at once: what lies together is read together."""
        known = self._local.known({id for id, _ in requests})
        chains = self._chains({id for id, _ in requests} - known)
        batch: list[tuple[bytes, memoryview]] = []
        size_bytes = 0
        for id, target in requests:
            if id in known:
                data = self._local.read(Kind.CHUNK, id)
                if len(data) != target.nbytes:
                    raise Integrity(f"object {id.hex()} is not a chunk of {target.nbytes} bytes")
                target[:] = data
                continue
            batch.append((id, target))
            size_bytes += sum(place.frame.stored_length for place in chains[id].places)
            if size_bytes >= _BATCH_BYTES:
                self._fill(batch, chains)
                batch, size_bytes = [], 0
        self._fill(batch, chains)

    def _fill(self, requests: Sequence[tuple[bytes, memoryview]], chains: dict[bytes, _Chain]) -> None:
        wanted = {place.frame.id: place for id, _ in requests for place in chains[id].places}
        payloads: dict[bytes, memoryview] = {}
        for run in ranges(sorted(wanted.values(), key=lambda place: (place.pack, place.offset)), _GAP_BYTES):
            start, stop = run[0].offset, run[-1].stop
            data = memoryview(self._remote.get(pack_object(run[0].pack), start, stop))
            self.read_bytes += stop - start
            for place in run:
                payloads[place.frame.id] = self._payload(place, data[place.offset - start : place.stop - start])
        for id, target in requests:
            self._decode(id, chains[id], payloads, target)

    def _payload(self, place: Place, frame: memoryview) -> memoryview:
        try:
            found, _ = read_frame_header(frame)
        except Format as error:
            raise self._damaged(place.frame.id, str(error)) from error
        if found != place.frame:
            raise self._damaged(place.frame.id, "its frame is not the one that the index knows")
        return frame[FRAME_HEADER_SIZE:]

    def _decode(self, id: bytes, chain: _Chain, payloads: dict[bytes, memoryview], target: memoryview) -> None:
        if chain.places[0].frame.kind is not Kind.CHUNK or chain.places[0].frame.raw_length != target.nbytes:
            raise Integrity(f"object {id.hex()} is not a chunk of {target.nbytes} bytes")
        if chain.base_is_here:
            target[:] = self._local.read(Kind.CHUNK, chain.places[-1].frame.base)
        try:
            for place in reversed(chain.places):
                frame, payload = place.frame, payloads[place.frame.id]
                if frame.codec == Codec.DELTA and frame.base != NO_ID:
                    self._coder.add(frame.width, payload, target)
                else:
                    self._coder.decode(frame.codec, frame.width, payload, target)
        except (Format, Integrity) as error:
            raise self._damaged(id, str(error)) from error
        if object_id(Kind.CHUNK, target) != id:
            raise self._damaged(id, "its bytes have another hash")

    def _chains(self, ids: set[bytes]) -> dict[bytes, _Chain]:
        """What has to be decoded for each of `ids`; the catalog is asked for all of a depth at once."""
        found: dict[bytes, list[Place]] = {id: [] for id in ids}
        here: set[bytes] = set()
        asking = {id: id for id in ids}
        for _ in range(DEEPEST + 1):
            if not asking:
                return {id: _Chain(places, id in here) for id, places in found.items()}
            self._catalog.prepare(asking.values())
            bases: dict[bytes, bytes] = {}
            for id, wanted in asking.items():
                place = self._catalog.locate(wanted)
                before = found[id][-1].frame if found[id] else None
                if place is None or (before is not None and not suits(place.frame, before)):
                    raise Integrity(f"object {wanted.hex()} is missing on {self._remote.url}")
                found[id].append(place)
                if place.frame.base != NO_ID:
                    bases[id] = place.frame.base
            known = self._local.known(bases.values())
            for id in [id for id, base in bases.items() if base in known and self._suits_here(found[id][-1], base)]:
                here.add(id)
                del bases[id]
            asking = bases
        raise Integrity(f"a chain on {self._remote.url} is too long")

    def _suits_here(self, place: Place, base: bytes) -> bool:
        return self._local.chain(base)[0].frame.raw_length == place.frame.raw_length

    def _damaged(self, id: bytes, why: str) -> Integrity:
        return Integrity(
            f"object {id.hex()} on {self._remote.url} is damaged", why=why, hint="`ckstore repair --remote` mends it"
        )
