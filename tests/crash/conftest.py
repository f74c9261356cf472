"""What the crash tests share. `pytest --crash-scale N` does N times as much of what is sampled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a thing: what lies there only stands for a disk."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="ckstore-crash-") as folder:
        yield Path(folder)


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> int:
    """How many times as much to do."""
    found: int = pytestconfig.getoption("crash_scale", default=1)
    return found


@pytest.fixture
def count(pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Adds to a figure that the summary prints."""

    def add(name: str, number: int) -> None:
        figures = pytestconfig.stash.setdefault(FIGURES, {})
        figures[name] = figures.get(name, 0) + number
        record_property(name, figures[name])

    return add
