"""What a remote holds: the segments that a root names, as one table from ids to places."""

from __future__ import annotations

import heapq
from itertools import groupby
from typing import TYPE_CHECKING

from ckstore.errors import Format, Integrity
from ckstore.remote.interface import MAX_OBJECT_BYTES
from ckstore.remote.segment import head_size, open_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    from ckstore.remote.interface import Remote
    from ckstore.remote.root import SegmentPointer
    from ckstore.remote.segment import Place, RemotePack, Segment
    from ckstore.remote.segment_cache import SegmentCache

SMALL_BYTES = 1 << 20
"""Segments up to this length are always read whole, and kept."""


class Catalog:
    """The table of the segments that `pointers` name. For one thread.

    With `whole` every segment is read, if the cache does not have it; else only the blocks that are asked for. Raises
    `NotFound` where a segment is not there (any more), `Integrity` or `Format` where one is damaged, and whatever the
    remote raises.
    """

    def __init__(
        self, remote: Remote, pointers: Sequence[SegmentPointer], cache: SegmentCache, *, whole: bool = True
    ) -> None:
        self._remote = remote
        self._cache = cache
        self.pointers = pointers
        self.read_bytes = 0
        self._segments = [self._open(pointer, whole=whole) for pointer in pointers]

    @property
    def rows(self) -> int:
        """How many rows there are; objects that several segments know count several times."""
        return sum(segment.rows for segment in self._segments)

    @property
    def packs(self) -> dict[bytes, RemotePack]:
        """All packs by name, as they came."""
        return {pack.name: pack for segment in self._segments for pack in segment.packs}

    def segment(self, digest: bytes) -> Segment:
        """One of the segments."""
        return next(
            segment for pointer, segment in zip(self.pointers, self._segments, strict=True) if pointer.digest == digest
        )

    def locate(self, id: bytes) -> Place | None:
        """Where an object lies: of several frames the one of the lowest version, of those the oldest."""
        best: Place | None = None
        for segment in self._segments:
            place = segment.find(id)
            if place is not None and (best is None or place.frame.version < best.frame.version):
                best = place
        return best

    def prepare(self, ids: Iterable[bytes]) -> None:
        """Read what `locate` will need for `ids`, neighbours at once."""
        ids = list(ids)
        for segment in self._segments:
            segment.prepare(ids)

    def places(self) -> Iterator[Place]:
        """Every object's place, by id."""
        return merged(self._segments)

    def _open(self, pointer: SegmentPointer, *, whole: bool) -> Segment:
        facts = (pointer.digest, pointer.rows, pointer.packs)
        kept = self._cache.get(pointer.digest)
        if kept is not None:
            try:
                segment = open_segment(*facts, _reader(kept))
                segment.check(sorting=False)
            except (Integrity, Format):
                self._cache.drop(pointer.digest)
            else:
                return segment
        if pointer.size_bytes > MAX_OBJECT_BYTES:
            raise Format("a root points to a segment that is none")
        if whole or pointer.size_bytes <= SMALL_BYTES:
            data = self._get(pointer.name, 0, pointer.size_bytes)
            segment = open_segment(*facts, _reader(data))
            segment.check()
            self._cache.put(pointer.digest, data)
            return segment
        head = self._get(pointer.name, 0, head_size(pointer.rows, pointer.packs))
        return open_segment(*facts, lambda start, stop: self._get(pointer.name, start, stop), head)

    def _get(self, name: str, start: int, stop: int) -> bytes:
        self.read_bytes += stop - start
        return self._remote.get(name, start, stop)


def merged(segments: Sequence[Segment]) -> Iterator[Place]:
    """The places of several segments by id; of each object the one of the lowest version, of those the oldest."""
    ranked = heapq.merge(*(_ranked(segment, rank) for rank, segment in enumerate(segments)), key=lambda one: one[0])
    for _, group in groupby(ranked, key=lambda one: one[0][0]):
        yield next(group)[1]


def _ranked(segment: Segment, rank: int) -> Iterator[tuple[tuple[bytes, int, int], Place]]:
    for place in segment.places():
        yield (place.frame.id, place.frame.version, rank), place


def _reader(data: Buffer) -> Callable[[int, int], Buffer]:
    view = memoryview(data)
    return lambda start, stop: view[start:stop]
