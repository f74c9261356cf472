"""A run's name, its parts, where it goes on from, what it refuses, and what becomes of what it logs."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ckstore
from ckstore.errors import CkstoreWarning, Integrity, InvalidInput, Locked, NoRevision, SaveFailed, StoreFull
from ckstore.objects.commit import SERIES
from ckstore.objects.reader import read_tree
from ckstore.objects.structure import Structure
from ckstore.torch.unflatten import unflatten
from tests.crash.test_full_disk import fill, tmpfs
from tests.nursery import ROOT
from tests.train.held_up import short_files
from tests.train.trainings import Small, same, steps_of, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


def run_of(repo: ckstore.Repo, name: str = "run", every: Any = None, seed: int = 0, **options: Any) -> Any:
    small = Small(seed)
    return small, repo.track(name, **{**small.parts, "every": every, "busy": "wait", "at_end": False, **options})


def trained(repo: ckstore.Repo, until: int, **options: Any) -> Small:
    """A run to `until`, with a commit after every step."""
    small, run = run_of(repo, **{"every": ckstore.steps(1), **options})
    with run:
        run.resume()
        train(run, small, until)
    made: Small = small
    return made


def resumed_at(repo: ckstore.Repo, **options: Any) -> int:
    _, run = run_of(repo, **options)
    with run:
        step: int = run.resume()
    return step


# The name.

HOLDING = """
import sys, ckstore
from tests.train.trainings import Small
with ckstore.open(sys.argv[1]) as repo, repo.track("a/run", **Small().parts) as run:
    print("open", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in which the run is going on."""
    command = [sys.executable, "-c", HOLDING, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def test_a_name_in_use(repo: ckstore.Repo) -> None:
    """Who, on what host, since when; another name is free; once that process is killed the name is."""
    with holding(repo.path) as process:
        _, run = run_of(repo, "a/run")
        with pytest.raises(Locked) as raised, run:
            pass
        text = str(raised.value)
        assert "'a/run'" in text
        assert f"process {process.pid} on {socket.gethostname()} since {time.strftime('%Y-')}" in text
        assert "another name" in text
        with run_of(repo, "a-run")[1], run_of(repo, "a")[1]:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with run:
            assert run.resume() == 0


def test_a_name_in_use_here(repo: ckstore.Repo) -> None:
    _, first = run_of(repo)
    _, second = run_of(repo)
    with first:
        with pytest.raises(Locked, match=str(os.getpid())), second:
            pass
        assert first.resume() == 0
    with second:
        pass


@pytest.mark.parametrize("name", ["", "a b", "-x", "a..b", "x/", "a~1", "HEAD"])
def test_a_name_that_is_none(name: str, repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput):
        run_of(repo, name)


# Where it goes on.


def damage(repo: ckstore.Repo, revision: str) -> None:
    """Flip bits in the commit's newest pack: what it alone has is there."""
    newest = max((repo.path / ".ckstore" / "packs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(newest.read_bytes())
    for place in range(100, len(data) // 2, 61):
        data[place] ^= 0xFF
    newest.chmod(0o600)
    newest.write_bytes(data)


def test_past_a_damaged_commit(repo: ckstore.Repo) -> None:
    """The newest that can be read, with a warning; the branch goes on from there, and undo knows where it was."""
    trained(repo, 3)
    bad, good = (info.id for info in repo.log("run")[:2])
    damage(repo, "run")
    small, run = run_of(repo, every=ckstore.steps(1))
    with run:
        with pytest.warns(
            CkstoreWarning,
            match=rf"going on from {good[:12]} \(step 2\), past 1 .*: {bad[:12]} \(step 3\).*repaired first",
        ):
            assert run.resume() == 2
        assert [(one.id, one.step) for one in run.resumed.skipped] == [(bad, 3)]
        assert run.resumed.id == good
        assert repo.branches["run"] == good
        train(run, small, 3)
    again = repo.log("run")
    assert [info.step for info in again] == [3, 2, 1]
    assert again[0].parents == (good,)
    moves = repo.reflog("run").entries
    assert moves[1].reason == "resume run"
    assert not repo.verify(read_data=True).findings  # what is the same as was damaged has been stored again
    assert (moves[1].old, moves[1].new) == (bad, good)
    assert same(repo["run"].load(["model.*"])["model"], small.model.state_dict())


def test_nothing_that_can_be_read(repo: ckstore.Repo) -> None:
    """It must not begin anew without a word."""
    trained(repo, 1)
    damage(repo, "run")
    small, run = run_of(repo)
    before = copy.deepcopy(small.state())
    with run:
        with pytest.raises(Integrity, match=r"no commit of 'run' .* \(1 tried\)") as raised:
            run.resume()
        assert "ckstore repair" in str(raised.value)
        assert "another name" in str(raised.value)
    assert same(small.state(), before)


def test_from(repo: ckstore.Repo) -> None:
    """The branch is put there; what came after is in the reflog and comes back with undo."""
    trained(repo, 3)
    tip = repo.branches["run"]
    small, run = run_of(repo, every=ckstore.steps(1))
    with run:
        assert run.resume(from_="step:1") == 1
        assert run.resume() == 1
        with pytest.raises(InvalidInput, match="first call"):
            run.resume(from_="step:2")
        train(run, small, 2)
    assert steps_of(repo, "run") == [1, 2]
    repo.undo()
    repo.undo()
    assert repo.branches["run"] == tip


def test_from_nowhere(repo: ckstore.Repo) -> None:
    trained(repo, 1)
    _, run = run_of(repo)
    with run, pytest.raises(NoRevision):
        run.resume(from_="step:9")


def test_start(repo: ckstore.Repo) -> None:
    """A new branch begins from another's commit, with all of its state; an old one goes on from its own."""
    trained(repo, 4)
    small, run = run_of(repo, "fork", ckstore.steps(1), start="step:2")
    with run:
        assert run.resume() == 2
        train(run, small, 3)
    assert steps_of(repo, "fork") == [1, 2, 3]
    assert steps_of(repo, "run") == [1, 2, 3, 4]
    assert resumed_at(repo, name="fork", start="step:2") == 3
    assert same(repo["fork"].load(["model.*"]), repo["run~1"].load(["model.*"]))
    with run_of(repo, "third", start="nothing")[1] as third, pytest.raises(NoRevision):
        third.resume()


def test_a_run_that_forgets_to_resume(repo: ckstore.Repo) -> None:
    """A new one begins; one that has commits is not loaded over what has been trained since."""
    trained(repo, 2)
    small, run = run_of(repo)
    batch = next(iter(small.loader))
    with run:
        small.step(batch)
        state = copy.deepcopy(small.state())
        for call in (run.step, run.commit):
            with pytest.raises(InvalidInput, match=r"run\.resume\(\)"):
                call()
        assert same(small.state(), state)
    other, new = run_of(repo, "new")
    with new:
        other.step(batch)
        new.step()
        new.commit(block=True)
    assert repo["new"].info.step == 1


def test_calls_outside_of_with(repo: ckstore.Repo) -> None:
    small, run = run_of(repo)
    calls: list[Callable[[], object]] = [
        run.resume, lambda: run.resume(small.loader), lambda: run.log({"a": 1}), run.step, run.commit, run.wait,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidInput, match=r"with repo\.track"):
            call()
    with run:
        run.resume()
    for call in calls:
        with pytest.raises(InvalidInput, match=r"with repo\.track"):
            call()


# What does not fit.


class Odd(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width, 2)


def tracked(repo: ckstore.Repo, parts: Mapping[str, Any]) -> Any:
    return repo.track("run", **parts, at_end=False)


def fitting() -> dict[str, Any]:
    model = Odd(4)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "generator": torch.Generator()}


def misfit(kind: str) -> dict[str, Any]:
    parts = fitting()
    model = parts["model"]
    if kind == "shape":
        model = parts["model"] = Odd(5)
        parts["optimizer"] = torch.optim.AdamW(model.parameters())
    if kind == "key":
        model.more = torch.nn.Linear(1, 1)
    if kind == "optimizer":
        parts["optimizer"] = torch.optim.SGD(model.parameters(), momentum=0.9)
    if kind == "groups":
        parts["optimizer"] = torch.optim.AdamW([model.inner.weight])
    if kind == "component":
        parts["scheduler"] = torch.optim.lr_scheduler.StepLR(parts["optimizer"], 2)
    if kind == "list":
        parts["model"] = [model]
    return parts


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("shape", r"model\.inner\.weight has shape \(2, 4\), the target \(2, 5\)"),
        ("key", r"missing model\.more\.weight"),
        ("optimizer", r"another kind of optimizer"),
        ("groups", r"groups of \[2\] tensors, the target of \[1\]"),
        ("component", r"no component 'scheduler'"),
        ("list", r"model\.0"),
    ],
)
def test_what_does_not_fit(kind: str, match: str, repo: ckstore.Repo) -> None:
    """Nothing is touched: no object, no generator, no branch."""
    with tracked(repo, fitting()) as run:
        run.resume()
        run.commit(block=True)
    tip = repo.branches["run"]
    parts = misfit(kind)
    live = parts["model"][0] if kind == "list" else parts["model"]
    before = copy.deepcopy(live.state_dict()), copy.deepcopy(parts["optimizer"].state_dict()), random.getstate()
    with tracked(repo, parts) as run, pytest.raises(InvalidInput, match=match):
        run.resume()
    assert same((live.state_dict(), parts["optimizer"].state_dict(), random.getstate()), before)
    assert repo.branches["run"] == tip


def test_not_strict_loads_what_fits_and_reports_the_rest(repo: ckstore.Repo) -> None:
    first = fitting()
    first["model"].old = torch.nn.Linear(1, 1)
    with tracked(repo, first) as run:
        run.resume()
        run.commit(block=True)
    parts = misfit("component")
    parts["model"].more = torch.nn.Linear(1, 1)
    with tracked(repo, parts) as run:
        assert run.resume(strict=False) == 0
        assert set(run.resumed.missing) == {"scheduler", "model.more.weight", "model.more.bias"}
        assert set(run.resumed.unexpected) == {"model.old.weight", "model.old.bias"}
    assert torch.equal(parts["model"].inner.weight, first["model"].inner.weight)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"ema": object()}, r"ema is a object, which has no state_dict"),
        ({"counter": 3}, r"counter is a int"),
        ({"more": {"one": torch.nn.Linear(1, 1), "two": [None]}}, r"more\.two\.0 is a NoneType"),
        ({"rng": torch.nn.Linear(1, 1)}, r"cannot be called 'rng'"),
        ({"@x": torch.nn.Linear(1, 1)}, r"cannot be called '@x'"),
        ({"data": iter([1, 2])}, r"data 'data'.*only once"),
        ({"data": 3}, r"data 'data': a int is no data"),
        ({"data": {"train": [1], "val": DataLoader(range(4), num_workers=1, in_order=False)}}, r"data 'val'.*in_order"),  # type: ignore[arg-type]
        ({"config": object()}, r"config is a object"),
        ({"busy": "drop"}, r"busy='drop'"),
        ({"threads": 0}, r"0 threads"),
        ({"keep": "last=x"}, r"last"),
    ],
)
def test_what_cannot_be_kept_is_said_at_track(parts: dict[str, Any], match: str, repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match=match) as raised:
        repo.track("run", **{"model": torch.nn.Linear(1, 1), **parts})
    assert raised.value.hint or "neither" in raised.value.what
    assert repo.branches == {}


def test_a_run_of_nothing(repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match="something to keep"):
        repo.track("run")


def test_a_state_that_cannot_be_kept_is_said_when_the_run_begins(repo: ckstore.Repo) -> None:
    class Part:
        def state_dict(self) -> dict[str, object]:
            return {"fine": 1, "file": (number for number in range(3))}

        def load_state_dict(self, state: object) -> None:
            raise AssertionError(state)

    with pytest.raises(InvalidInput, match=r"part\.file"), repo.track("run", part=Part()):
        pass


def test_config_and_environment_that_differ(repo: ckstore.Repo) -> None:
    with tracked(repo, {**fitting(), "config": {"lr": 1e-3, "deep": {"n": 1}, "old": None}}) as run:
        run.resume()
        run.commit(block=True)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with tracked(repo, {**fitting(), "config": {"lr": 1e-4, "deep": {"n": 1}, "new": 3}}) as run:
            run.resume()
            assert run.resumed.config == ("lr: 0.001 -> 0.0001", "old: gone", "new: new")
            assert run.resumed.differences == (f"threads was {before}, is {before + 1}",)
    finally:
        torch.set_num_threads(before)
    assert repo["run"].load("config") == {"config": {"lr": 1e-3, "deep": {"n": 1}, "old": None}}


def test_lists_dictionaries_and_generators(repo: ckstore.Repo) -> None:
    def parts(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        nets = {"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(3, 3)}
        return {
            "model": nets,
            "optimizer": [torch.optim.AdamW(net.parameters()) for net in nets.values()],
            "draws": (random.Random(seed), np.random.default_rng(seed), torch.Generator().manual_seed(seed)),
            "old": np.random.RandomState(seed),
        }

    def drawn(parts: dict[str, Any]) -> list[float]:
        one, two, three = parts["draws"]
        return [one.random(), two.random(), float(torch.rand((), generator=three)), parts["old"].rand()]

    first, second = parts(1), parts(2)
    drawn(first)
    with tracked(repo, first) as run:
        run.resume()
        run.commit(block=True)
    with tracked(repo, second) as run:
        run.resume()
    assert drawn(second) == drawn(first)
    assert all(same(first["model"][name].state_dict(), second["model"][name].state_dict()) for name in "gd")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_are_looked_through(repo: ckstore.Repo, tmp_path: Path) -> None:
    """A state committed from DDP or torch.compile is that of the module itself, and comes back without either."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        small = Small()
        wrapped = torch.compile(torch.nn.parallel.DistributedDataParallel(small.model))
        small.step(next(iter(small.loader)))
        with tracked(repo, {"model": wrapped, "optimizer": small.optimizer, "nets": [wrapped]}) as run:
            run.resume()
            run.commit(block=True)
    finally:
        torch.distributed.destroy_process_group()
    assert list(repo["run"].load(["model.*"])["model"]) == list(small.model.state_dict())
    other = Small(1)
    with tracked(repo, {"model": other.model, "optimizer": other.optimizer, "nets": [other.model]}) as run:
        run.resume()
    assert same(other.state(), small.state())


# What is kept of it.


def test_keep_drops_data_after_each_commit(repo: ckstore.Repo) -> None:
    trained(repo, 6, keep=ckstore.keep(last=2, every_steps=3))
    assert steps_of(repo, "run") == [1, 2, 3, 4, 5, 6]
    with_data = [info.step for info in reversed(repo.log("run")) if not info.absent]
    assert with_data == [1, 3, 5, 6]
    assert not repo.verify(read_data=True).findings


def test_past_commits_without_data(repo: ckstore.Repo) -> None:
    """Its tip is whole, but another revision is asked for whose data is gone: the newest before it that is whole."""
    trained(repo, 6, keep=ckstore.keep(last=1, every_steps=3))
    dropped = repo["run~1"].id
    small, run = run_of(repo)
    with run:
        with pytest.warns(CkstoreWarning, match=rf"\(step 3\), past 2 that cannot be read: {dropped[:12]} \(step 5\)"):
            assert run.resume(from_="run~1") == 3
        assert [one.step for one in run.resumed.skipped] == [5, 4]
        train(run, small, 4)
    straight, run = run_of(repo, "straight")
    with run:
        train(run, straight, 4)
    assert same(small.state(), straight.state())


def test_best(repo: ckstore.Repo) -> None:
    small, run = run_of(
        repo, every=ckstore.best("val", "max"), keep=ckstore.keep(last=1, best=1, metric="val", mode="max")
    )
    assert run.best is None
    with run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.log({"val": [0, 1, 5, 3, 4, 2, 5][step]})
            run.step()
        run.wait()
        best: Any = run.best
        assert (best.step, best.metrics) == (2, {"val": 5.0})
    assert [info.step for info in repo.log("run") if not info.absent] == [2]


# What is logged.


def curve(repo: ckstore.Repo, name: str, revision: str = "run") -> list[tuple[int, float]]:
    """A metric along a branch: the points of its commits, one after another."""
    points: list[tuple[int, float]] = []
    for info in reversed(repo.log(revision)):
        commit = repo._repository.resolve(info.id, 0)[1]
        if commit.series is not None:
            objects = repo._repository.store.objects
            found: Any = unflatten(Structure(SERIES, read_tree(objects, commit.series)), objects, allow_pickle=False)
            if name in found:
                points += zip(found[name]["step"].tolist(), found[name]["value"].tolist(), strict=True)
                assert (np.diff(found[name]["time_ns"]) >= 0).all()
    return points


def logging(repo: ckstore.Repo, until: int, at_end: bool = False, times: float = 1.0) -> None:
    small, run = run_of(repo, every=ckstore.steps(2), at_end=at_end)
    with run:
        while run.steps < until:
            for step, batch in run.resume(small.loader):
                small.step(batch)
                run.log({"x": step * times})
                run.step()
                if step % 2:
                    run.log({"after": run.steps})
                if step == until:
                    break


def test_a_curve_is_what_led_to_its_commit(repo: ckstore.Repo) -> None:
    """Each point once; what was logged after the commit gone on from is not in it."""
    logging(repo, 5)
    assert curve(repo, "x") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    logging(repo, 6, times=10)
    assert curve(repo, "x") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60)]
    assert curve(repo, "after") == [(1, 1), (3, 3), (5, 5)]


def test_points_of_a_failed_commit_are_in_the_next(repo: ckstore.Repo) -> None:
    small = Small(width=700)
    with repo.track("run", **small.parts, every=ckstore.at(1, 2), at_end=False, busy="wait") as run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.log({"x": step})
            if step == 1:
                with short_files(1 << 20):
                    run.step()
                    run._recorder.committer.wait()
                with pytest.raises(StoreFull):
                    run.wait()
            else:
                run.step()
                break
    assert curve(repo, "x") == [(1, 1), (2, 2)]


def live(repo: ckstore.Repo) -> list[list[Any]]:
    """The lines of live files, the oldest first."""
    files = sorted((repo.path / ".ckstore" / "runs" / "run").glob("*.jsonl"))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in files]


def test_lines_for_those_who_watch(repo: ckstore.Repo) -> None:
    """At once, each; gone once commits have it all, kept where they have not."""
    small, run = run_of(repo, every=ckstore.at(2))
    with run:
        assert live(repo) == []
        for step, batch in run.resume(small.loader):
            small.step(batch)
            run.log({"x": step, "nan": float("inf")})
            (lines,) = live(repo)
            assert lines[0]["run"] == "run"
            assert (lines[-1]["step"], lines[-1]["metrics"]) == (step, {"x": step, "nan": "inf"})
            assert len(lines) == step + 1
            run.step()
            if step == 2:
                break
    assert live(repo) == []
    small, run = run_of(repo)
    with run:
        run.resume()
        run.log({"x": 3})
    assert [line["metrics"] for line in live(repo)[0][1:]] == [{"x": 3}]


def test_live_files_do_not_pile_up(repo: ckstore.Repo) -> None:
    for number in range(20):
        _, run = run_of(repo)
        with run:
            run.resume()
            run.log({"x": number})
    left = [lines[1]["metrics"]["x"] for lines in live(repo)]
    assert left == list(range(20))[-len(left) :]
    assert 5 <= len(left) <= 10


def test_a_live_file_that_cannot_be_written_stops_nothing(repo: ckstore.Repo) -> None:
    small, run = run_of(repo, every=ckstore.at(1))
    with run:
        run.resume()
        with short_files(16), pytest.warns(CkstoreWarning, match="cannot be watched"):
            run.log({"x": 1})
        train(run, small, 1)
    assert curve(repo, "x") == [(1, 1)]


# Where nothing can be written.


def test_a_read_only_repository(repo: ckstore.Repo, tmp_path: Path) -> None:
    trained(repo, 1)
    where = tmp_path / "read-only"
    where.mkdir()
    mount = ["mount", "--bind", "-o", "ro", str(repo.path), str(where)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(where)], check=True, capture_output=True)
        with ckstore.open(where, cache=tmp_path / "cache2") as again:
            _, run = run_of(again)
            with pytest.raises(SaveFailed), run:
                pass
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_at_step_0(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 8) as disk, ckstore.open(disk / "repo", cache=tmp_path / "cache") as repo:
        _, run = run_of(repo)
        fill(disk, 4)
        with pytest.raises(StoreFull), run:
            pass
        (disk / "filler").unlink()
        with run:
            assert run.resume() == 0


def test_a_disk_that_is_likely_too_small_is_said_at_step_0(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 8) as disk, ckstore.open(disk / "repo", cache=tmp_path / "cache") as repo:
        small = Small(width=2000)
        run = repo.track("run", **small.parts, at_end=False)
        with pytest.warns(CkstoreWarning, match="may not fit"), run:
            pass
