"""A few random walks; `python benchmarks/soak/walks.py` takes as many as there is time for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.walks import STEPS, Walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WALKS = 6


@pytest.mark.parametrize("seed", range(WALKS))
def test_walk(seed: int, memory: Path, count: Callable[[str, int], None]) -> None:
    walk = Walk(memory, seed)
    try:
        walk.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}, after {walk.log}") from error
    count("steps of random walks", STEPS)
