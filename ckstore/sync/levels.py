"""How the segments of a remote grow: what is new is one, and eight of a level become one of the next."""

from __future__ import annotations

import heapq
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ckstore.remote.catalog import merged
from ckstore.remote.root import SegmentPointer
from ckstore.remote.segment import fits, write_segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckstore.remote.catalog import Catalog
    from ckstore.remote.segment import Place, RemotePack

FAN = 8
"""Segments of a level, at most."""

_SPLIT_ROWS = 400_000


class NewSegment(NamedTuple):
    """A segment to send, and what points to it."""

    pointer: SegmentPointer
    data: bytes


def grown(
    catalog: Catalog, places: Sequence[Place], packs: Sequence[RemotePack]
) -> tuple[tuple[SegmentPointer, ...], list[NewSegment]]:
    """The pointers of a root that knows `places` too, which are by id, and the segments that have to be sent for it."""
    if not places:
        return tuple(catalog.pointers), []
    kept = list(catalog.pointers)
    taken: list[SegmentPointer] = []
    level = 0
    while True:
        same = [pointer for pointer in kept if pointer.level == level]
        rows = len(places) + sum(pointer.rows for pointer in (*same, *taken))
        count = len(packs) + sum(pointer.packs for pointer in (*same, *taken))
        if len(same) < FAN - 1 or not fits(rows, count):
            break
        taken = [*same, *taken]
        kept = [pointer for pointer in kept if pointer.level != level]
        level += 1
    older = [catalog.segment(pointer.digest) for pointer in taken]
    everything = {pack.name: pack for pack in (*(pack for one in older for pack in one.packs), *packs)}
    new = list(split(_joined(merged(older), places), everything, level))
    return (*kept, *(one.pointer for one in new)), new


def split(places: Iterable[Place], packs: Mapping[bytes, RemotePack], level: int) -> Iterator[NewSegment]:
    """Segments of places that are by id: one, where they fit; with those of `packs` that they need, as they come."""
    run: list[Place] = []
    for place in places:
        run.append(place)
        if len(run) == _SPLIT_ROWS:
            yield _segment(run, packs, level)
            run = []
    if run:
        yield _segment(run, packs, level)


def _segment(places: Sequence[Place], packs: Mapping[bytes, RemotePack], level: int) -> NewSegment:
    named = {place.pack for place in places}
    held = [pack for name, pack in packs.items() if name in named]
    digest, data = write_segment(places, held)
    return NewSegment(SegmentPointer(digest, len(data), len(places), len(held), level), data)


def _joined(older: Iterable[Place], newer: Sequence[Place]) -> Iterator[Place]:
    """Both by id; of an object that both know the frame of the lower version, else the older one."""
    both = heapq.merge(older, newer, key=lambda place: place.frame.id)
    for _, group in groupby(both, key=lambda place: place.frame.id):
        yield min(group, key=lambda place: place.frame.version)
