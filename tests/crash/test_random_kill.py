"""kill -9 at random moments: one writer, then three on one branch. What was acknowledged is there (W1 to W5)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ckstore.porcelain.init import init
from tests.crash.oracle import judge
from tests.crash.traced import Child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.states import Label

ROUNDS = 12
LONGEST_S = 0.25
ENDLESS = ["--saves", 0, "--rotate"]


@pytest.mark.parametrize("seed", range(5))
def test_one_writer(seed: int, tmp_path: Path, count: Callable[[str, int], None], scale: int) -> None:
    """The writer is killed, the repository judged, and a new writer started, again and again."""
    rng = random.Random(seed)
    folder = tmp_path / "repo"
    acknowledged: dict[str, Label] = {}
    for number in range(ROUNDS * scale):
        writer = Child(folder, [*ENDLESS, "--init", "--first", 1000 * number])
        writer.go()
        assert writer.listen(rng.uniform(0, LONGEST_S)), writer.end()
        outcome = writer.end()
        assert outcome.was_killed, outcome
        acknowledged |= outcome.acknowledged
        violations = judge(folder, acknowledged)
        assert not violations, f"seed {seed}, round {number}: {violations}"
    count("random kills", ROUNDS * scale)
    count("commits acknowledged before a random kill", len(acknowledged))
    assert acknowledged


@pytest.mark.parametrize("seed", range(3))
def test_three_writers(seed: int, tmp_path: Path, count: Callable[[str, int], None], scale: int) -> None:
    """Three writers on one branch; after a `Conflict` they try again. One is killed and another started, repeatedly."""
    rng = random.Random(seed)
    folder = tmp_path / "repo"
    init(folder)
    first = iter(range(0, 1 << 40, 1000))
    acknowledged: dict[str, Label] = {}
    writers = [_writer(folder, next(first)) for _ in range(3)]
    for _ in range(ROUNDS * scale):
        victim = rng.randrange(3)
        assert writers[victim].listen(rng.uniform(0, LONGEST_S)), writers[victim].end()
        acknowledged |= _ended(writers[victim])
        writers[victim] = _writer(folder, next(first))
    for writer in writers:
        acknowledged |= _ended(writer)
    violations = judge(folder, acknowledged)
    assert not violations, f"seed {seed}: {violations}"
    count("random kills", ROUNDS * scale + 3)
    count("commits acknowledged before a random kill", len(acknowledged))
    assert acknowledged


def test_three_writers_in_peace(tmp_path: Path) -> None:
    """Nobody is killed: every save succeeds, and no save finds fault with another's scratch folder."""
    folder = tmp_path / "repo"
    init(folder)
    writers = [Child(folder, ["--first", 1000 * number, "--saves", 40]) for number in range(3)]
    for writer in writers:
        writer.go()
    acknowledged: dict[str, Label] = {}
    for writer in writers:
        assert not writer.listen(), "a writer hangs"
        outcome = writer.outcome()
        assert [report for report in outcome.reports if "id" not in report or report["warned"]] == []
        assert len(outcome.acknowledged) == 40, outcome
        acknowledged |= outcome.acknowledged
    assert judge(folder, acknowledged) == []


def _writer(folder: Path, first: int) -> Child:
    writer = Child(folder, [*ENDLESS, "--first", first])
    writer.go()
    return writer


def _ended(writer: Child) -> dict[str, Label]:
    """Kill a writer; what it had acknowledged. It reported no error before."""
    outcome = writer.end()
    assert outcome.was_killed, outcome
    assert [report for report in outcome.reports if "id" not in report or report["warned"]] == []
    return outcome.acknowledged
