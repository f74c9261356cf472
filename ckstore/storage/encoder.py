"""Encodes what is new in a save: against an earlier version where that gains, else by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckstore.codec.choice import Coder
from ckstore.codec.element import element
from ckstore.codec.room import Room
from ckstore.digest import NO_ID
from ckstore.errors import Integrity
from ckstore.pack.format import Frame
from ckstore.storage.chain import base_for, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec.encoded import Encoded
    from ckstore.codec.preset import Preset
    from ckstore.digest import Kind
    from ckstore.storage.chain import Base
    from ckstore.storage.location import Location
    from ckstore.storage.packer import Pieces
    from ckstore.storage.piece import New, Piece
    from ckstore.storage.workers import PerThread

POOR = 0.8
"""A delta of so much of its chunk has gained nothing that planes alone would not."""


_POOR_RUN, _GOOD_RUN = 2, 8
"""Chunks in a row that are taken to gain nothing from differences, or something, as one of them does."""


class Buffers:
    """A thread's reused buffers for encoding, as long as the store is open.

    `expects_new`: what the thread saw last was not stored yet.
    """

    def __init__(self) -> None:
        self.coder = Coder()
        self.expects_new = False
        self._older = Room()
        self._copy = Room()

    def copy(self, raw: memoryview, dtype: str) -> memoryview:
        """A chunk as it is now, whatever happens to `raw` next."""
        kept = self._copy.take(raw.nbytes)
        self.coder.copy(raw, kept, dtype)
        return kept

    def older(self, length: int) -> memoryview:
        """Room for the base of a chunk."""
        return self._older.take(length)


class Bases(Protocol):
    """Earlier versions of chunks."""

    def chain(self, id: bytes) -> Sequence[Location]:
        """Where one lies, and what it needs in turn; empty where it is not there. Raises `Integrity`."""

    def read_base(self, chain: Sequence[Location], target: memoryview) -> None:
        """Fill `target` with the bytes of the first of `chain`. Raises `Integrity`."""


class Frames(Protocol):
    """Where frames go."""

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Take one in; what `payload` is pieces of may be overwritten afterwards."""


class Encoder:
    """Chooses, encodes, and hands to `packer`. `encode` may be called by many threads.

    `deltas` holds, by id, what was stored as a delta: the piece, and its frame, whose base must still be there when the
    save is published.
    """

    def __init__(self, objects: Bases, preset: Preset, packer: Frames, scratch: PerThread) -> None:
        self.deltas: dict[bytes, tuple[Piece, Frame]] = {}
        self._objects = objects
        self._preset = preset
        self._packer = packer
        self._scratch = scratch
        self._poor: set[tuple[str, int, int]] = set()
        self._good: set[tuple[str, int, int]] = set()

    def begin(self) -> None:
        """Another save: what was kept for one is forgotten."""
        self.deltas.clear()
        self._poor.clear()
        self._good.clear()

    def encode(self, new: New, raw: memoryview) -> None:
        """Encode a new chunk. A delta that gained little, or ends too long a chain, is encoded anew, by itself."""
        coder = self._scratch.get(Buffers).coder
        kind, id, piece = new
        found = self._base(piece, raw)
        if found is not None:
            base, older = found
            encoded = coder.encode(raw, piece.dtype, self._preset, older)
            frame = frame_of(kind, id, raw.nbytes, encoded, base.location.frame.id, base.version)
            if encoded.length < POOR * raw.nbytes and within(base, frame, self._preset):
                self.deltas[id] = (piece, frame)
                self._packer.add(piece.stream, frame, encoded.pieces)
                return
        encoded = coder.encode(raw, piece.dtype, self._preset)
        self._packer.add(piece.stream, frame_of(kind, id, raw.nbytes, encoded), encoded.pieces)

    def _base(self, piece: Piece, raw: memoryview) -> tuple[Base, memoryview] | None:
        """What a chunk may be kept against, and its bytes; None where it is to be kept by itself.

        Whether differences gain anything is found out at one chunk for those right after it in the same tensor too.
        """
        if piece.before is None or not self._preset.deltas or element(piece.dtype) is None:
            return None
        poor = (piece.stream, piece.tensor, piece.ordinal // _POOR_RUN)
        good = (piece.stream, piece.tensor, piece.ordinal // _GOOD_RUN)
        if poor in self._poor:
            return None
        buffers = self._scratch.get(Buffers)
        try:
            chain = self._objects.chain(piece.before)
            base = base_for(chain, raw.nbytes, self._preset) if chain else None
            if base is None:
                return None
            older = buffers.older(raw.nbytes)
            self._objects.read_base(base.chain, older)
        except Integrity:
            return None
        if good not in self._good:
            if not buffers.coder.gains(raw, piece.dtype, self._preset, older):
                self._poor.add(poor)
                return None
            self._good.add(good)
        return base, older


def frame_of(kind: Kind, id: bytes, length: int, encoded: Encoded, base: bytes = NO_ID, version: int = 0) -> Frame:
    """The frame of an object that is kept by itself, or as that version against a base."""
    codec, width, _, stored, busy = encoded
    return Frame(kind, codec, width, id, length, stored, base, version, busy)
