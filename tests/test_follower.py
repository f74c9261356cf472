"""Following: whichever records come at once, an index says the same as one made anew of what is there in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.digest import NO_ID, Kind
from ckstore.pack.format import Frame, Row
from ckstore.storage.follower import NewPack
from ckstore.storage.index import Index
from ckstore.storage.journal import Cursor, JournalFrame
from ckstore.storage.record import Condemned, PackEntry, Record, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

BASE, DELTA = b"B" * 32, b"D" * 32
PACKS = {
    "both": [(BASE, NO_ID, 0), (DELTA, BASE, 1)],
    "base": [(BASE, NO_ID, 0)],
    "base for now": [(BASE, NO_ID, 0)],
    "delta": [(DELTA, BASE, 3)],
}
"""Frames by pack: an object, what it is kept against, and its version."""


def entry(name: str) -> PackEntry:
    return PackEntry(name.encode().ljust(16), bytes(32), 1)


def pack(wanted: PackEntry, _told: bool) -> NewPack:
    frames = PACKS[wanted.name.decode().strip()]
    return NewPack(wanted, [Row(Frame(Kind.CHUNK, 0, 1, id, 9, 9, base, v, 0), v) for id, base, v in frames], {})


def step(packs: list[str], condemned: list[str]) -> Record:
    gone = tuple(Condemned(entry(name), 1) for name in condemned)
    return Record(1, "gc", tuple(map(entry, packs)), condemned=gone)


def snapshot(packs: list[str], condemned: list[str]) -> Snapshot:
    return Snapshot(tuple(map(entry, packs)), (), (), tuple(Condemned(entry(name), 1) for name in condemned))


def framed(contents: list[Record | Snapshot], first: int) -> list[JournalFrame]:
    return [JournalFrame(one, b"raw", Cursor(1, 0, seq, bytes(32))) for seq, one in enumerate(contents, first)]


def rows(index: Index) -> dict[str, list[bytes]]:
    """The pack of each object's row, and of the spares."""
    with index.reading() as view:
        return {
            "frames": sorted(place.frame.id[:1] + place.pack for place in view.locations()),
            "spares": sorted(place.frame.id[:1] + place.pack for place in view.spares()),
        }


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("before", "records", "after"),
    [
        pytest.param(
            snapshot(["both"], []),
            [step(["delta", "base for now"], ["both"]), step(["base"], ["base for now"])],
            snapshot(["delta", "base"], ["both", "base for now"]),
            id="a base that comes and goes",
        ),
        pytest.param(
            snapshot(["delta"], ["base"]),
            [step(["base"], [])],
            snapshot(["delta", "base"], []),
            id="a base that is used again",
        ),
    ],
)
def test_followed_is_made_anew(
    before: Snapshot, records: list[Record | Snapshot], after: Snapshot, at_once: bool, tmp_path: Path
) -> None:
    index, anew = Index(tmp_path / "followed", "r"), Index(tmp_path / "anew", "r")
    try:
        index.rebuild(framed([before], 1), pack)
        frames = framed(records, 2)
        for some in [frames] if at_once else [[one] for one in frames]:
            cursor = index.cursor()
            assert cursor is not None
            index.apply(cursor, some, pack)
        anew.rebuild(framed([after], 1), pack)
        assert rows(index) == rows(anew)
        with index.reading() as view:
            assert view.can_read(DELTA)
    finally:
        index.close()
        anew.close()
