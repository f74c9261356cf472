"""Reads objects of the local store: index, pack, codec, and a hash over every byte that is handed out."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol, TypeVar

from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.codec.room import Room
from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import Format, Integrity
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.storage.workers import PerThread, jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckstore.storage.index import Location, View
    from ckstore.storage.pack_file import PackFiles
    from ckstore.storage.workers import Workers

T = TypeVar("T")
_GONE = frozenset({errno.ENOENT, errno.ESTALE})
_DEEPEST = 64


class Ask(Protocol):
    """Puts a question to the index as it is now; a damaged index is made anew first."""

    def __call__(self, question: Callable[[View], T]) -> T: ...


class _Scratch:
    """A thread's reused buffers."""

    def __init__(self) -> None:
        self.coder = Coder()
        self.header = bytearray(FRAME_HEADER_SIZE)
        self.payload = Room(CHUNK_SIZE)
        self._bases: list[Room] = []

    def base(self, level: int, length: int) -> memoryview:
        while len(self._bases) <= level:
            self._bases.append(Room(CHUNK_SIZE))
        return self._bases[level].take(length)


class ObjectStore:
    """An ObjectReader over the local packs.

    `ask` puts a question to the index; `refresh` brings the index up to date with the journal and is tried once
    where an object is not where the index says.
    """

    def __init__(self, ask: Ask, packs: PackFiles, workers: Workers, refresh: Callable[[], object]) -> None:
        self._ask = ask
        self._packs = packs
        self._workers = workers
        self._refresh = refresh
        self._scratch = PerThread()

    def locate(self, id: bytes) -> Location | None:
        """Where an object lies, as far as the index knows."""
        return self._ask(lambda view: view.locate(id))

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of `ids` that the index knows."""
        return self._ask(lambda view: {id for id in ids if view.get("frames", id) is not None})

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of an object, verified. Raises `Integrity`."""
        location = self._found(id)
        if location.frame.kind is not kind:
            raise Integrity(f"object {id.hex()} is a {location.frame.kind.name.lower()}, not a {kind.name.lower()}")
        data = bytearray(location.frame.raw_length)
        self._read(location, memoryview(data))
        return bytes(data)

    def read_at(self, location: Location) -> bytes:
        """The raw bytes of the object at a known place, verified. Raises `Integrity` or OSError."""
        data = bytearray(location.frame.raw_length)
        self._read_once(location, memoryview(data))
        return bytes(data)

    def read_into(self, id: bytes, target: memoryview) -> None:
        """Fill `target` with a chunk, verified. Raises `Integrity`; `target` is then not to be used."""
        location = self._found(id)
        if location.frame.kind is not Kind.CHUNK or location.frame.raw_length != target.nbytes:
            raise Integrity(f"object {id.hex()} is not a chunk of {target.nbytes} bytes")
        self._read(location, target)

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        """Read many chunks, on all threads."""
        self._workers.map(self._fill_job, jobs(requests, lambda request: request[1].nbytes))

    def _fill_job(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        for id, target in requests:
            self.read_into(id, target)

    def _found(self, id: bytes) -> Location:
        location = self.locate(id)
        if location is None and self._refresh():
            location = self.locate(id)
        if location is None:
            raise Integrity(
                f"object {id.hex()} is missing", hint="`ckstore verify` lists all losses; a remote may still hold it"
            )
        return location

    def _read(self, location: Location, target: memoryview) -> None:
        try:
            self._read_once(location, target)
        except OSError as error:
            if error.errno not in _GONE:
                raise Integrity(f"cannot read pack {location.pack.hex()}: {error.strerror}") from error
            self._packs.forget(location.pack)
            self._refresh()
            again = self.locate(location.frame.id)
            try:
                if again is None:
                    raise FileNotFoundError(errno.ENOENT, "the object is in no pack any more")
                self._read_once(again, target)
            except OSError as error:
                raise Integrity(
                    f"pack {location.pack.hex()} is gone: {error.strerror}", hint="run `ckstore verify`"
                ) from error

    def _read_once(self, location: Location, target: memoryview) -> None:
        self._decode(location, target, 0)
        if object_id(location.frame.kind, target) != location.frame.id:
            raise Integrity(
                f"{_where(location)} is damaged: its bytes have another hash", hint="run `ckstore verify --read-data`"
            )

    def _base(self, location: Location, level: int) -> memoryview:
        """The raw bytes a delta is kept against. Versions fall along a chain, so that it ends."""
        frame = location.frame
        base = self.locate(frame.base)
        if base is None or base.frame.version >= frame.version or base.frame.raw_length != frame.raw_length:
            raise Integrity(f"{_where(location)} is a delta whose base is missing", hint="run `ckstore verify`")
        if level > _DEEPEST:
            raise Integrity(f"{_where(location)} is at the end of too long a chain")
        raw = self._scratch.get(_Scratch).base(level, frame.raw_length)
        self._decode(base, raw, level + 1)
        return raw

    def _decode(self, location: Location, target: memoryview, level: int) -> None:
        """Fill `target` with what a frame stands for, not hashed yet."""
        scratch = self._scratch.get(_Scratch)
        frame = location.frame
        where = _where(location)
        base = self._base(location, level) if frame.base != NO_ID else None
        pack = self._packs.get(location.pack)
        direct = frame.codec == Codec.RAW and frame.stored_length == target.nbytes
        payload = target if direct else scratch.payload.take(frame.stored_length)
        if pack.read_into(location.offset, scratch.header, payload) != FRAME_HEADER_SIZE + frame.stored_length:
            raise Integrity(f"{where} is cut short", hint="run `ckstore verify --read-data`")
        try:
            if read_frame_header(scratch.header) != frame:
                raise Integrity(f"{where}: its frame is not the one the index knows", hint="run `ckstore verify`")
            if not direct:
                scratch.coder.decode(frame.codec, payload, target, base)
        except (Format, Integrity) as error:
            raise Integrity(f"{where} is damaged", why=str(error), hint="run `ckstore verify --read-data`") from error


def _where(location: Location) -> str:
    return f"object {location.frame.id.hex()} in pack {location.pack.hex()} at byte {location.offset}"
