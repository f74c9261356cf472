"""kill -9 at every call by which a save changes the disk (W1 to W5, LMDB's calls included).

A call is killed as it is entered, so that each state between two calls is met once. One thread stores the
chunks: the Nth call of a kind is the same in each run.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.crash import traced
from tests.crash.oracle import Verdict, judge
from tests.crash.traced import DISK_CALLS, OPEN, REPORT, Outcome, Point

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.crash.states import Label

CALLS = [*DISK_CALLS, OPEN, REPORT]


class Before(NamedTuple):
    """What is on the disk before the child that is killed starts, and what that child does."""

    saves: Sequence[object]
    """Arguments of the child that prepares the repository; none: there is none."""
    killed_at: str | None
    """The last call of this kind is where a second child is killed that saves once more: its remains lie there."""
    child: Sequence[object]
    collected: bool = False


PREPARED = ["--init", "--saves", 2, "--shape", "large"]

CHAIN = ["--init", "--saves", 6, "--shape", "chain"]

CASES = {
    "a save": Before(PREPARED, None, ["--first", 2, "--shape", "large"]),
    "a save with blocks taken ahead": Before(PREPARED, None, ["--first", 2, "--shape", "large", "--ahead"]),
    "two saves": Before(PREPARED, None, ["--first", 2, "--saves", 2]),
    "init and the first save": Before([], None, ["--init", "--shape", "large"]),
    "a new journal segment": Before(["--init", "--saves", 5], None, ["--first", 5, "--saves", 2, "--rotate"]),
    "recovery from a kill before W4": Before(PREPARED, "rename", ["--first", 3, "--shape", "large"]),
    "gc and a save": Before(CHAIN, None, ["--collect-first", "--first", 6, "--shape", "chain"], collected=True),
    "recovery from a kill before W5": Before(PREPARED, "fdatasync", ["--first", 3, "--shape", "large"]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_call(case: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    traced.need_strace()
    before = CASES[case]
    template, acknowledged = _prepare(before, tmp_path)
    found = traced.points(_child(before, template, None, tmp_path / "counted").trace)
    assert {"writev", "fdatasync", "fsync", "rename", "pwrite64", "sendto"} <= {point.call for point in found}

    def killed(point: Point) -> Outcome:
        return _child(before, template, point, tmp_path / str(point))

    wrong = []
    with ThreadPoolExecutor(2) as pool:
        for point, outcome in zip(found, pool.map(killed, found), strict=True):
            folder = tmp_path / str(point)
            verdict = Verdict(collected=before.collected)
            violations = judge(folder / "repo", {**acknowledged, **outcome.acknowledged}, verdict)
            if not outcome.was_killed:
                violations.append(f"not killed but {outcome}")
            wrong += [f"{case}, killed at {point}: {violation}" for violation in violations]
            shutil.rmtree(folder)
    count("kill points", len(found))
    assert not wrong, "\n".join(wrong)


def _prepare(before: Before, tmp_path: Path) -> tuple[Path, dict[str, Label]]:
    """A repository as it is before, and its acknowledged commits."""
    template = tmp_path / "template"
    template.mkdir()
    acknowledged: dict[str, Label] = {}
    if before.saves:
        outcome = traced.run(template / "repo", before.saves)
        assert outcome.status == 0, outcome
        acknowledged = outcome.acknowledged
    if before.killed_at is not None:
        first = before._replace(child=["--first", 2, "--shape", "large"])
        found = traced.points(_child(first, template, None, tmp_path / "remains").trace)
        # The index syncs once after the journal did.
        back = 2 if before.killed_at == "fdatasync" else 1
        point = [point for point in found if point.call == before.killed_at][-back]
        outcome = _child(first, template, point, tmp_path / str(point))
        assert outcome.was_killed, outcome
        template = (tmp_path / str(point)).rename(tmp_path / "killed")
    return template, acknowledged


def _child(before: Before, template: Path, point: Point | None, folder: Path) -> Outcome:
    """Run the child in `folder`, a copy of `template`; kill it at `point`."""
    shutil.copytree(template, folder)
    calls = CALLS if point is None else [point.call]
    inject = f"{point.call}:signal=KILL:when={point.n}" if point else None
    return traced.trace(folder / "repo", before.child, calls, inject, folder / "trace")
