"""Reads objects of the local store: index, pack, codec, and a hash over every byte that is handed out."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol, TypeVar

from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.codec.room import Room
from ckstore.digest import NO_ID, Kind, object_id, payload_checksum
from ckstore.errors import Format, Integrity
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.view import View
from ckstore.storage.workers import PerThread, jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckstore.storage.location import Location
    from ckstore.storage.pack_file import PackFile
    from ckstore.storage.workers import Workers

T = TypeVar("T")
_GONE = frozenset({errno.ENOENT, errno.ESTALE})


class Ask(Protocol):
    """Puts a question to the index as it is now; a damaged index is made anew first."""

    def __call__(self, question: Callable[[View], T]) -> T: ...


class Files(Protocol):
    """The pack files, by the names of the packs."""

    def get(self, name: bytes) -> PackFile:
        """One of them. Raises OSError (ENOENT, ESTALE) where it is gone."""

    def forget(self, name: bytes) -> None:
        """Open it anew next time."""


class _Scratch:
    """A thread's reused buffers."""

    def __init__(self) -> None:
        self.coder = Coder()
        self.header = bytearray(FRAME_HEADER_SIZE)
        self.payload = Room(CHUNK_SIZE)


class ObjectStore:
    """An ObjectReader over the local packs.

    `ask` puts a question to the index; `refresh` brings the index up to date with the journal and is tried once
    where an object is not where the index says. Where one is missing, the index is checked once.
    """

    def __init__(self, ask: Ask, packs: Files, workers: Workers, refresh: Callable[[], object]) -> None:
        self._ask = ask
        self._packs = packs
        self._workers = workers
        self._refresh = refresh
        self._scratch = PerThread()
        self._checked = False

    def locate(self, id: bytes) -> Location | None:
        """Where an object lies, as far as the index knows."""
        return self._ask(lambda view: view.locate(id))

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of `ids` that are here and can be read, as far as the index knows."""
        return self._ask(lambda view: {id for id in ids if view.can_read(id)})

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

    def read_along(self, chain: Sequence[Location]) -> bytes:
        """The raw bytes of the object that a chain of the caller's begins with, verified, and each payload checked.

        Raises `Integrity` or OSError.
        """
        data = bytearray(chain[0].frame.raw_length)
        self._read_chain(chain, memoryview(data), checked=True)
        return bytes(data)

    def read_into(self, id: bytes, target: memoryview) -> None:
        """Fill `target` with a chunk, verified. Raises `Integrity`; `target` is then not to be used."""
        location = self._found(id)
        if location.frame.kind is not Kind.CHUNK or location.frame.raw_length != target.nbytes:
            raise Integrity(f"object {id.hex()} is not a chunk of {target.nbytes} bytes")
        self._read(location, target)

    def chain(self, id: bytes) -> Sequence[Location]:
        """Where an object lies, its base, that one's base, and so on; empty where the index does not know it.

        Raises `Integrity`.
        """
        return self._ask(lambda view: _chain(view, view.locate(id)))

    def read_base(self, chain: Sequence[Location], target: memoryview) -> None:
        """Fill `target` with the chunk that a chain leads to, for a delta to be kept against. Raises `Integrity`.

        The payloads are checked, which costs a tenth of hashing what they stand for.
        """
        if chain[0].frame.raw_length != target.nbytes:
            raise Integrity(f"{_where(chain[0])} is not a chunk of {target.nbytes} bytes")
        try:
            self._follow(chain, target, checked=True)
        except OSError as error:
            raise Integrity(f"cannot read pack {chain[0].pack.hex()}: {error.strerror}") from error

    def payload(self, location: Location) -> bytes:
        """A frame's payload as it lies at a known place, with its checksum right. Raises `Integrity`, OSError."""
        scratch = self._scratch.get(_Scratch)
        payload = bytearray(location.frame.stored_length)
        self._read_frame(location, scratch.header, memoryview(payload), checked=True)
        return bytes(payload)

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        """Read many chunks, on all threads."""
        self._workers.map(self._fill_job, list(jobs(requests, lambda request: request[1].nbytes)))

    def _fill_job(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        for id, target in requests:
            self.read_into(id, target)

    def _found(self, id: bytes) -> Location:
        location = self.locate(id)
        if location is None and self._refresh():
            location = self.locate(id)
        if location is None and not self._checked:
            self._checked = True  # once: a repository that has lost much asks often
            self._ask(View.check)
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
        whole = location.frame.base == NO_ID
        chain = (location,) if whole else self._ask(lambda view: _chain(view, location))
        self._read_chain(chain, target)

    def _read_chain(self, chain: Sequence[Location], target: memoryview, *, checked: bool = False) -> None:
        self._follow(chain, target, checked=checked)
        wanted = chain[0].frame
        if object_id(wanted.kind, target) != wanted.id:
            raise Integrity(f"{_where(chain[0])} is damaged: its bytes have another hash", hint="run `ckstore repair`")

    def _follow(self, chain: Sequence[Location], target: memoryview, *, checked: bool) -> None:
        """Fill `target` with what a chain stands for, not hashed yet, one frame after another."""
        for place in reversed(chain):
            self._read_decoded(place, target, checked=checked)

    def _read_decoded(self, location: Location, target: memoryview, *, checked: bool = False) -> None:
        """Fill `target` with what a frame stands for, not hashed yet; a delta is added to its base, which is there.

        With `checked` the payload must have its checksum.
        """
        scratch = self._scratch.get(_Scratch)
        frame = location.frame
        direct = frame.codec == Codec.RAW and frame.stored_length == target.nbytes
        payload = target if direct else scratch.payload.take(frame.stored_length)
        self._read_frame(location, scratch.header, payload, checked=checked)
        if direct:
            return
        try:
            if frame.codec == Codec.DELTA and frame.base != NO_ID:
                scratch.coder.add(frame.width, payload, target)
            else:
                scratch.coder.decode(frame.codec, frame.width, payload, target)
        except (Format, Integrity) as error:
            raise Integrity(f"{_where(location)} is damaged", why=str(error), hint="run `ckstore repair`") from error

    def _read_frame(self, location: Location, header: bytearray, payload: memoryview, *, checked: bool) -> None:
        """Read a frame's header and payload. Raises `Integrity` where they are not what the index says."""
        pack = self._packs.get(location.pack)
        if pack.read_into(location.offset, header, payload) != FRAME_HEADER_SIZE + payload.nbytes:
            raise Integrity(f"{_where(location)} is cut short", hint="run `ckstore repair`")
        try:
            found, checksum = read_frame_header(header)
        except Format as error:
            raise Integrity(f"{_where(location)} is damaged", why=str(error), hint="run `ckstore repair`") from error
        if found != location.frame:
            where = _where(location)
            raise Integrity(f"{where}: its frame is not the one the index knows", hint="run `ckstore verify`")
        if checked and payload_checksum([payload]) != checksum:
            where = _where(location)
            raise Integrity(f"{where} is damaged: its payload has another checksum", hint="run `ckstore repair`")


def _chain(view: View, location: Location | None) -> Sequence[Location]:
    """A frame, its base, that one's base, and so on. Raises `Integrity`."""
    chain: list[Location] = []
    while location is not None:
        chain.append(location)
        frame = location.frame
        if frame.base == NO_ID:
            break
        if len(chain) > DEEPEST:
            raise Integrity(f"{_where(chain[0])} is at the end of too long a chain")
        location = view.locate(frame.base)
        if location is None or not suits(location.frame, frame):
            raise Integrity(f"{_where(chain[-1])} is a delta whose base is missing", hint="run `ckstore verify`")
    return chain


def _where(location: Location) -> str:
    return f"object {location.frame.id.hex()} in pack {location.pack.hex()} at byte {location.offset}"
