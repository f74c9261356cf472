"""Chains of deltas on a remote: whether an object there can be read, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import NO_ID
from ckstore.storage.chain import DEEPEST, suits, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckstore.pack.format import Frame
    from ckstore.remote.segment import Place


class Reached(NamedTuple):
    """An object that can be read: its frame, the deltas on the way to it, and what decoding them all costs."""

    frame: Frame
    depth: int
    work: int


class Chains:
    """What can be read of what `locate` knows. Remembers what it was asked."""

    def __init__(self, locate: Callable[[bytes], Place | None]) -> None:
        self._locate = locate
        self._reached: dict[bytes, Reached | None] = {}

    def reach(self, id: bytes) -> Reached | None:
        """An object with its chain; None where it, or something that it needs, is not there."""
        pending: list[Frame] = []
        wanted = id
        while wanted not in self._reached and len(pending) <= DEEPEST:
            place = self._locate(wanted)
            if place is None:
                self._reached[wanted] = None
                break
            pending.append(place.frame)
            wanted = place.frame.base
            if wanted == NO_ID:
                break
        below = self._reached.get(wanted)
        for frame in reversed(pending):
            below = self._reached[frame.id] = extended(below, frame)
        return below

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of `ids` that can be read."""
        return {id for id in ids if self.reach(id) is not None}


def extended(below: Reached | None, frame: Frame) -> Reached | None:
    """What reaching a frame takes, `below` being its base; None where that does not fit."""
    if frame.base == NO_ID:
        return Reached(frame, 0, work(frame))
    if below is None or below.depth >= DEEPEST or not suits(below.frame, frame):
        return None
    return Reached(frame, below.depth + 1, below.work + work(frame))
