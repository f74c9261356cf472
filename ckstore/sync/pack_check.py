"""Reading all of a remote's packs: every frame is fetched, decoded and hashed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.digest import NO_ID, Kind, object_id, payload_checksum
from ckstore.errors import Format, Integrity, NotFound
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.pack.reader import read_sealed
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.workers import PerThread, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.remote.segment import Place, RemotePack
    from ckstore.sync.holding import Holding
    from ckstore.sync.local import Local

_WINDOW_BYTES = 8 << 20


class RemotePackSource:
    """A pack on a remote as `pack.reader.Source`, read on in windows; what was passed before is read by itself."""

    def __init__(self, remote: Remote, pack: RemotePack) -> None:
        self._remote = remote
        self._pack = pack
        self._start = 0
        self._held = b""
        self.read_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._pack.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        stop = min(offset + length, self.size_bytes)
        if not self._start <= offset <= stop <= self._start + len(self._held):
            onward = offset >= self._start + len(self._held)
            end = min(max(offset + _WINDOW_BYTES, stop), self.size_bytes) if onward else stop
            self._held = self._remote.get(self._pack.object_name, offset, end)
            self._start = offset
            self.read_bytes += len(self._held)
        return self._held[offset - self._start : stop - self._start]


class PackCheck:
    """Checks packs of a remote; `bad` are frames that are not what the catalog says, `faults` what is wrong by pack."""

    def __init__(self, holding: Holding, local: Local) -> None:
        self._holding = holding
        self._remote = holding.survey.remote
        self._local = local
        self._lock = threading.Lock()
        self._coders = PerThread()
        self.faults: dict[bytes, str] = {}
        self.bad: dict[Place, str] = {}
        self.read_bytes = 0

    def run(self, names: Sequence[bytes], jobs: int, progress: Progress) -> None:
        """Read the packs `names`, which are there in their length. Raises whatever the remote raises but damage."""
        places: dict[bytes, list[Place]] = {name: [] for name in names}
        for pointer in self._holding.catalog.pointers:
            for place in self._holding.catalog.segment(pointer.digest).places():
                if place.pack in places:
                    places[place.pack].append(place)
        progress.start("reading", sum(self._holding.packs[name].size_bytes for name in names))
        workers = Workers(jobs)
        try:
            workers.map(lambda name: self._pack(name, places[name], progress), names)
        finally:
            workers.close()

    def _pack(self, name: bytes, places: Sequence[Place], progress: Progress) -> None:
        pack = self._holding.packs[name]
        source = RemotePackSource(self._remote, pack)
        try:
            for place in sorted(set(places), key=lambda place: place.offset):
                what = self._frame(source, place)
                if what is not None:
                    with self._lock:
                        self.bad[place] = what
                        self.faults.setdefault(name, f"byte {place.offset}: {what}")
            sealed = read_sealed(source)
            if (sealed.name, sealed.digest) != (pack.name, pack.digest):
                raise Format("it is another pack")
        except (Format, Integrity, NotFound) as error:
            with self._lock:
                self.faults.setdefault(name, error.what)
        with self._lock:
            self.read_bytes += source.read_bytes
        progress.advance(pack.size_bytes)

    def _frame(self, source: RemotePackSource, place: Place) -> str | None:
        """What is wrong with a frame; what it is kept against is taken from wherever it is sound."""
        data = memoryview(source.read_at(place.offset, place.stop - place.offset))
        try:
            raw = self._raw(place, _payload(place, data))
        except (Format, Integrity) as error:
            return error.what
        if raw is not None and object_id(place.frame.kind, raw) != place.frame.id:
            return "its bytes have another hash"
        return None

    def _raw(self, place: Place, payload: memoryview) -> bytearray | None:
        """What a frame stands for; None where what it is kept against cannot be had: that is no fault of its own."""
        frame = place.frame
        coder = self._coders.get(Coder)
        data = bytearray(frame.raw_length)
        if frame.codec == Codec.DELTA and frame.base != NO_ID:
            base = self._base(place)
            if base is None:
                return None
            data[:] = base
            coder.add(frame.width, payload, memoryview(data))
        else:
            coder.decode(frame.codec, frame.width, payload, memoryview(data))
        return data

    def _base(self, place: Place) -> bytes | bytearray | None:
        """The bytes that a delta is added to: from here, else along its chain there."""
        id = place.frame.base
        if self._local.known([id]):
            try:
                data = self._local.read(Kind.CHUNK, id)
            except Integrity:
                data = b""
            if len(data) == place.frame.raw_length:
                return data
        chain: list[Place] = []
        after = place
        while after.frame.base != NO_ID:
            with self._lock:
                below = self._holding.catalog.locate(after.frame.base)
            if below is None or not suits(below.frame, after.frame) or len(chain) > DEEPEST:
                return None
            chain.append(below)
            after = below
        raw = bytearray(place.frame.raw_length)
        coder = self._coders.get(Coder)
        try:
            for below in reversed(chain):
                name = self._holding.packs[below.pack].object_name
                payload = _payload(below, memoryview(self._remote.get(name, below.offset, below.stop)))
                if below.frame.codec == Codec.DELTA and below.frame.base != NO_ID:
                    coder.add(below.frame.width, payload, memoryview(raw))
                else:
                    coder.decode(below.frame.codec, below.frame.width, payload, memoryview(raw))
        except (Format, Integrity, NotFound):
            return None
        return raw if object_id(Kind.CHUNK, raw) == id else None


def _payload(place: Place, data: memoryview) -> memoryview:
    """The payload of a frame. Raises `Integrity`, `Format`."""
    frame, checksum = read_frame_header(data)
    if frame != place.frame:
        raise Integrity("its frame is not the one that the index knows")
    payload = data[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + frame.stored_length]
    if payload.nbytes != frame.stored_length or payload_checksum([payload]) != checksum:
        raise Integrity("its payload has another checksum")
    return payload
