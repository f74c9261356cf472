"""A file that grows is given blocks ahead of what is written, and gives back what is left of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ckstore import durable
from tests.crash.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIECE = bytes(range(256)) * 4096
LONG = 20
"""Pieces after which blocks have been taken."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A new file on a disk; skips where files lie in memory or blocks cannot be taken ahead."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        if not os.major(os.fstat(file.fileno()).st_dev):
            pytest.skip("not on a disk of this machine")
        durable._take_blocks(file.fileno(), 0, 1 << 20)
        if taken(path) < 1 << 20:
            pytest.skip("blocks cannot be taken here")
    path.unlink()
    return path


def taken(path: Path) -> int:
    """The bytes of the disk that a file has."""
    return path.stat().st_blocks * 512


def written(file: durable.DurableFile, pieces: int) -> Iterator[int]:
    """Writes so many pieces; yields how long the file is after each."""
    for count in range(pieces):
        file.write(PIECE)
        yield (count + 1) * len(PIECE)


def test_blocks_are_ahead_while_writing_and_none_after_the_sync(path: Path) -> None:
    with durable.create(path) as file:
        for size in written(file, LONG):
            assert path.stat().st_size == size
        assert taken(path) >= size + len(PIECE)
        file.sync()
        assert taken(path) <= size + 65536
        for size in written(file, LONG):
            assert path.stat().st_size == size + LONG * len(PIECE)
        assert taken(path) >= file.size_bytes + len(PIECE)
        file.sync()
    assert taken(path) <= path.stat().st_size + 65536
    assert path.read_bytes() == PIECE * 2 * LONG


def test_a_cut_gives_the_blocks_back(path: Path) -> None:
    with durable.create(path) as file:
        *_, size = written(file, LONG)
        assert taken(path) > size
        file.truncate(len(PIECE))
        assert taken(path) <= 2 * len(PIECE)
        file.write(b"end")
        file.sync()
    assert path.read_bytes() == PIECE + b"end"


def test_where_little_is_free_the_blocks_stay_for_others(path: Path) -> None:
    with replaced(durable, "_AMPLE_BYTES", 1 << 62), durable.create(path) as file:
        *_, size = written(file, LONG)
        assert size <= taken(path) <= size + 65536
        file.sync()


def test_in_memory_none_are_taken(memory: Path) -> None:
    path = memory / "file"
    if os.major(os.stat(memory).st_dev):
        pytest.skip("no file system in memory")
    with durable.create(path) as file:
        for size in written(file, LONG):
            assert taken(path) <= size + 65536
        file.sync()
    assert path.stat().st_size == size
