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
    from collections.abc import Iterable, Sequence

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


_POOR_RUN, _GOOD_RUN = 4, 8
"""Chunks in a row that are taken to gain nothing from differences, or something, as one of them does."""


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

    def chains(self, ids: Sequence[bytes]) -> Sequence[Sequence[Location]]:
        """Where each lies, and what it needs in turn; empty where one is not there. Raises `Integrity`."""

    def read_bases(self, requests: Sequence[tuple[Sequence[Location], memoryview]]) -> None:
        """Fill each target with the bytes of the first of its chain. Raises `Integrity`."""


class Frames(Protocol):
    """Where frames go."""

    def add_all(self, stream: str, frames: Iterable[tuple[Frame, Pieces]]) -> None:
        """Take some in; what payloads are pieces of may be overwritten afterwards."""


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
        self._poor: set[tuple[str, int, int]] = set()
        self._good: set[tuple[str, int, int]] = set()

    def begin(self) -> None:
        """Another save: what was kept for one is forgotten."""
        self.deltas.clear()
        self._poor.clear()
        self._good.clear()

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
            frames = [
                self._frame(one, raw, found, kept)
                for one, raw, found, kept in zip(new[start:stop], raws, encoded, bases[start:stop], strict=True)
            ]
            self._packer.add_all(new[start].piece.stream, frames)
            start, begin = stop, end

    def _frame(self, new: New, raw: memoryview, encoded: Encoded, base: Base | None) -> tuple[Frame, Pieces]:
        """A frame and its payload. A delta that gained little, or ends too long a chain, is encoded anew, by itself."""
        if base is not None:
            frame = frame_of(new.kind, new.id, new.length, encoded, base.location.frame.id, base.version)
            if encoded.length < POOR * new.length and within(base, frame, self._preset):
                with self._lock:
                    self.deltas[new.id] = (new.piece, frame)
                return frame, encoded.pieces
            coder = self._scratch.get(Buffers).alone
            (encoded,) = coder.encode(raw, [new.length], new.piece.dtype, self._preset)
            encoded = encoded._replace(pieces=[b"".join(encoded.pieces)])  # the next one may be encoded so as well
        return frame_of(new.kind, new.id, new.length, encoded), encoded.pieces

    def _bases(self, new: Sequence[New], whole: memoryview) -> tuple[memoryview, list[Base | None]]:
        """The bytes of the bases and what they are, None for a chunk that is to be kept by itself.

        Whether differences gain anything is found out at the first chunk that has a base, for all of `new` and for
        those right after it in the same tensor.
        """
        none: list[Base | None] = [None] * len(new)
        first = new[0].piece
        poor = (first.stream, first.tensor, first.ordinal // _POOR_RUN)
        good = (first.stream, first.tensor, first.ordinal // _GOOD_RUN)
        if not self._preset.deltas or element(first.dtype) is None or poor in self._poor:
            return whole, none
        buffers = self._scratch.get(Buffers)
        lengths = [one.length for one in new]
        older = buffers.older(whole.nbytes)
        raws, olds = parts(whole, lengths), parts(older, lengths)
        bases = self._candidates(new)
        if good in self._good:
            return older, self._read(bases, olds)
        for number, base in enumerate(bases):
            if base is None:
                continue
            if self._read([base], olds[number : number + 1]) == [base]:
                if not buffers.coder.gains(raws[number], first.dtype, self._preset, olds[number]):
                    self._poor.add(poor)
                    return whole, none
                self._good.add(good)
                rest = self._read(bases[number + 1 :], olds[number + 1 :])
                return older, [*none[:number], base, *rest]
        return whole, none

    def _candidates(self, new: Sequence[New]) -> list[Base | None]:
        """What chunks may be kept against, as far as the index knows."""
        wanted = [one.piece.before for one in new if one.piece.before is not None]
        chains = dict(zip(wanted, self._chains(wanted), strict=True)) if wanted else {}
        found: list[Base | None] = []
        for one in new:
            chain = chains.get(one.piece.before or b"")
            found.append(base_for(chain, one.length, self._preset) if chain else None)
        return found

    def _chains(self, ids: Sequence[bytes]) -> Sequence[Sequence[Location]]:
        """The chains of chunks; none for one whose chain is broken."""
        try:
            return self._objects.chains(ids)
        except Integrity:
            return [()] if len(ids) == 1 else [chain for id in ids for chain in self._chains([id])]

    def _read(self, bases: Sequence[Base | None], olds: Sequence[memoryview]) -> list[Base | None]:
        """Fill `olds` with the bytes of `bases`; None in the place of one that is not sound."""
        requests = [(base.chain, old) for base, old in zip(bases, olds, strict=True) if base is not None]
        try:
            if requests:
                self._objects.read_bases(requests)
        except Integrity:
            if len(requests) == 1:
                return [None] * len(bases)
            return [one for base, old in zip(bases, olds, strict=True) for one in self._read([base], [old])]
        return list(bases)


def frame_of(kind: Kind, id: bytes, length: int, encoded: Encoded, base: bytes = NO_ID, version: int = 0) -> Frame:
    """The frame of an object that is kept by itself, or as that version against a base."""
    codec, width, _, stored, busy = encoded
    return Frame(kind, codec, width, id, length, stored, base, version, busy)
