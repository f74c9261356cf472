"""Fixtures for all tests; the figures that some reach are printed in the end."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

import ckstore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytest_plugins = ["tests.servers.fixtures"]

LONGEST = frozenset(
    {
        "test_demo_in_json",
        "test_every_call",
        "test_flipped_bits",
        "test_killed_at_random_instants",
        "test_power_cut",
        "test_whatever_happens_nothing_is_lost",
    }
)
"""The tests that take ten seconds and more."""

FIGURES = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-scale", type=int, default=1, help="how many times as many crash states and rounds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash.setdefault(FIGURES, {})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take longest come first: one that began last would keep one process at work, and the others idle."""
    items.sort(key=lambda item: item.name.partition("[")[0] not in LONGEST)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs a part of the tests hands its figures on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = session.config.stash[FIGURES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up the figures of such processes."""
    figures = node.config.stash[FIGURES]
    for name, number in getattr(node, "workeroutput", {}).get("figures", {}).items():
        figures[name] = figures.get(name, 0) + number


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if figures:
        terminalreporter.section("crash harness")
        for name, number in sorted(figures.items()):
            terminalreporter.line(f"{number:6} {name}")


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has set must not count in them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """An empty repository in a folder of its own."""
    with ckstore.open(tmp_path / "repo", cache=tmp_path / "cache") as opened:
        yield opened
