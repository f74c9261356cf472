"""A run that is killed at random instants ends as if it had not been. `pytest --crash-scale N`: N times as often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.train.killed import killed_and_straight

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_killed_at_random_instants(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    kills = 8 * pytestconfig.getoption("crash_scale")
    straight, killed = killed_and_straight(tmp_path, 1, kills)
    print(killed.kills, killed.resumed_at)
    assert straight.kills == 0
    assert killed.kills >= kills * 3 // 4
    assert len(set(killed.resumed_at)) > kills // 4
    assert killed.end == straight.end
