"""Batches and random draws after a resume are those of a run that was never interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.train.pipelines import CONTEXTS, LOADERS, STREAMS, WORKERS
from tests.train.resuming import kept, resumed, straight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def check(make: Callable[[], object], path: Path, noted: set[int], epochs: int = 3) -> None:
    record, places = straight(make, epochs, noted)
    for number, (state, rng) in kept(path, places).items():
        walk = resumed(make, state, rng)
        walk.epochs(epochs)
        walk.position.close()
        assert walk.record == record[number:], f"after {number} entries"


@pytest.mark.parametrize("kind", LOADERS)
def test_loaders(kind: str, tmp_path: Path) -> None:
    check(LOADERS[kind], tmp_path, {0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13})


@pytest.mark.parametrize("kind", STREAMS)
def test_streams(kind: str, tmp_path: Path) -> None:
    check(STREAMS[kind], tmp_path, {0, 1, 3, 4, 5, 6, 8, 9, 11})


@pytest.mark.parametrize("kind", WORKERS)
def test_workers(kind: str, tmp_path: Path) -> None:
    check(WORKERS[kind], tmp_path, {1, 4, 6, 7, 10})


@pytest.mark.parametrize("kind", CONTEXTS)
def test_contexts(kind: str, tmp_path: Path) -> None:
    check(CONTEXTS[kind], tmp_path, {3}, epochs=1)
