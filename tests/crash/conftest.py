"""`pytest tests/crash --crash-scale N` does N times as much of what is sampled; the figures reached are printed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIGURES = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-scale", type=int, default=1, help="how many times as many crash states and rounds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, {})
    if figures:
        terminalreporter.section("crash harness")
        for name, number in sorted(figures.items()):
            terminalreporter.line(f"{number:6} {name}")


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
