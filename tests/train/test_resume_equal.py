"""What the kit lets pass: trainings of every kind, killed and continued. And what it does not."""

from __future__ import annotations

import pytest

from ckstore.testing import assert_resume_equal
from tests.train.bugs import BUGS
from tests.train.processes import loaded
from tests.train.subjects import STEPS, TRAININGS, broken, training

KILLS = (5, 7, 7)


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_go_on_as_if_nothing_had_been(name: str) -> None:
    report = assert_resume_equal(training, args=(name,), steps=STEPS, kill_after=KILLS, context=loaded())
    assert report.steps >= STEPS
    assert report.killed_after == KILLS
    assert len(report.resumed_at) == 3
    assert all(0 < at <= 8 for at in report.resumed_at)


SEEN = {
    "generators": ("dropout", 5, "right after resuming", "rng.python"),
    "numpys_generator": ("dropout", 5, "right after resuming", "rng.numpy"),
    "pythons_generator": ("dropout", 5, "right after resuming", "rng.python"),
    "loader_off_by_one": ("dropout", 5, "step 5", "batch.0"),
    "loader_reshuffled": ("dropout", 5, "step 5", "batch.0"),
    "moments_cast": ("halved", 5, "right after resuming", "optimizer.state.0.exp_avg"),
    "scheduler_not_loaded": ("autocast", 5, "right after resuming", "scheduler."),
    "average_not_loaded": ("autocast", 5, "right after resuming", "ema.n_averaged"),
    "scaler_not_loaded": ("scaled", 5, "right after resuming", "scaler."),
    "gradients_not_restored": ("accumulation", 5, "right after resuming", "gradients.model.0."),
    "gradients_not_captured": ("accumulation", 5, "after step 6", "model.0."),
    "flags_not_restored": ("averaged", 5, "right after resuming", "run.flags.model.eval"),
    "step_off_by_one": ("dropout", 5, "right after resuming", "run.step"),
    "buffers_not_restored": ("averaged", 5, "right after resuming", "run.flags.model.buffers.3.seen"),
    "buffers_not_captured": ("averaged", 5, "step 5", "metric 'loss'"),
    "frozen_not_restored": ("grouped", 7, "right after resuming", "run.flags.model.frozen"),
}
"""Each bug: the training in which it shows, the step after which that is killed, and where and as what it is told."""


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_are_seen_and_named(bug: str) -> None:
    name, kill_after, where, what = SEEN[bug]
    with pytest.raises(AssertionError) as caught:
        assert_resume_equal(broken, args=(name, bug), steps=STEPS, kill_after=kill_after, context=loaded())
    told = str(caught.value)
    assert "differs from" in told
    assert where in told.splitlines()[1]
    assert f": {what}" in told.splitlines()[1]
