"""Verifies frames while their bytes are in memory, on whichever threads they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.choice import Coder
from ckstore.codec.encoded import Codec
from ckstore.codec.room import Room
from ckstore.digest import NO_ID, Kind, object_id
from ckstore.errors import Format, Integrity
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.storage.chain import DEEPEST, suits
from ckstore.storage.workers import PerThread

if TYPE_CHECKING:
    from ckstore.pack.format import Frame
    from ckstore.storage.object_store import ObjectStore

_HINT = "`ckstore verify --remote` lists all losses"


class _Scratch:
    """A thread's reused buffers."""

    def __init__(self) -> None:
        self.coder = Coder()
        self.raw = Room(CHUNK_SIZE)


class Arrival:
    """Decodes and hashes frames that come, against what `objects` has. `raw` may be called by many threads."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._scratch = PerThread()

    def raw(self, frame: Frame, payload: memoryview) -> memoryview | None:
        """The raw bytes of the object that a frame stands for, verified; overwritten by this thread's next call.

        None where what it hangs on cannot be read here, or not yet. Raises `Integrity` where the object is not what
        its id says.
        """
        if payload.nbytes != frame.stored_length or (frame.base != NO_ID and frame.kind is not Kind.CHUNK):
            raise Integrity(f"object {frame.id.hex()} came as a frame that is none", hint=_HINT)
        scratch = self._scratch.get(_Scratch)
        direct = frame.codec == Codec.RAW and frame.stored_length == frame.raw_length
        target = payload if direct else scratch.raw.take(frame.raw_length)
        try:
            if frame.codec == Codec.DELTA and frame.base != NO_ID:
                if not self._read_base(frame, target):
                    return None
                scratch.coder.add(frame.width, payload, target)
            elif frame.base != NO_ID:
                return None  # no frame that we write is like this: it is read as all are, once its pack is there
            elif not direct:
                scratch.coder.decode(frame.codec, frame.width, payload, target)
        except (Format, Integrity) as error:
            raise Integrity(f"object {frame.id.hex()} came damaged", why=str(error), hint=_HINT) from error
        if object_id(frame.kind, target) != frame.id:
            raise Integrity(f"object {frame.id.hex()} came damaged: its bytes have another hash", hint=_HINT)
        return target

    def _read_base(self, frame: Frame, target: memoryview) -> bool:
        """Fill `target` with what a delta hangs on; False where that is not here, or cannot be read."""
        try:
            chain = self._objects.chain(frame.base)
            if not chain or not suits(chain[0].frame, frame) or len(chain) > DEEPEST:
                return False
            self._objects.read_base(chain, target)
        except Integrity:
            return False
        return True
