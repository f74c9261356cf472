"""Commits while the training goes on: exact, one at a time, and heard of when they fail."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader

import ckstore
from ckstore.errors import CkstoreWarning, Conflict, InvalidInput, SaveFailed, StoreFull
from tests.nursery import ROOT
from tests.train.held_up import hold_copy, hold_store, short_files
from tests.train.trainings import Small, same, steps_of, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDTH = 300
"""Its middle layer is copied later."""


def run_of(repo: ckstore.Repo, every: Any = None, name: str = "run", width: int = WIDTH, **options: Any) -> Any:
    small = Small(width=width)
    return small, repo.track(name, **small.parts, every=every, **{"at_end": False, **options})


def one_step(run: Any, small: Small) -> Any:
    for _, batch in run.resume(small.loader):
        small.step(batch)
        return run.step()
    return one_step(run, small)


def whole(repo: ckstore.Repo, revision: str) -> Any:
    return repo[revision].load(["model.*", "optimizer.*"])


def sound(repo: ckstore.Repo) -> None:
    """Nothing is damaged, and nothing half-done lies about."""
    assert not repo.verify(read_data=True).findings
    assert {path.name for path in (repo.path / ".ckstore" / "tmp").glob("*/*")} <= {"owner"}


def _by_data(small: Small) -> None:
    small.large.data.add_(1)


def _by_numpy(small: Small) -> None:
    array = small.large.detach().numpy()
    array *= 2


def _by_fused_optimizer(small: Small) -> None:
    other = torch.optim.AdamW([small.large], lr=0.5, fused=True)  # the run knows nothing of it
    small.large.grad = torch.ones_like(small.large)
    other.step()


@pytest.mark.parametrize("write", [_by_data, _by_numpy, _by_fused_optimizer])
def test_a_torn_snapshot_is_never_committed(write: Callable[[Small], None], repo: ckstore.Repo) -> None:
    """It is taken again at the next call, and whoever waits for it gets that one."""
    small, run = run_of(repo, ckstore.at(2))
    with run:
        one_step(run, small)
        held = hold_copy(run)
        run.log({"val": 2.0})
        save = one_step(run, small)
        write(small)
        held.go.set()
        run._recorder.committer.wait()
        assert "run" not in repo.branches
        assert not save.done()
        with pytest.warns(CkstoreWarning, match=r"written to while it was being copied: model\.2\.weight") as told:
            assert one_step(run, small) is save
        assert told[0].filename == __file__
        assert "optimizer" not in str(told[0].message)
        assert save.result(0).id == repo.branches["run"]
        assert save.staged.result(0) == save.result(0).raw_bytes
        assert repo["run"].info.step == 3
        assert repo["run"].info.metrics == {"val": 2.0}
        assert same(whole(repo, "run"), small.state())
    sound(repo)


def test_what_was_torn_is_copied_at_once_from_then_on(repo: ckstore.Repo) -> None:
    small, run = run_of(repo)
    with run:
        one_step(run, small)
        held = hold_copy(run)
        run.commit()
        _by_data(small)
        held.go.set()
        with pytest.warns(CkstoreWarning, match="taken again"):
            run.wait()
        held.go.clear()
        before = copy.deepcopy(small.state())
        run.commit()
        _by_data(small)
        held.go.set()
        run.wait()
        assert same(whole(repo, "run"), before)


def test_torn_at_the_end_of_the_run(repo: ckstore.Repo) -> None:
    small, run = run_of(repo)
    saves = []

    def training() -> None:
        with run:
            one_step(run, small)
            held = hold_copy(run)
            saves.append(run.commit("last", tag="end"))
            _by_data(small)
            held.go.set()

    with pytest.warns(CkstoreWarning, match="taken again"):
        training()
    assert saves[0].result(0).id == repo.tags["end"]
    assert repo["end"].info.message == "last"
    assert same(whole(repo, "end"), small.state())


def test_buffers_and_averages_are_copied_at_once(repo: ckstore.Repo) -> None:
    """BatchNorm's statistics and an EMA change in the forward pass and right after the step: nothing is torn."""
    small = Small(width=WIDTH)
    ema = torch.optim.swa_utils.AveragedModel(small.model)
    with repo.track("run", **small.parts, ema=ema, at_end=False) as run:
        one_step(run, small)
        ema.update_parameters(small.model)
        before = copy.deepcopy((small.state(), ema.state_dict()))
        held = hold_copy(run)
        run.commit()
        ema.update_parameters(small.model)
        for average in ema.parameters():
            average.data.add_(1)
        small.model.train()(torch.randn(4, 8))
        small.model[1].get_buffer("running_mean").data.add_(1)
        held.go.set()
        run.wait()
    state = repo["run"].load()
    assert same({name: state[name] for name in ("model", "optimizer")}, before[0])
    assert same(state["ema"], before[1])


def test_the_optimizer_waits_for_the_copy(repo: ckstore.Repo) -> None:
    """The background has copied nothing when the next step begins: the step's own thread copies it all first."""
    small, run = run_of(repo)
    with run:
        one_step(run, small)
        before = copy.deepcopy(small.state())
        held = hold_copy(run)
        save = run.commit()
        one_step(run, small)
        assert not same(small.state(), before)
        held.go.set()
        save.result(20)
        assert same(whole(repo, "run"), before)


def test_without_overlap_all_is_copied_at_once(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, overlap=False)
    with run:
        one_step(run, small)
        before = copy.deepcopy(small.state())
        held = hold_copy(run)
        save = run.commit()
        _by_data(small)
        small.large.data.zero_()
        held.go.set()
        save.result(20)
        assert same(whole(repo, "run"), before)


def test_futures(repo: ckstore.Repo) -> None:
    small, run = run_of(repo)
    with run:
        one_step(run, small)
        copied, stored = hold_copy(run), hold_store(run)
        save = run.commit(metrics={"val": 1.0})
        assert isinstance(save.staged, Future)
        assert not save.staged.cancel()
        assert not save.durable.cancel()
        with pytest.raises(TimeoutError):
            save.staged.result(0.05)
        copied.go.set()
        assert save.staged.result(20) > 3 * 4 * WIDTH**2
        assert not save.done()
        with pytest.raises(TimeoutError):
            save.result(0.05)
        stored.go.set()
        made = save.result(20)
        assert save.done()
        assert made.id == repo.branches["run"]
        assert made.raw_bytes <= save.staged.result() <= 1.01 * made.raw_bytes


def test_one_at_a_time_skipped(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.steps(1))
    with run:
        run.resume()
        held = hold_store(run)
        assert one_step(run, small) is not None
        with pytest.warns(CkstoreWarning, match=r"due at step 2 is skipped.*busy=\"wait\"") as told:
            train(run, small, 5)
        assert len(told) == 1
        assert run.skipped == 4
        held.go.set()
        run.wait()
        one_step(run, small)
    assert steps_of(repo, "run") == [1, 6]


def released_later(held: Any, wait_s: float = 0.2) -> None:
    threading.Timer(wait_s, held.go.set).start()


def test_one_at_a_time_waiting(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.steps(1), busy="wait")
    with run:
        held = hold_store(run)
        one_step(run, small)
        released_later(held)
        train(run, small, 3)
        assert run.skipped == 0
    assert steps_of(repo, "run") == [1, 2, 3]


@pytest.mark.parametrize("urgent", ["at", "best", "late best", "commit"])
def test_what_is_urgent_waits(urgent: str, repo: ckstore.Repo) -> None:
    every = {"at": ckstore.at(2), "commit": ckstore.at(99)}.get(urgent, ckstore.best("val", "min"))
    small, run = run_of(repo, ckstore.at(1) | every)
    with run:
        run.resume()
        held = hold_store(run)
        run.log({"val": 2.0})
        one_step(run, small)
        released_later(held)
        for _, batch in run.resume(small.loader):
            small.step(batch)
            if urgent == "best":
                run.log({"val": 1.0})
            run.step()
            break
        if urgent == "late best":
            run.log({"val": 1.0})
        if urgent == "commit":
            run.commit()
        state = copy.deepcopy(small.state())
        run.wait()
        assert run.skipped == 0
    assert steps_of(repo, "run") == [1, 2]
    assert same(whole(repo, "run"), state)


def test_memory_is_bounded_and_used_again(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.steps(1), busy="wait", width=600)
    with run:
        assert run.staging_bytes == 0
        one_step(run, small)
        run.wait()
        first = run.staging_bytes
        train(run, small, 2)
        run.wait()
        second = run.staging_bytes
        buffers = [one.data_ptr() for one in run._recorder.committer._staging._buffers]
        train(run, small, 7)
        run.wait()
        assert [one.data_ptr() for one in run._recorder.committer._staging._buffers] == buffers
        raw = run.commit().result().raw_bytes
        assert raw <= first <= 1.02 * raw
        assert second == run.staging_bytes <= 2.02 * raw


def test_workers_forked_while_a_save_is_under_way(repo: ckstore.Repo) -> None:
    small, run = run_of(repo)
    numbers: Any = DataLoader(range(40), batch_size=4, num_workers=2, multiprocessing_context="fork")  # type: ignore[arg-type]
    with run:
        one_step(run, small)
        before = copy.deepcopy(small.state())
        held = hold_store(run)
        save = run.commit()
        released_later(held, 0.1)
        assert [int(batch.sum()) for _ in range(2) for batch in numbers][:3] == [6, 22, 38]
        save.result(20)
        assert [len(batch) for batch in numbers] == [4] * 10
    assert same(whole(repo, "run"), before)
    sound(repo)


def test_two_runs_in_one_process(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.steps(1), busy="wait")
    other, second = run_of(repo, ckstore.steps(1), "other", width=40, busy="wait")
    with run, second:
        run.resume()
        second.resume()
        for number in range(1, 6):
            train(run, small, number)
            train(second, other, number)
    assert steps_of(repo, "run") == steps_of(repo, "other") == [1, 2, 3, 4, 5]
    assert same(whole(repo, "run"), small.state())
    assert same(whole(repo, "other"), other.state())
    sound(repo)


# What goes wrong.


def _conflict(repo: ckstore.Repo) -> Callable[[], object]:
    return lambda: repo.commit({"model": torch.ones(3)}, branch="run")


def _raises(error: BaseException) -> Callable[[ckstore.Repo], Callable[[], object]]:
    def raising() -> object:
        raise error

    return lambda _: raising


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (_conflict, Conflict),
        (_raises(StoreFull("no space")), StoreFull),
        (_raises(ZeroDivisionError("odd")), SaveFailed),
        (_raises(MemoryError()), SaveFailed),
        (_raises(SystemExit(3)), SaveFailed),
        (_raises(RecursionError()), SaveFailed),
    ],
)
def test_a_failure_is_raised_at_the_next_call(before: Any, expected: type[Exception], repo: ckstore.Repo) -> None:
    """By the step after, once; the training's state is untouched, and the next commit holds what that one was to."""
    small, run = run_of(repo, ckstore.at(2))
    with run:
        one_step(run, small)
        run.commit(block=True)
        held = hold_store(run, before(repo))
        run.log({"val": 7.0})
        save = one_step(run, small)
        held.go.set()
        assert isinstance(save.durable.exception(20), Exception | SystemExit)
        assert not save.staged.exception(20)
        run._recorder.committer.wait()
        state = copy.deepcopy(small.state())
        with pytest.raises(expected) as raised:
            run.log({"train": 1.0}) or run.wait()
        assert "background" in f"{raised.value} {getattr(raised.value, '__notes__', '')}"
        assert same(small.state(), state)
        held.before = lambda: None
        run.wait()
        if expected is not Conflict:
            run.commit().result(20)
            assert repo["run"].info.metrics == {"val": 7.0, "train": 1.0}
            assert repo["run"].load("run")["run"]["step"] == 2
            assert same(whole(repo, "run"), state)
            assert len(repo["run"].info.parents) == 1
            one_step(run, small)
            run.commit(block=True)
    sound(repo)


def test_a_full_disk_in_the_background(repo: ckstore.Repo) -> None:
    """A real one: files may not grow past 1 MiB."""
    small, run = run_of(repo, ckstore.at(2, 4), width=700)
    with run:
        one_step(run, small)
        run.commit(block=True)
        with short_files(1 << 20):
            save = one_step(run, small)
            with pytest.raises(StoreFull):
                save.result(20)
            run._recorder.committer.wait()
        with pytest.raises(StoreFull, match="free some space"):
            one_step(run, small)
        assert run.steps == 3
        sound(repo)
        one_step(run, small).result(20)
        assert same(whole(repo, "run"), small.state())
    assert steps_of(repo, "run") == [1, 4]
    sound(repo)


def test_best_is_forgotten_where_its_commit_failed(repo: ckstore.Repo) -> None:
    """2.0 was never committed: 2.5, better than what was, is; and step 2, the last one, is tried again at the end."""
    small, run = run_of(repo, ckstore.best("val", "min"), width=700, at_end=True)
    values = {1: 3.0, 2: 2.0, 3: 2.5}
    with run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.log({"val": values[step]})
            run.wait()
            if step == 2:
                with short_files(1 << 20):
                    run.step()
                    run._recorder.committer.wait()
                with pytest.raises(StoreFull):
                    run.wait()
            else:
                run.step()
            if step == 3:
                break
    assert steps_of(repo, "run") == [1, 3]
    assert repo["run"].info.metrics == {"val": 2.5}
    assert repo["run"].load("run")["run"]["best"] == {"val:min": 2.5}


def test_the_end_tries_what_failed_again_and_still_tells(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.at(2), width=700, at_end=True)

    def training() -> None:
        with run:
            one_step(run, small)
            with short_files(1 << 20):
                one_step(run, small)
                run._recorder.committer.wait()

    with pytest.raises(StoreFull):
        training()
    assert steps_of(repo, "run") == [2]
    assert same(whole(repo, "run"), small.state())


def test_the_training_s_own_error_comes_first(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, ckstore.at(1), width=700)

    def training() -> None:
        with run:
            run.resume()
            with short_files(1 << 20):
                one_step(run, small)
                run._recorder.committer.wait()
            raise ValueError("my own")

    with pytest.raises(ValueError, match="my own") as raised:
        training()
    assert "free some space" in raised.value.__notes__[0]


def test_save_on_exception(repo: ckstore.Repo) -> None:
    """The batch that failed comes again; an error of the save is a note."""
    small, run = run_of(repo, save_on_exception=True)

    def training() -> None:
        with run:
            for step, batch in run.resume(small.loader):
                if step == 3:
                    raise ValueError("in mid-step")
                small.step(batch)
                run.step()

    with pytest.raises(ValueError, match="in mid-step"):
        training()
    assert repo["run"].info.message == "saved on ValueError: in mid-step"
    assert repo["run"].info.step == 2
    again, run = run_of(repo)
    with run:
        train(run, again, 8)
    straight, run = run_of(repo, name="straight")
    with run:
        train(run, straight, 8)
    assert same(again.state(), straight.state())


def test_an_exception_is_not_saved_unless_asked(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, at_end=True)

    def training() -> None:
        with run:
            one_step(run, small)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        training()
    assert "run" not in repo.branches


def test_what_follows_a_commit_may_fail(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is there; that gc did not run is a warning at the next call."""
    failing = _raises(SaveFailed("gc could not"))(repo)
    small, run = run_of(repo, keep=ckstore.keep(last=1))
    with run:
        one_step(run, small)
        monkeypatch.setattr(run._recorder.committer, "_after", lambda _: failing())
        save = run.commit()
        save.result(20)
        with pytest.warns(CkstoreWarning, match="is made, but what follows it failed: gc could not"):
            run.wait()
    assert steps_of(repo, "run") == [1]


# Without a run.


def test_commits_in_the_background_of_a_repository(repo: ckstore.Repo) -> None:
    """The state may change at once; they follow one another, and one that is made at once follows them."""
    state = {"model": {"weight": torch.randn(300, 300)}}
    kept, saves = [], []
    for number in range(4):
        state["model"]["weight"].data.fill_(number)
        kept.append(copy.deepcopy(state))
        saves.append(repo.commit(state, step=number, block=False, metrics={"n": number}))
        state["model"]["weight"].data.fill_(-1)
    last = repo.commit(state, step=4)
    made = [save.result(20) for save in saves]
    assert [one.id for one in [*made, last]] == [info.id for info in reversed(repo.log())]
    assert all(same(repo[one.id].load(), was) for one, was in zip(made, kept, strict=True))


def test_a_bare_state_in_the_background(repo: ckstore.Repo) -> None:
    save = repo.commit([torch.ones(3), "text"], block=False)
    assert same(repo[save.result(20).id].load(), [torch.ones(3), "text"])


def test_from_many_threads(repo: ckstore.Repo) -> None:
    saves: list[Any] = []

    def commit(number: int) -> None:
        saves.extend(repo.commit({"n": [number, count]}, block=False) for count in range(4))

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len({save.result(20).id for save in saves}) == 16 == len(repo.log())


def test_a_failure_is_raised_by_the_next_such_commit_and_by_close(tmp_path: Path) -> None:
    large = {"w": torch.randn(1 << 20)}
    repo = ckstore.open(tmp_path / "repo")
    repo.commit({"w": 1})
    with short_files(1 << 20):
        save = repo.commit(large, block=False)
        assert isinstance(save.durable.exception(20), StoreFull)
    with pytest.raises(StoreFull):
        repo.commit(large, block=False)
    with short_files(1 << 20):
        repo.commit(large, block=False).durable.exception(20)
    with pytest.raises(StoreFull):
        repo.close()
    with ckstore.open(tmp_path / "repo") as again:
        assert len(again.log()) == 1
        sound(again)


def test_bad_input_is_said_at_once(repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match=r"w\.1"):
        repo.commit({"w": [1, object()]}, block=False)
    assert repo.commit({"w": [1]}, block=False).result(20).branch == "main"


# In processes of their own: what the exit code is.

SCRIPT = """
import sys, threading, time, torch, ckstore
from tests.train.held_up import *
from tests.train.test_async import run_of, one_step
from tests.train.trainings import *
repo = ckstore.open(sys.argv[1])
"""


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    code = SCRIPT + textwrap.dedent(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_a_failure_ends_in_the_exit_code(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        small, run = run_of(repo, width=700)
        with run:
            one_step(run, small)
            with short_files(1 << 20):
                run.commit()
                run._recorder.committer.wait()
        print("never")
        """,
    )
    assert done.returncode == 1
    assert "StoreFull" in done.stderr
    assert "never" not in done.stdout


def test_the_end_of_the_process_waits_for_a_commit(tmp_path: Path) -> None:
    """Also for one whose repository nobody closes, and with threads that the interpreter would not start any more."""
    began = time.monotonic()
    done = script(
        tmp_path,
        """
        repo.commit({"w": torch.zeros(3)}, block=False).result()
        repo._committer._workers = held = HeldStore()
        held.count = 2
        repo.commit({"w": torch.randn(1 << 22)}, block=False, message="last")
        threading.Timer(0.5, held.go.set).start()
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert time.monotonic() - began > 0.5
    with ckstore.open(tmp_path) as repo:
        assert [info.message for info in repo.log()] == ["last", ""]
        sound(repo)
