"""Whether a training that is killed and goes on does what it would have done, bit for bit."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckstore.errors import InvalidInput
from ckstore.testing.resume_compare import compared, repeated, restored
from ckstore.testing.resume_events import Job
from ckstore.testing.resume_process import ran
from ckstore.testing.resume_stretches import stretches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext

    from ckstore.testing.resume_process import Ran
    from ckstore.testing.resume_stretches import Stretch

_TOLD = 4000
"""How much of what a process wrote to stderr is shown."""


@dataclass(frozen=True)
class ResumeReport:
    """What was compared: `steps` of the longest run, the steps that each process was killed after and resumed at.

    `compared` counts the steps that were compared, those that were done twice twice.
    """

    steps: int
    killed_after: tuple[int, ...]
    resumed_at: tuple[int, ...]
    compared: int


def assert_resume_equal(
    train: Callable[..., object],
    *,
    steps: int,
    kill_after: int | Sequence[int] | None = None,
    args: tuple[Any, ...] = (),
    folder: str | Path | None = None,
    timeout_s: float = 300.0,
    context: BaseContext | None = None,
) -> ResumeReport:
    """Train once straight through, and once killed by SIGKILL and continued in a fresh process; both must be equal.

    `train(repo, *args)` builds everything, tracks and resumes one run or several, and trains for `steps` steps or
    more. It is a function of a module, for it is called in new processes: once to its end, and then, in another
    repository, once for each number of `kill_after` (default: half of `steps`) and once more. Each process but the
    last is killed in the middle of the step after that number of steps, once a commit is there to go on from. The
    global generators are seeded before it is called, otherwise in a process that goes on.

    Compared are, bit for bit: each batch, each logged metric, and after each step parameters, buffers, optimizers and
    all else that the run keeps, flags, gradients in mid-accumulation, and every random generator; what a resume brings
    back and what its commit holds; and how the run is left. Steps that are done twice are compared twice. (States above
    256 MiB are looked at after each second step, or third, ...)

    Raises `AssertionError` naming the first difference, or where the training fails, takes more than `timeout_s` in
    one process, or does not come so far; `InvalidInput` for a call that cannot be meant. `folder`, which must not have
    been used before, keeps both repositories. `context` starts the processes: multiprocessing's `spawn` if not given.
    """
    kills = _kills(steps, kill_after)
    _check(train)
    context = multiprocessing.get_context("spawn") if context is None else context
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary if folder is None else folder)
        if (place / "straight").exists() or (place / "killed").exists():
            raise InvalidInput(f"{place} has been used before", hint="name a new folder, or none")
        straight = _straight(ran(context, Job(train, str(place / "straight"), args, None, timeout_s)), steps)
        resumed_at: list[int] = []
        count = 0
        for number, kill in enumerate([*kills, None]):
            process = ran(context, Job(train, str(place / "killed"), args, kill, timeout_s, seed=number))
            found = stretches(process.events, cut=kill is not None or process.code != 0)
            for name, stretch in found.items():
                _compare(straight, name, stretch, number)  # before it is asked why it failed: this may be the reason
                count += compared(stretch)
                if stretch.begun.commit:
                    resumed_at.append(stretch.begun.steps)
            if kill is None:
                _check_ended(process, "the training that went on")
            else:
                _check_killed(process, kill)
    return ResumeReport(max(one.last for one in straight.values()), kills, tuple(resumed_at), count)


def _kills(steps: int, kill_after: int | Sequence[int] | None) -> tuple[int, ...]:
    if type(steps) is not int or steps < 2:
        raise InvalidInput(f"steps={steps!r}: too few to be killed between", hint="steps=10")
    numbers = [steps // 2] if kill_after is None else [kill_after] if isinstance(kill_after, int) else [*kill_after]
    if not numbers or numbers != sorted(numbers) or numbers[0] < 1 or numbers[-1] >= steps:
        raise InvalidInput(
            f"kill_after={kill_after!r} are no steps to be killed after",
            hint=f"give numbers from 1 to {steps - 1}, none smaller than the one before",
        )
    return tuple(numbers)


def _check(train: Callable[..., object]) -> None:
    main = sys.modules["__main__"]
    if getattr(train, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
        raise InvalidInput(
            f"{train!r} cannot be found by another process",
            why="it was typed in, or given with -c",
            hint="put it into a file, and import it from there",
        )


def _straight(process: Ran, steps: int) -> dict[str, Stretch]:
    _check_ended(process, "the training that was never interrupted")
    found = stretches(process.events, cut=False)
    most = max((stretch.last for stretch in found.values()), default=None)
    if most is None:
        raise AssertionError("no run was resumed. Fix: repo.track(...), run.resume(...) and run.step() in the training")
    if most < steps:
        raise AssertionError(f"the training ended after {most} steps, and steps={steps}")
    return found


def _check_ended(process: Ran, what: str) -> None:
    """Raise unless a process came to its end."""
    if process.code != 0:
        raise AssertionError(_failed(what, process))


def _check_killed(process: Ran, kill_after: int) -> None:
    """Raise unless a process was killed when it was to be."""
    kind = process.events[-1].kind if process.events else ""
    if kind == "uncommitted":
        raise AssertionError(
            f"nothing was committed by the end of step {kill_after}, so that there is nothing to go on from. "
            "Fix: every=ckstore.steps(...) with a smaller number, or a larger kill_after"
        )
    if process.code == 0:
        raise AssertionError(f"the training ended before it could be killed, in the step after {kill_after} steps")
    if kind != "killing":
        raise AssertionError(_failed(f"the training that was to be killed after step {kill_after}", process))


def _failed(what: str, process: Ran) -> str:
    how = "took too long" if process.code is None else f"failed with code {process.code}"
    steps = f", {process.events[-1].steps} steps done" if process.events else ""
    return f"{what} {how}{steps}:\n{process.errors[-_TOLD:]}"


def _compare(straight: dict[str, Stretch], name: str, stretch: Stretch, killed: int) -> None:
    if name not in straight:
        raise AssertionError(f"the run {name!r} is there only in the training that was killed")
    often = "killed once" if killed == 1 else f"killed {killed} times"
    who = f"{name}, {often}, differs from the commit that it went on from"
    difference = restored(stretch)
    if difference is None:
        difference = repeated(straight[name], stretch)
        who = f"{name}, {often}, differs from the run that was never interrupted"
        if killed == 0:
            who = f"{name} is not reproducible: it differs from another time before anything interrupts it"
    if difference is not None:
        raise AssertionError(f"{who}\n{difference}")
