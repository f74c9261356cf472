"""When a run commits: every trigger, what they compose to, what they remember, and what they refuse."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import ckstore
from ckstore.errors import CkstoreWarning, InvalidInput
from ckstore.train.triggers import Moment, Trigger
from tests.train.trainings import Small, steps_of, train

if TYPE_CHECKING:
    from collections.abc import Callable

INF = float("inf")
NAN = float("nan")


def run_of(repo: ckstore.Repo, every: Trigger | None, small: Small | None = None, **options: Any) -> Any:
    """A run that waits for each commit, so that none is skipped."""
    small = small or Small()
    return small, repo.track("run", **small.parts, every=every, **{"busy": "wait", "at_end": False, **options})


def committed(repo: ckstore.Repo, every: Trigger | None, until: int, **options: Any) -> list[int | None]:
    small, run = run_of(repo, every, **options)
    with run:
        run.resume()
        train(run, small, until)
    return steps_of(repo, "run") if "run" in repo.branches else []


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (None, []),
        (ckstore.steps(1), [1, 2, 3, 4, 5, 6, 7]),
        (ckstore.steps(3), [3, 6]),
        (ckstore.epochs(1), [6]),
        (ckstore.at(2, 5, 99), [2, 5]),
        (ckstore.at(), []),
        (ckstore.signals(), []),
        (ckstore.steps(4) | ckstore.at(5), [4, 5]),
        (ckstore.steps(2) & ckstore.steps(3), [6]),
        (ckstore.steps(2) & ckstore.at(3, 4), [4]),
        ((ckstore.steps(2) & ckstore.at(4)) | ckstore.at(7), [4, 7]),
        (ckstore.steps(1) & ckstore.epochs(1), []),
        (ckstore.steps(3) | ckstore.epochs(1), [3, 6, 6]),
    ],
    ids=str,
)
def test_when(every: Trigger | None, expected: list[int], repo: ckstore.Repo) -> None:
    assert committed(repo, every, 7) == expected


def test_steps_are_counted_over_the_whole_run(repo: ckstore.Repo) -> None:
    """A run that is resumed at step 4 commits at 6 and 9, as one that goes on."""
    assert committed(repo, ckstore.steps(3), 4, at_end=True) == [3, 4]
    assert committed(repo, ckstore.steps(3), 10) == [3, 4, 6, 9]


def test_epochs_are_counted_over_the_whole_run(repo: ckstore.Repo) -> None:
    assert committed(repo, ckstore.epochs(2), 8, at_end=True) == [8]
    assert committed(repo, ckstore.epochs(2), 25) == [8, 12, 24]


def moments(every: Trigger, *seen: Moment, mode: str | None = None) -> list[bool]:
    """What a trigger says of moments, a commit following each it is due at."""
    watch = every.watch(Moment(0, 0, 100.0), lambda _: mode)
    said = []
    for moment in seen:
        said.append(watch.due(moment))
        if said[-1]:
            watch.committed(moment)
    return said


def test_minutes() -> None:
    """From the last commit, whoever made it, not from the last time it was due."""
    at = [Moment(n, 0, 100.0 + 30 * n) for n in range(7)]
    assert moments(ckstore.minutes(1), *at) == [False, False, True, False, True, False, True]
    watch = ckstore.minutes(1).watch(at[0], lambda _: None)
    watch.committed(at[1])
    assert [watch.due(one) for one in at[2:5]] == [False, True, True]


def test_minutes_in_a_run(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.minutes(1 / 60))
    with run:
        run.resume()
        train(run, small, 2)
        assert "run" not in repo.branches
        time.sleep(1)
        train(run, small, 3)
    assert steps_of(repo, "run") == [3]


def logged(*values: float, name: str = "loss") -> list[Moment]:
    return [Moment(n, 0, 0.0, logged={name: value}) for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", (3, 2, 2, 4, 1), [True, True, False, False, True]),
        ("max", (3, 2, 4, 4, 5), [True, False, True, False, True]),
        ("min", (NAN, 3, NAN, 2), [False, True, False, True]),
        ("max", (NAN, -INF, 0, INF), [False, True, True, True]),
        ("min", (INF, 1), [True, True]),
    ],
)
def test_best(mode: str, values: tuple[float, ...], expected: list[bool]) -> None:
    assert moments(ckstore.best("loss", mode), *logged(*values)) == expected
    assert moments(ckstore.best("loss"), *logged(*values), mode=mode) == expected


def test_best_waits_for_the_other_of_both() -> None:
    """`best(...) & steps(2)`: at the next even step, if it is the best still, and with the best as committed."""
    every = ckstore.best("loss", "min") & ckstore.steps(2)
    values = {1: 5.0, 2: 4.0, 3: 3.0, 4: 3.5, 5: 3.8, 6: 3.9, 7: 1.0, 8: 0.5}
    assert moments(every, *(Moment(n, 0, 0.0, logged={"loss": v}) for n, v in values.items())) == [
        False, True, False, True, False, False, False, True,
    ]  # fmt: skip


def test_only_what_must_not_be_skipped_is_urgent() -> None:
    every = ckstore.steps(1) | ckstore.at(2) | ckstore.best("loss", "min")
    watch = every.watch(Moment(0, 0, 0.0), lambda _: None)
    urgent = []
    for moment in (Moment(1, 0, 0.0), Moment(2, 0, 0.0), Moment(3, 0, 0.0, logged={"loss": 1.0}), Moment(4, 0, 0.0)):
        watch.due(moment)
        urgent.append(watch.urgent)
        watch.committed(moment)
    assert urgent == [False, True, True, False]


def evaluated(repo: ckstore.Repo, values: dict[int, float], until: int, **options: Any) -> list[int | None]:
    """A run that logs `val/loss` after some steps; the steps that have been committed so far."""
    small, run = run_of(repo, ckstore.best("val/loss", "min"), **options)
    with run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.step()
            if step in values:
                run.log({"val/loss": values[step]})
            if step == until:
                break
    return steps_of(repo, "run")


def test_best_in_a_run_is_of_the_step_it_was_logged_after(repo: ckstore.Repo) -> None:
    assert evaluated(repo, {1: 3.0, 2: 4.0, 4: 2.0}, 5) == [1, 4]
    assert repo["best:val/loss:min"].info.step == 4


def test_best_survives_a_resume(repo: ckstore.Repo) -> None:
    assert evaluated(repo, {1: 3.0, 2: 2.0}, 3, at_end=True) == [1, 2, 3]
    assert evaluated(repo, {4: 2.5, 5: 1.5}, 6) == [1, 2, 3, 5]


def test_best_of_a_run_that_goes_on_from_before(repo: ckstore.Repo) -> None:
    """What was the best after the commit gone on from is not remembered."""
    assert evaluated(repo, {1: 3.0, 2: 1.0}, 3) == [1, 2]
    small, run = run_of(repo, ckstore.best("val/loss", "min"))
    with run:
        assert run.resume(from_="step:1") == 1
        assert run.best is not None
        assert run.best.metrics == {"val/loss": 3.0}
        for _, batch in run.resume(small.loader):
            small.step(batch)
            run.step()
            run.log({"val/loss": 2.0})
            break
    assert steps_of(repo, "run") == [1, 2]
    assert repo["run"].info.metrics == {"val/loss": 2.0}


def test_signals_commit_and_go_on(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.signals() | ckstore.at(4))
    with run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            if step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            run.step()
    assert steps_of(repo, "run") == [2, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ckstore.steps(0),
        lambda: ckstore.steps(-1),
        lambda: ckstore.steps(2.0),  # type: ignore[arg-type]
        lambda: ckstore.steps(True),
        lambda: ckstore.epochs(0),
        lambda: ckstore.at(3, 0),
        lambda: ckstore.at("3"),  # type: ignore[arg-type]
        lambda: ckstore.minutes(0),
        lambda: ckstore.minutes(-1),
        lambda: ckstore.minutes(NAN),
        lambda: ckstore.minutes(INF),
        lambda: ckstore.minutes("5"),  # type: ignore[arg-type]
        lambda: ckstore.best(""),
        lambda: ckstore.best("loss", "minimum"),
        lambda: ckstore.best(3),  # type: ignore[arg-type]
        lambda: ckstore.steps(3) | 5,  # type: ignore[operator]
        lambda: ckstore.steps(3) & None,  # type: ignore[operator]
    ],
)
def test_bad_input(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInput):
        make()


def test_every_must_be_a_trigger(repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match=r"steps\(500\)"):
        run_of(repo, 500)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [{"every": ckstore.best("acc")}, {"every": None, "keep": "best=2:acc"}], ids=str)
def test_which_way_is_better_is_asked_at_track(rule: dict[str, Any], repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match=r"metrics\.acc"):
        run_of(repo, **rule)


def test_which_way_is_better_comes_from_the_settings(repo: ckstore.Repo) -> None:
    (repo.path / ".ckstore" / "config.toml").write_text('[metrics]\nacc = "max"\n')
    small = Small()
    with (
        ckstore.open(repo.path) as again,
        again.track("run", **small.parts, every=ckstore.best("acc"), at_end=False, busy="wait") as run,
    ):
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.log({"acc": [0, 1, 3, 2][step] if step < 4 else 0})
            run.step()
    assert steps_of(repo, "run") == [1, 2]


@pytest.mark.parametrize("near", ["val_loss", "Val/Loss", "valloss", "val.loss"])
def test_a_metric_by_nearly_that_name(near: str, repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.best("val/loss", "min"))
    with run:
        run.resume()
        with pytest.raises(InvalidInput, match="'val/loss'"):
            run.log({near: 1.0})
        run.log({"val/loss": 1.0})
        run.log({near: 1.0})  # both are meant, then
        train(run, small, 1)


def test_a_metric_that_nobody_logs(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.steps(2), keep=ckstore.keep(last=1, best=1, metric="val/loss", mode="min"))
    with run:
        run.resume()
        with pytest.warns(CkstoreWarning, match="'val/loss', which nobody has logged") as told:
            train(run, small, 5)
    assert len(told) == 1
    assert told[0].filename.endswith("trainings.py")


def test_nan_is_kept_and_said_once(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.best("val/loss", "min") | ckstore.at(2))

    def training() -> None:
        with run:
            for _, batch in run.resume(small.loader):
                run.log({"val/loss": NAN, "other": INF})
                small.step(batch)
                run.step()

    with pytest.warns(CkstoreWarning, match=r"'val/loss' is NaN at step 1.*resume\(from_=") as told:
        training()
    assert len(told) == 1
    assert steps_of(repo, "run") == [2]
    assert str(repo["run"].info.metrics["val/loss"]) == "nan"
    assert repo["run"].info.metrics["other"] == INF


@pytest.mark.parametrize("value", ["3", None, [1.0, 2.0], b"1", object()], ids=lambda one: type(one).__name__)
def test_what_is_no_number(value: object, repo: ckstore.Repo) -> None:
    """Nothing of such a call is taken in."""
    _, run = run_of(repo, None)
    with run:
        run.resume()
        with pytest.raises(InvalidInput, match="'bad'"):
            run.log({"good": 1.0, "bad": value})
        with pytest.raises(InvalidInput, match="no name"):
            run.log({"": 1.0})
        run.commit(block=True)
    assert repo["run"].info.metrics == {}
