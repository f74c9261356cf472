"""Every call of a save that may fail, fails: the save fails with a typed error or succeeds with a warning.

Older commits are intact, the same process can save again, and whoever opens the repository next finds it sound.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.crash import traced
from tests.crash.oracle import judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.states import Label
    from tests.crash.traced import Outcome, Point

CALLS = ["write", "writev", "pwrite64", "fsync", "fdatasync", "rename", "mkdir", "ftruncate", "msync", "openat"]
TYPED = {"EIO": "SaveFailed", "ENOSPC": "StoreFull"}
"""What a save raises for an error."""

SAVES: list[object] = ["--init", "--first", 2, "--shape", "large", "--saves", 3]


PREPARED = ["--init", "--saves", 2, "--shape", "large"]
CASES: dict[str, list[object]] = {"a save": PREPARED, "init and the first save": []}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("error", TYPED)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_every_call(
    case: str, error: str, forever: bool, tmp_path: Path, count: Callable[[str, int], None], scale: int
) -> None:
    """Each call of a save; of init, of which there are many, one in four unless scaled up."""
    traced.need_strace()
    template = tmp_path / "template"
    template.mkdir()
    acknowledged: dict[str, Label] = {}
    if CASES[case]:
        acknowledged = traced.run(template / "repo", CASES[case]).acknowledged
        assert len(acknowledged) == 2
    found = traced.points(_child(template, [*SAVES, "--saves", 1], CALLS, None, tmp_path / "counted").trace)
    if forever:
        found = [point for point in found if point.call != traced.OPEN]  # nothing could be read either
    if not acknowledged:
        found = found[:: max(1, 4 // scale)]

    def failed(point: Point) -> Outcome:
        inject = f"{point.call}:error={error}:when={point.n}{'+' if forever else ''}"
        return _child(template, SAVES, [point.call], inject, tmp_path / str(point))

    wrong = []
    with ThreadPoolExecutor(2) as pool:
        for point, outcome in zip(found, pool.map(failed, found), strict=True):
            folder = tmp_path / str(point)
            violations = [*_misreported(outcome, error, forever=forever)]
            violations += judge(folder / "repo", {**acknowledged, **outcome.acknowledged})
            wrong += [f"{case}, {error} at {point}{'+' if forever else ''}: {violation}" for violation in violations]
            shutil.rmtree(folder)
    count("calls that failed", len(found))
    assert not wrong, "\n".join(wrong)


def _misreported(outcome: Outcome, error: str, *, forever: bool) -> list[str]:
    """What the child said that it must not say."""
    wrong = []
    if outcome.status or "INJECTED" not in outcome.trace or len(outcome.reports) != 3:
        wrong.append(f"{outcome}")
    raised = [report for report in outcome.reports if report.get("error", TYPED[error]) != TYPED[error]]
    wrong += [f"raised {report['error']}: {report['what']}" for report in raised]
    if not forever:
        wrong += [f"failed again: {report}" for report in outcome.reports[1:] if "id" not in report]
    return wrong


def _child(template: Path, arguments: list[object], calls: list[str], inject: str | None, folder: Path) -> Outcome:
    shutil.copytree(template, folder)
    return traced.trace(folder / "repo", arguments, calls, inject, folder / "trace")
