"""Frames of a remote's packs: read in as few requests as can be, and checked as they pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.room import Room
from ckstore.digest import payload_checksum
from ckstore.errors import Format, Integrity
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.pack.format import FRAME_HEADER_SIZE, read_frame_header
from ckstore.remote.interface import too_short
from ckstore.storage.workers import PerThread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.remote.interface import Remote
    from ckstore.remote.segment import Place, RemotePack

GAP_BYTES = 256 << 10
"""So much that nobody asked for is read rather than asking once more."""

_SPARE_SHARE = 16


def ranges(places: Sequence[Place], gap_bytes: int = GAP_BYTES) -> Iterator[list[Place]]:
    """Runs of places that lie at most `gap_bytes` from each other in one pack: a request each."""
    run: list[Place] = []
    for place in places:
        if run and (run[-1].pack != place.pack or not 0 <= place.offset - run[-1].stop <= gap_bytes):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


class Frames:
    """Reads frames of `remote`, whose packs are `packs` by name. For many threads."""

    def __init__(self, remote: Remote, packs: Mapping[bytes, RemotePack]) -> None:
        self._remote = remote
        self._packs = packs
        self._rooms = PerThread()

    def read(self, places: Sequence[Place]) -> Iterator[tuple[Place, memoryview]]:
        """The payloads of frames that lie one after another, in one request; each good until the next is asked for.

        Raises `Integrity` where a frame is not what the index says or its payload has another checksum, and whatever
        the remote raises.
        """
        pack = self._packs[places[0].pack]
        begin, stop = places[0].offset, places[-1].stop
        # A whole object is less work for servers than a range of one, and not much longer where nearly all is wanted.
        whole = pack.size_bytes - (stop - begin) <= min(GAP_BYTES, (stop - begin) // _SPARE_SHARE)
        blocks = self._remote.read(pack.object_name) if whole else self._remote.read(pack.object_name, begin, stop)
        bytes_ = _Passing(blocks, 0 if whole else begin, self._rooms.get(lambda: Room(CHUNK_SIZE)))
        for place in places:
            frame = bytes_.take(place.offset, place.stop)
            if frame is None:
                raise too_short(self._remote.url, pack.object_name, place.stop)
            self._check(place, frame)
            yield place, frame[FRAME_HEADER_SIZE:]
        bytes_.skip(pack.size_bytes if whole else stop)  # what is read to its end leaves its connection to others

    def _check(self, place: Place, data: memoryview) -> None:
        try:
            frame, checksum = read_frame_header(data)
        except Format as error:
            raise self._damaged(place, str(error)) from error
        if frame != place.frame:
            raise Integrity(f"pack {place.pack.hex()} on {self._remote.url} does not hold what its index says")
        if payload_checksum([data[FRAME_HEADER_SIZE:]]) != checksum:
            raise self._damaged(place, "its payload has another checksum")

    def _damaged(self, place: Place, why: str) -> Integrity:
        return Integrity(
            f"pack {place.pack.hex()} on {self._remote.url} is damaged at byte {place.offset}",
            why=why,
            hint="`ckstore repair --remote` mends it",
        )


class _Passing:
    """The bytes of an object that come in `blocks`, from `at` on; frames that lie in two are put together in `room`."""

    def __init__(self, blocks: Iterator[bytes], at: int, room: Room) -> None:
        self._blocks = blocks
        self._at = at
        self._block = memoryview(b"")
        self._room = room

    def take(self, start: int, stop: int) -> memoryview | None:
        """The bytes from `start`, which have not passed yet, to `stop`; None where fewer come."""
        if not self.skip(start):
            return None
        length = stop - start
        if length <= self._block.nbytes:
            return self._next(length)
        target = self._room.take(length)
        filled = 0
        while filled < length:
            if not self._block.nbytes and not self._read():
                return None
            part = self._next(min(length - filled, self._block.nbytes))
            target[filled : filled + part.nbytes] = part
            filled += part.nbytes
        return target

    def skip(self, to: int) -> bool:
        """Let everything pass that lies before `to`; False where it ends earlier."""
        while self._at < to:
            if not self._block.nbytes and not self._read():
                return False
            self._next(min(to - self._at, self._block.nbytes))
        return True

    def _read(self) -> bool:
        self._block = memoryview(next(self._blocks, b""))
        return self._block.nbytes > 0

    def _next(self, count: int) -> memoryview:
        part, self._block = self._block[:count], self._block[count:]
        self._at += count
        return part
