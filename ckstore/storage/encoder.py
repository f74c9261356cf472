"""Encodes what is new in a save: against an earlier version where that gains, else by itself."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from ckstore.codec.choice import Coder
from ckstore.codec.chunker import parts
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
    from ckstore.storage.piece import New, Piece
    from ckstore.storage.workers import PerThread

POOR = 0.8
"""A delta of so much of its chunk has gained nothing that planes alone would not."""


class Buffers:
    """A thread's reused buffers for encoding, as long as the store is open.

    `alone` encodes single chunks while payloads of `coder` are still in its buffers. `expects_new`: what the thread saw
    last was not stored yet.
    """

    def __init__(self) -> None:
        self.coder = Coder()
        self.alone = Coder()
        self.expects_new = False
        self._older = Room()
        self._copy = Room()

    def copy(self, raws: Sequence[memoryview], dtype: str) -> memoryview:
        """`raws` one after another as they are now, whatever happens to them next. They may lie here already."""
        whole = self._copy.take(sum(raw.nbytes for raw in raws))
        self.coder.copy(raws, whole, dtype)
        return whole

    def older(self, length: int) -> memoryview:
        """Room for the bases of some chunks."""
        return self._older.take(length)


class Bases(Protocol):
    """Earlier versions of chunks."""

    def chain(self, id: bytes) -> Sequence[Location]:
        """Where one lies, and what it needs in turn; empty where it is not there. Raises `Integrity`."""

    def read_base(self, chain: Sequence[Location], target: memoryview) -> None:
        """Fill `target` with the bytes of the first of a chain. Raises `Integrity`."""


class Frames(Protocol):
    """Where frames go."""

    def add(self, stream: str, frame: Frame, payload: Sequence[bytes | memoryview]) -> None:
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
        self._lock = threading.Lock()

    def encode(self, new: Sequence[New], whole: memoryview) -> None:
        """Encode new chunks of one tensor, which lie in `whole` one after another; those with a base apart."""
        coder = self._scratch.get(Buffers).coder
        older, bases = self._bases(new, whole)
        start = begin = 0
        for has_base, run in groupby(bases, key=lambda base: base is not None):
            stop = start + len(list(run))
            lengths = [one.length for one in new[start:stop]]
            end = begin + sum(lengths)
            base = older[begin:end] if has_base else None
            encoded = coder.encode(whole[begin:end], lengths, new[start].piece.dtype, self._preset, base)
            raws = parts(whole[begin:end], lengths)
            for one, raw, found, kept in zip(new[start:stop], raws, encoded, bases[start:stop], strict=True):
                self._add(one, raw, found, kept)
            start, begin = stop, end

    def _add(self, new: New, raw: memoryview, encoded: Encoded, base: Base | None) -> None:
        """Append a frame. A delta that gained little, or ends too long a chain, is encoded anew, by itself."""
        if base is not None:
            frame = frame_of(new.kind, new.id, new.length, encoded)._replace(
                base=base.location.frame.id, version=base.version
            )
            if encoded.length < POOR * new.length and within(base, frame, self._preset):
                with self._lock:
                    self.deltas[new.id] = (new.piece, frame)
                self._packer.add(new.piece.stream, frame, encoded.pieces)
                return
            coder = self._scratch.get(Buffers).alone
            (encoded,) = coder.encode(raw, [new.length], new.piece.dtype, self._preset)
        self._packer.add(new.piece.stream, frame_of(new.kind, new.id, new.length, encoded), encoded.pieces)

    def _bases(self, new: Sequence[New], whole: memoryview) -> tuple[memoryview, list[Base | None]]:
        """The bytes of the bases and what they are, None for a chunk that is to be kept by itself.

        Whether differences gain anything is found out at the first chunk that has a base, for all of `new`.
        """
        dtype = new[0].piece.dtype
        if not self._preset.deltas or element(dtype) is None:
            return whole, [None] * len(new)
        buffers = self._scratch.get(Buffers)
        lengths = [one.length for one in new]
        older = buffers.older(whole.nbytes)
        bases: list[Base | None] = []
        for one, raw, old in zip(new, parts(whole, lengths), parts(older, lengths), strict=True):
            base = self._base(one, old)
            if base is not None and not any(bases) and not buffers.coder.gains(raw, dtype, self._preset, old):
                return whole, [None] * len(new)
            bases.append(base)
        return older, bases

    def _base(self, new: New, old: memoryview) -> Base | None:
        """What a chunk may be kept against, its bytes in `old`; None where no earlier version is here and sound."""
        if new.piece.before is None:
            return None
        objects = self._objects
        try:
            before = objects.chain(new.piece.before)
            base = base_for(before, new.length, self._preset) if before else None
            if base is not None:
                objects.read_base(base.chain, old)
        except Integrity:
            return None
        return base


def frame_of(kind: Kind, id: bytes, length: int, encoded: Encoded) -> Frame:
    """The frame of an object that is kept by itself."""
    codec, width, _, stored, busy = encoded
    return Frame(kind, codec, width, id, length, stored, NO_ID, 0, busy)
