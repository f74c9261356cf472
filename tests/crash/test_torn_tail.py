"""A record half written by a power cut is a torn tail and is cut; a damaged one never is (W4)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Integrity
from ckstore.storage.journal import FIRST, Journal
from ckstore.storage.record import PackEntry, Record, RefMove, Snapshot
from tests.crash.replayer import SECTOR

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.storage.journal import Cursor


def record(padding: int) -> Record:
    packs = tuple(PackEntry(bytes([n]) * 16, bytes([7 * n]) * 32, 1000 + n) for n in range(1, 4))
    return Record(1, "x" * padding, packs, (RefMove("heads/main", None, b"\x05" * 32),))


def written(folder: Path, padding: int) -> tuple[Journal, Cursor, bytes]:
    """A journal, the place before its last record, and the bytes of its only segment."""
    folder.mkdir()
    journal = Journal(folder)
    segment, seq, previous = FIRST
    before = journal.begin(segment, Snapshot((), ()), seq, previous).end
    journal.append(before, record(padding))
    return journal, before, journal.path(segment).read_bytes()


def test_every_way_to_lose_sectors_of_the_last_record(tmp_path: Path) -> None:
    """At every alignment: each set of sectors that a write of three or fewer may not have reached."""
    states = 0
    for padding in range(SECTOR):
        journal, before, data = written(tmp_path / str(padding), padding)
        bounds = [before.offset, *range(-(-before.offset // SECTOR) * SECTOR, len(data), SECTOR), len(data)]
        spans = [span for span in pairwise(bounds) if span[0] < span[1]]
        for chosen in range(1, 1 << len(spans)):
            torn = bytearray(data)
            for number, (start, stop) in enumerate(spans):
                if chosen >> number & 1:
                    torn[start:stop] = bytes(stop - start)
            journal.path(before.segment).write_bytes(torn)
            tail = journal.read(before)
            assert (tail.frames, tail.torn_bytes) == ([], len(data) - before.offset), f"padding {padding}, {chosen:b}"
            states += 1
    assert states > 1000


def test_every_length_of_the_last_record(tmp_path: Path) -> None:
    journal, before, data = written(tmp_path / "journal", 100)
    for length in range(before.offset + 1, len(data)):
        journal.path(before.segment).write_bytes(data[:length])
        assert journal.read(before).torn_bytes == length - before.offset


@pytest.mark.parametrize("padding", [0, 1, 2, 3, 4, 5, 6, 7, 500])
def test_a_flipped_byte_is_no_torn_tail(tmp_path: Path, padding: int) -> None:
    journal, before, data = written(tmp_path / "journal", padding)
    for position in range(before.offset, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        journal.path(before.segment).write_bytes(damaged)
        with pytest.raises(Integrity):
            journal.read(before)
