"""The kit itself: what it asks of a training, what it says of one that fails, and that nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import ckstore
from ckstore.errors import InvalidInput
from ckstore.testing import ResumeReport, assert_resume_equal
from ckstore.testing.facts import facts
from ckstore.testing.resume_compare import repeated
from ckstore.testing.resume_events import Event
from ckstore.testing.resume_stretches import Stretch, stretches
from tests.train.processes import loaded

if TYPE_CHECKING:
    from ckstore.api.repo import Repo


def train(repo: Repo, every: int = 1, noisy: bool = False) -> None:
    """A training that only counts and draws."""
    model = torch.nn.Linear(2, 1)
    with repo.track("counted", model=model, every=ckstore.steps(every), busy="wait") as run:
        for _ in range(run.resume(), 6):
            with torch.no_grad():
                model.weight += torch.rand(1)
            if noisy:
                run.log({"time": time.monotonic()})
            run.step()


def fails_later(repo: Repo) -> None:
    repo.track("later", model=torch.nn.Linear(2, 1)).__enter__()
    raise RuntimeError("the training's own error")


def stays(repo: Repo, folder: Path) -> None:
    """Leaves a process behind wherever it can, and never ends."""
    started = subprocess.Popen(["sleep", "600"])
    (folder / f"{started.pid}").touch()
    with repo.track("stays", model=torch.nn.Linear(2, 1)) as run:
        run.resume()
        time.sleep(600)


def tracks_nothing(repo: Repo) -> None:
    pass


def test_report(tmp_path: Path) -> None:
    report = assert_resume_equal(train, steps=6, folder=tmp_path, context=loaded())
    assert report == ResumeReport(6, (3,), (3,), 7)
    with ckstore.open(tmp_path / "straight") as straight, ckstore.open(tmp_path / "killed") as killed:
        assert len(straight.log("counted")) == len(killed.log("counted")) == 6
    with pytest.raises(InvalidInput, match="used before"):
        assert_resume_equal(train, steps=6, folder=tmp_path, context=loaded())


def test_a_new_interpreter_is_started_by_itself() -> None:
    assert assert_resume_equal(train, steps=6).compared == 7


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 7}, "ended after 6 steps, and steps=7"),
        ({"steps": 6, "args": (4,)}, "nothing was committed by the end of step 3"),
        ({"steps": 6, "args": (1, True)}, "counted is not reproducible"),
        ({"steps": 6, "args": ("no",)}, "failed with code 1:(.|\n)*InvalidInput"),
    ],
)
def test_trainings_that_cannot_be_compared(options: dict[str, object], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        assert_resume_equal(train, context=loaded(), **options)  # type: ignore[arg-type]


def test_errors_of_the_training_are_shown() -> None:
    with pytest.raises(AssertionError, match=r"never interrupted failed with code 1(.|\n)*the training's own error"):
        assert_resume_equal(fails_later, steps=6, context=loaded())
    with pytest.raises(AssertionError, match="no run was resumed"):
        assert_resume_equal(tracks_nothing, steps=6, context=loaded())


def test_one_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"Timeout(.|\n)*in stays"):
        assert_resume_equal(stays, steps=2, args=(tmp_path,), context=loaded(), timeout_s=2)
    (started,) = tmp_path.iterdir()
    until = time.monotonic() + 10
    while _runs(int(started.name)):
        assert time.monotonic() < until


def _runs(pid: int) -> bool:
    try:
        return "(sleep) Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("kill_after", [0, 6, [4, 3], []])
def test_steps_at_which_nothing_can_be_killed(kill_after: int | list[int]) -> None:
    with pytest.raises(InvalidInput, match="kill_after"):
        assert_resume_equal(train, steps=6, kill_after=kill_after)


def test_functions_that_no_other_process_finds() -> None:
    with pytest.raises(InvalidInput, match="not a lambda"):
        assert_resume_equal(lambda repo: None, steps=6)
    code = "from ckstore.testing import assert_resume_equal\ndef f(repo): 0\nassert_resume_equal(f, steps=6)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "put it into a file" in ran.stderr


def test_importing_it_loads_no_torch() -> None:
    code = "from ckstore.testing import assert_resume_equal; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def stretch(text: str, *, begun: int = 0, cut: bool = False) -> Stretch:
    """`b1 m1 | b2 m2 |`: batches, metrics and the ends of steps."""
    events, steps = [Event("begun", "run", begun)], begun
    for word in text.split():
        if word == "|":
            steps += 1
            events.append(Event("step", "run", steps, {"model": str(steps)}))
        else:
            events.append(Event({"b": "batch", "m": "logged"}[word[0]], "run", steps, {word[0]: word}))
    return stretches(events, cut=cut)["run"]


STRAIGHT = "b1 b2 m1 | b3 m2 | m3 b4 m4 |"


@pytest.mark.parametrize(
    ("text", "begun", "cut"),
    [
        (STRAIGHT, 0, False),
        ("b1 b2 m1 | b3", 0, True),
        ("b1", 0, True),
        ("b2 m1 | b3 m2 | m3 b4 m4 |", 0, False),  # the commit was made between the two batches of a step
        ("b4 m4 |", 2, False),  # it was made after what is logged between steps
        ("b4", 2, True),
    ],
)
def test_stretches_that_are_alike(text: str, begun: int, cut: bool) -> None:
    assert repeated(stretch(STRAIGHT), stretch(text, begun=begun, cut=cut)) is None


@pytest.mark.parametrize(
    ("text", "begun", "cut", "told"),
    [
        ("b1 b2 m1 | b3", 0, False, "step 2: metrics: how many"),
        ("b1 b2 m1 |", 0, False, "step 2: batch: how many"),
        ("b1 b2 m1 | m2 b4", 0, True, "step 2: b\n  expected: b3\n  found:    b4"),
        ("b1 b2 m1 | b3 b3", 0, True, "step 2: batch: how many\n  expected: 1\n  found:    2"),
        ("b9", 2, True, "step 3: b\n  expected: b4\n  found:    b9"),
        ("b4 m4 | b5", 2, True, "step 4: batch: how many"),
        ("b4 m4 | |", 2, False, "steps: their number"),
        ("| b4 m4 |", 1, False, "step 2: batch: how many"),
    ],
)
def test_stretches_that_differ(text: str, begun: int, cut: bool, told: str) -> None:
    assert told in str(repeated(stretch(STRAIGHT), stretch(text, begun=begun, cut=cut)))


def test_facts() -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("own", torch.zeros(3), persistent=False)
    told = facts("model", model)
    assert list(told) == [
        "model.weight",
        "model.bias",
        "model.own",
        "model.weight.requires_grad",
        "model.bias.requires_grad",
        "model.training",
    ]
    nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    unequal = [
        torch.tensor([0.0]),
        torch.tensor([-0.0]),
        torch.tensor(0.0),
        torch.tensor([0]),
        torch.tensor([torch.nan]),
        nan,
    ]
    assert len({facts("one", value)["one"] for value in unequal}) == len(unequal)
    assert facts("one", [1, {"two": (True, 1.0)}, {}]) == {
        "one.0": "1",
        "one.1.two.0": "True",
        "one.1.two.1": "1.0",
        "one.2": "{}",
    }
    sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([2.0]), (4,), check_invariants=True)
    assert list(facts("one", sparse)) == ["one.indices", "one.values"]
