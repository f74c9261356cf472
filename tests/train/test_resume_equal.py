"""What the kit lets pass: trainings of every kind, killed and continued. And what it does not."""

from __future__ import annotations

import pytest

from ckstore.testing import assert_resume_equal
from tests.train.processes import loaded
from tests.train.trainings import STEPS, TRAININGS, training


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_go_on_as_if_nothing_had_been(name: str) -> None:
    report = assert_resume_equal(training, args=(name,), steps=STEPS, kill_after=(4, 7, 7), context=loaded())
    assert report.steps >= STEPS
    assert report.killed_after == (4, 7, 7)
    assert len(report.resumed_at) == 3
    assert all(0 < at <= 8 for at in report.resumed_at)
