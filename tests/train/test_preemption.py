"""Signals at every point of a training: it saves in time, ends with the right code, and goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore.train.preemption import Preempted
from tests.nursery import ROOT
from tests.train.held_up import hold_store
from tests.train.signalled import UNTIL, slow_data
from tests.train.test_async import sound
from tests.train.trainings import Small, same, steps_of, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


class Forks:
    """Starts trainings quickly: a process that has imported all there is to import, and forks."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.train.signalled"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class Child:
    """A training in a process and process group of its own."""

    def __init__(self, forks: Forks, folder: Path, case: str) -> None:
        self._forks = forks
        self._err = folder / "err"
        self.code: int | None = None
        for name in ("in", "out"):
            os.mkfifo(folder / name)
        self.pid = forks.ask(f"{folder} {case}")
        self.input = (folder / "in").open("w")
        self.output = (folder / "out").open()

    def reached(self, point: str) -> None:
        line = self.output.readline().strip()
        assert line == point, self._err.read_text()

    def signal(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def go_on(self) -> None:
        self.input.write("\n")
        self.input.flush()

    def running(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def ended(self) -> tuple[int, str]:
        """The exit code, and what it said."""
        if self.code is None:
            self.code = self._forks.ask(f"wait {self.pid}")
        return self.code, self._err.read_text()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the other processes: the last bits of sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    one = Forks()
    with one.process:
        yield one
        one.process.kill()


@pytest.fixture
def start(forks: Forks, tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """Starts a training, whose repository is `tmp_path / "repo"`."""
    started: list[Child] = []

    def starting(case: str) -> Child:
        started.append(Child(forks, tmp_path, case))
        return started[-1]

    yield starting
    for one in started:
        if one.code is None:
            one.signal(signal.SIGKILL)
            one.ended()
        one.input.close()
        one.output.close()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[bool, Any]:
    """What a training ends as that nothing interrupted, with its data shuffled and not."""
    return {shuffled: trained(tmp_path_factory.mktemp("straight"), shuffled=shuffled) for shuffled in (True, False)}


def trained(folder: Path, *, shuffled: bool) -> Any:
    small = Small(width=200)
    if not shuffled:
        slow_data(small, 0, slow=False)
    with ckstore.open(folder) as repo:
        with repo.track("run", **small.parts, at_end=False) as run:
            run.resume()
            train(run, small, UNTIL)
        sound(repo)
    return small.state()


def goes_on(folder: Path, straight: dict[bool, Any], *, shuffled: bool = True) -> None:
    """It ends as one that was never interrupted."""
    assert same(trained(folder / "repo", shuffled=shuffled), straight[shuffled])


def tip(folder: Path) -> Any:
    with ckstore.open(folder / "repo") as repo:
        return repo["run"].info


@pytest.mark.parametrize(
    ("case", "point", "number", "code"),
    [
        ("before step", "before the step", TERM, 143),
        ("in step", "in the step", INT, -INT),
        ("evaluation", "evaluating", TERM, 143),
        ("evaluating", "evaluating 0", INT, -INT),
    ],
)
def test_it_saves_and_ends(
    case: str, point: str, number: int, code: int, start: Callable[[str], Child], tmp_path: Path, straight: Any
) -> None:
    """Within a step: at its end, step 4. In an evaluation: at once, without going on with it.

    Ctrl-C ends the process as it would have: by the signal, which a shell calls 130.
    """
    one = start(case)
    one.reached(point)
    one.signal(number)
    if "step" in case:
        one.go_on()
    ended, said = one.ended()
    assert ended == code, said
    assert tip(tmp_path).step == 4
    assert tip(tmp_path).message == "saved on a signal"
    goes_on(tmp_path, straight)


@pytest.mark.parametrize(("case", "step"), [("long step", 3), ("after optimizer", 4)])
def test_a_step_that_takes_too_long(
    case: str, step: int, start: Callable[[str], Child], tmp_path: Path, straight: Any
) -> None:
    """Asleep in a system call when patience runs out: saved as it is, and what has changed nothing yet comes again."""
    one = start(case)
    one.reached("waiting")
    began = time.monotonic()
    one.signal(TERM)
    ended, said = one.ended()
    assert ended == 143, said
    assert 0.3 < time.monotonic() - began < 15
    assert tip(tmp_path).step == step
    if case == "long step":
        goes_on(tmp_path, straight)


def test_data_that_takes_too_long(start: Callable[[str], Child], tmp_path: Path, straight: Any) -> None:
    one = start("slow data late")
    one.reached("waiting")
    one.signal(TERM)
    ended, said = one.ended()
    assert ended == 143, said
    assert tip(tmp_path).step == 3
    goes_on(tmp_path, straight, shuffled=False)


def test_workers_that_die_of_it(start: Callable[[str], Child], tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group, the data's workers too, while the run waits for them: it saves all the same."""
    one = start("slow data workers")
    assert {one.output.readline(), one.output.readline()} == {"waiting\n", "step 3\n"}
    time.sleep(0.5)
    one.signal(INT, group=True)
    ended, said = one.ended()
    assert ended == -INT, said
    assert tip(tmp_path).step == 3
    assert tip(tmp_path).message == "saved on a signal"


def test_usr1_saves_and_goes_on(start: Callable[[str], Child], tmp_path: Path, straight: Any) -> None:
    one = start("evaluating")
    one.reached("evaluating 0")
    one.signal(USR1)
    one.go_on()
    one.reached("evaluating 1")
    one.go_on()
    one.reached("done")
    assert one.ended()[0] == 0
    assert tip(tmp_path).step == 4
    goes_on(tmp_path, straight)


def test_while_a_save_is_under_way(start: Callable[[str], Child], tmp_path: Path, straight: Any) -> None:
    """That one becomes durable first; both are there."""
    one = start("under way")
    one.reached("under way")
    one.signal(TERM)
    ended, said = one.ended()
    assert ended == 143, said
    with ckstore.open(tmp_path / "repo") as repo:
        assert steps_of(repo, "run") == [3, 4]
    goes_on(tmp_path, straight)


@pytest.mark.parametrize("first", [INT, TERM])
def test_a_second_ctrl_c_leaves_at_once(
    first: int, start: Callable[[str], Child], tmp_path: Path, straight: Any
) -> None:
    """Although a save is stuck; nothing is half-done."""
    one = start("stuck save")
    one.reached("under way")
    one.signal(first)
    if first == TERM:
        time.sleep(0.1)
        one.signal(INT)
    time.sleep(0.3)
    assert one.running()
    began = time.monotonic()
    one.signal(INT)
    ended, said = one.ended()
    assert time.monotonic() - began < 4  # the save is stuck for 30 s; torch alone takes a part of one to go
    assert ended == -INT, said
    with ckstore.open(tmp_path / "repo") as repo:
        assert "run" not in repo.branches
        sound(repo)
    goes_on(tmp_path, straight)


def test_two_ctrl_c_within_a_step(start: Callable[[str], Child], tmp_path: Path) -> None:
    one = start("in step")
    one.reached("in the step")
    one.signal(INT)
    time.sleep(0.2)
    assert one.running()
    one.signal(INT)
    ended, said = one.ended()
    assert ended == -INT
    assert "KeyboardInterrupt" in said
    with ckstore.open(tmp_path / "repo") as repo:
        assert "run" not in repo.branches


# In this process.


@contextmanager
def preempted(warned: str | None = None) -> Iterator[None]:
    """The body is ended as SIGTERM asks, perhaps with a warning."""
    with (
        nullcontext() if warned is None else pytest.warns(ckstore.CkstoreWarning, match=warned),
        pytest.raises(Preempted) as raised,
    ):
        yield
    assert raised.value.code == 143


def test_handlers_are_given_back(repo: ckstore.Repo) -> None:
    def own(*_: object) -> None:
        pass

    numbers = (TERM, INT, USR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(USR1, own)
        signal.signal(TERM, signal.SIG_IGN)
        small = Small()
        with suppress(ValueError), repo.track("run", **small.parts) as run:
            assert signal.getsignal(USR1) != own
            run.resume()
            raise ValueError
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN, before[INT], own]
        with repo.track("run", **small.parts):
            signal.signal(USR1, signal.SIG_IGN)  # someone else's since then: it stays
        assert signal.getsignal(USR1) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_that_is_ignored_stays_ignored(repo: ckstore.Repo) -> None:
    """As after `nohup ... &`."""
    before = signal.signal(INT, signal.SIG_IGN)
    try:
        small = Small()
        with repo.track("run", **small.parts, at_end=False) as run:
            train(run, small, 1)
            os.kill(os.getpid(), INT)
            train(run, small, 2)
        assert "run" not in repo.branches
    finally:
        signal.signal(INT, before)


def test_ends_with_the_signal_s_code(repo: ckstore.Repo) -> None:
    small = Small()
    with preempted(), repo.track("run", **small.parts) as run:
        for _, batch in run.resume(small.loader):
            small.step(batch)
            os.kill(os.getpid(), TERM)
            run.step()
    assert steps_of(repo, "run") == [1]


def test_what_swallows_the_end_only_puts_it_off(repo: ckstore.Repo) -> None:
    """A `finally: return`, a callback, `__del__`: the process was asked to end, and does at the next step."""
    small = Small()
    swallowed = 0
    with preempted(), repo.track("run", **small.parts, at_end=False) as run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            if step == 2:
                os.kill(os.getpid(), TERM)
            try:
                run.step()
            except SystemExit:
                swallowed += 1
                if swallowed == 2:
                    raise
    assert steps_of(repo, "run") == [2, 3]


def test_within_our_own_code_nothing_is_saved(repo: ckstore.Repo) -> None:
    """The signal comes while the main thread holds the repository's lock, between two steps: no deadlock."""
    small = Small()
    began = time.monotonic()
    with preempted(), repo.track("run", **small.parts, at_end=False) as run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.step()
            if step == 2:
                with repo._repository.store.locked():
                    _within("ckstore.porcelain.gc", lambda: os.kill(os.getpid(), TERM))
                assert "run" not in repo.branches
    assert time.monotonic() - began < 20
    assert steps_of(repo, "run") == [3]


def _within(module: str, call: Any) -> None:
    """Call it from code of that module, as far as frames tell."""
    exec("call()", {"__name__": module, "call": call})


def test_in_eval_mode_the_training_s_flags_are_kept(repo: ckstore.Repo) -> None:
    """An evaluation without `evaluating()` that is ended by a signal: the resumed run trains with dropout."""
    small = Small()
    small.model[3].eval()  # frozen so on purpose
    with preempted(), repo.track("run", **small.parts, at_end=False) as run:
        for _, _batch in run.resume(small.loader):
            run.step()
            small.model.eval()
            os.kill(os.getpid(), TERM)
            raise AssertionError("still here")
    again = Small()
    again.model.eval()
    with repo.track("run", **again.parts, at_end=False) as run:
        assert run.resume() == 1
    assert [one.training for one in again.model] == [True, True, True, False, True]


def test_an_earlier_failure_does_not_keep_the_last_save_from_being_tried(repo: ckstore.Repo) -> None:
    small = Small(width=200)

    def failing() -> None:
        raise ZeroDivisionError

    with (
        preempted("ZeroDivisionError"),
        repo.track("run", **small.parts, at_end=False, every=ckstore.at(1)) as run,
    ):
        held = hold_store(run, failing)
        for step, batch in run.resume(small.loader):
            small.step(batch)
            if step == 2:
                held.go.set()
                run._recorder.committer.wait()
                os.kill(os.getpid(), TERM)
            run.step()
    assert steps_of(repo, "run") == [2]


def test_a_run_in_another_thread(repo: ckstore.Repo) -> None:
    """It takes no signals, and goes on."""
    before = signal.getsignal(TERM)
    small = Small()

    def training() -> None:
        with repo.track("run", **small.parts, every=ckstore.at(2), at_end=False) as run:
            assert signal.getsignal(TERM) == before
            train(run, small, 3)

    thread = threading.Thread(target=training)
    thread.start()
    thread.join(30)
    assert steps_of(repo, "run") == [2]


def test_a_signal_to_a_forked_child_is_the_child_s(repo: ckstore.Repo) -> None:
    """It has the handler, but is no run: it ends as if there were none, and the run hears nothing."""
    small = Small()
    with repo.track("run", **small.parts, at_end=False) as run:
        run.resume()
        for number, code in ((TERM, TERM), (USR1, USR1)):
            pid = os.fork()
            if not pid:
                time.sleep(20)
                os._exit(0)
            time.sleep(0.05)
            os.kill(pid, number)
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == code
        train(run, small, 2)
    assert "run" not in repo.branches


def test_evaluating_leaves_no_trace(repo: ckstore.Repo) -> None:
    small = Small()
    with repo.track("run", **small.parts, at_end=False) as run:
        train(run, small, 1)
        expected = torch.get_rng_state()
        with run.evaluating():
            small.model.eval()
            torch.rand(5)
            run.log({"val": 1.0})
        assert torch.equal(torch.get_rng_state(), expected)
        assert all(one.training for one in small.model.modules())
