"""What storing would take: everything is hashed, a sample is encoded as a save would, and nothing is kept but sizes.

Chunks are sampled by chains: a version is sampled if the one before it was, so that what is encoded has its base and
its place in a chain as in a save. The bases' bytes are read from where they were first seen.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import Kind, object_id
from ckstore.errors import Integrity
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, ROW_SIZE, TRAILER_SIZE
from ckstore.storage.encoder import Buffers, Encoder
from ckstore.storage.location import Location
from ckstore.storage.packer import META
from ckstore.storage.piece import New, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckstore.codec.preset import Preset
    from ckstore.pack.format import Frame
    from ckstore.storage.workers import PerThread

_PER_OBJECT = FRAME_HEADER_SIZE + ROW_SIZE
_PER_SAVE = 2 * (HEADER_SIZE + TRAILER_SIZE) + 500
"""Two packs, and the record in the journal."""

_AT_LEAST = 12
"""Chains of a stratum that are sampled whatever the share is."""

_ENOUGH = 4
"""So many chosen chains speak for a stratum by themselves."""

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, less their whole parts, lie evenly between 0 and 1: neighbours in a component are alike."""

Stratum = tuple[str, str]
"""Chunks that are alike: of one component and dtype."""


@dataclass
class Tally:
    """What one save would take. `exact` counts stored bytes that are known, `unsampled` raw bytes by stratum that wait
    for an estimate.
    """

    raw_bytes: int = 0
    new_bytes: int = 0
    exact_bytes: int = 0
    unsampled: dict[Stratum, int] = field(default_factory=lambda: defaultdict(int))


class Estimate(NamedTuple):
    """Bytes, and how far off they may be (two standard errors)."""

    stored_bytes: float
    error_bytes: float


class _Chunk:
    """A sampled chunk: its bytes, where it stands in its chain, and the chain's number."""

    __slots__ = ("chain", "load", "place")

    def __init__(self, load: Callable[[], memoryview], chain: int) -> None:
        self.load = load
        self.chain = chain
        self.place: Location | None = None


class _Chain:
    """What has been encoded of one place in a component, over all its versions.

    `chosen` says that its place was in the sample; else it was only among the first of its stratum.
    """

    __slots__ = ("chosen", "raw_bytes", "stored_bytes", "stratum")

    def __init__(self, stratum: Stratum, *, chosen: bool) -> None:
        self.stratum = stratum
        self.chosen = chosen
        self.raw_bytes = 0
        self.stored_bytes = 0


class Estimator:
    """Takes what a `Transaction` takes. `put` may be called by many threads; saves come one after another."""

    def __init__(self, preset: Preset, scratch: PerThread) -> None:
        self.encode_s = 0.0
        self.encoded_bytes = 0
        self._scratch = scratch
        self._lock = threading.Lock()
        self._chunks: dict[bytes, _Chunk | None] = {}
        self._meta: dict[bytes, bytes] = {}
        self._chains: list[_Chain] = []
        self._strata: dict[Stratum, int] = defaultdict(int)
        self._encoder = Encoder(self, preset, self, scratch)
        self._share = 1.0
        self._tally = Tally()

    def begin(self, share: float) -> Tally:
        """The next save, of which about `share` of the new chains are to be sampled; its tally."""
        self._share = share
        self._tally = Tally(exact_bytes=_PER_SAVE)
        self._meta = {}
        self._encoder.begin()
        return self._tally

    def put(self, kind: Kind, piece: Piece) -> bytes:
        """Count a chunk; its id."""
        raw = piece.load()
        id = object_id(kind, raw)
        if self._claim(id, piece, raw.nbytes):
            self._encode(New(kind, id, piece), raw)
        return id

    def put_meta(self, kind: Kind, data: bytes) -> bytes:
        """Count a tree, page or commit; its id. It can be `read` until the next save begins."""
        id = object_id(kind, memoryview(data))
        self._meta[id] = data
        if id not in self._chunks:
            self._chunks[id] = None
            self._encode(New(kind, id, Piece(lambda: memoryview(data), META)), memoryview(data))
        return id

    def read(self, kind: Kind, id: bytes) -> bytes:
        """A tree or page of this save. Raises `Integrity` for what is none."""
        try:
            return self._meta[id]
        except KeyError:
            raise Integrity(f"{kind.name.lower()} {id.hex()} is not of this save") from None

    def read_into(self, id: bytes, target: memoryview) -> None:
        """No chunk can be read by its id here."""
        raise Integrity(f"chunk {id.hex()} is not kept")

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        """As `read_into`."""
        for id, target in requests:
            self.read_into(id, target)

    def locate(self, id: bytes) -> Location | None:
        """Where a sampled chunk stands in its chain."""
        chunk = self._chunks.get(id)
        return None if chunk is None else chunk.place

    def chain(self, id: bytes) -> Sequence[Location]:
        """A sampled chunk, with those it would need."""
        chain: list[Location] = []
        place = self.locate(id)
        while place is not None:
            chain.append(place)
            place = self.locate(place.frame.base)
        return chain

    def read_base(self, chain: Sequence[Location], target: memoryview) -> None:
        """The bytes of a sampled chunk, from where they were first seen."""
        chunk = self._chunks[chain[0].frame.id]
        assert chunk is not None
        target[:] = chunk.load()

    def add(self, stream: str, frame: Frame, payload: Sequence[bytes | memoryview]) -> None:
        """Count an encoded frame."""
        with self._lock:
            stored = frame.stored_length + _PER_OBJECT
            self._tally.exact_bytes += stored
            chunk = self._chunks[frame.id]
            if chunk is None:
                return
            chain = self._chains[chunk.chain]
            chain.raw_bytes += frame.raw_length
            chain.stored_bytes += stored
            chunk.place = Location(b"", 0, frame)

    def estimate(self, tally: Tally) -> float:
        """Stored bytes of one save, by what has been sampled of all."""
        ratios = self._ratios()
        return tally.exact_bytes + sum(raw * ratios[stratum].ratio for stratum, raw in tally.unsampled.items())

    def estimate_all(self, tallies: Sequence[Tally]) -> Estimate:
        """Stored bytes of all saves, and how far off that may be."""
        ratios = self._ratios()
        unsampled: dict[Stratum, int] = defaultdict(int)
        for tally in tallies:
            for stratum, raw in tally.unsampled.items():
                unsampled[stratum] += raw
        stored = sum(tally.exact_bytes for tally in tallies)
        guessed = sum(raw * ratios[stratum].ratio for stratum, raw in unsampled.items())
        variance = sum((raw * ratios[stratum].error) ** 2 for stratum, raw in unsampled.items())
        return Estimate(stored + guessed, 2 * math.sqrt(variance))

    def _claim(self, id: bytes, piece: Piece, length: int) -> bool:
        """Count a chunk; whether nobody has seen it yet and it is to be encoded."""
        with self._lock:
            self._tally.raw_bytes += length
            if id in self._chunks:
                return False
            self._tally.new_bytes += length
            stratum = (piece.stream, piece.dtype)
            chain = self._chain(piece, stratum)
            if chain is None:
                self._chunks[id] = None
                self._tally.unsampled[stratum] += length
                return False
            self._chunks[id] = _Chunk(piece.load, chain)
            return True

    def _chain(self, piece: Piece, stratum: Stratum) -> int | None:
        """The chain a new chunk belongs to, or None where that is not sampled."""
        if piece.before is not None and piece.before in self._chunks:
            before = self._chunks[piece.before]
            return None if before is None else before.chain
        chosen = piece.ordinal * _GOLDEN % 1 < self._share
        if not chosen and self._strata[stratum] >= _AT_LEAST:
            return None
        self._strata[stratum] += 1
        self._chains.append(_Chain(stratum, chosen=chosen))
        return len(self._chains) - 1

    def _encode(self, new: New, raw: memoryview) -> None:
        began = time.perf_counter()
        self._encoder.encode(new, self._scratch.get(Buffers).copy(raw, new.piece.dtype))
        with self._lock:
            self.encode_s += time.perf_counter() - began
            self.encoded_bytes += raw.nbytes

    def _ratios(self) -> dict[Stratum, _Ratio]:
        by_stratum: dict[Stratum, list[_Chain]] = defaultdict(list)
        for chain in self._chains:
            by_stratum[chain.stratum].append(chain)
        return {stratum: _ratio(_speaking(chains)) for stratum, chains in by_stratum.items()}


def _speaking(chains: Sequence[_Chain]) -> Sequence[_Chain]:
    """The chains that stand for those that were not encoded: the chosen ones, where they are enough."""
    chosen = [chain for chain in chains if chain.chosen]
    return chosen if len(chosen) >= _ENOUGH else chains


class _Ratio(NamedTuple):
    """Stored bytes a raw byte of a stratum takes, and the standard error of that."""

    ratio: float
    error: float


def _ratio(chains: Sequence[_Chain]) -> _Ratio:
    """The ratio estimator over chains as clusters (Cochran, Sampling Techniques, 6.1 and 9.3)."""
    raw = sum(chain.raw_bytes for chain in chains)
    if not raw:
        return _Ratio(1.0, 0.0)
    ratio = sum(chain.stored_bytes for chain in chains) / raw
    count = len(chains)
    if count < 2:
        return _Ratio(ratio, ratio)
    spread = sum((chain.stored_bytes - ratio * chain.raw_bytes) ** 2 for chain in chains) / (count - 1)
    return _Ratio(ratio, math.sqrt(spread / count) / (raw / count))
