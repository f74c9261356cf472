"""Pushing in the background of a training: it never fails one, and never holds one up."""

from __future__ import annotations

import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import ckstore
from ckstore.errors import CkstoreWarning, NotFound
from ckstore.remote.memory import MemoryRemote, memory_place
from tests.sync.places import objects_of
from tests.train.trainings import Small

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckstore.remote.source import Source


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with ckstore.open(tmp_path / "runs", cache=tmp_path / "cache", threads=1) as repo:
        yield repo


def train(repo: ckstore.Repo, steps: int, **more: Any) -> Small:
    small = Small()
    with repo.track("run", **small.parts, every=ckstore.steps(1), push="origin", **more) as run:
        for _, batch in run.resume(small.loader):
            small.step(batch)
            run.step()
            run.wait()
            if run.steps == steps:
                break
    return small


def test_each_commit_is_pushed(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.add_remote("origin", tmp_path / "store")
    train(repo, 4, keep="last=2")
    assert repo["origin/run"].id == repo["run"].id
    ckstore.clone(tmp_path / "store", tmp_path / "clone", cache=tmp_path / "clone-cache")
    with ckstore.open(tmp_path / "clone", cache=tmp_path / "clone-cache", threads=1) as clone:
        assert [info.step for info in clone.log("run")] == [4, 3, 2, 1]
        assert clone.verify(read_data=True).ok
        here = objects_of(repo)
        assert here.items() <= objects_of(clone).items()  # which may hold what was dropped here since


def test_a_remote_that_fails_is_told_of_once_and_the_training_goes_on(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.add_remote("origin", tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.warns(CkstoreWarning, match="not pushed to 'origin'") as told:
        train(repo, 4)
    assert len(told) == 1
    assert "there is no folder" in str(told[0].message)
    assert told[0].filename.endswith("test_push.py")
    assert [info.step for info in repo.log("run")] == [4, 3, 2, 1]
    (tmp_path / "away").rename(tmp_path / "store")
    assert repo.push("origin", "run").moves[0].new == repo["run"].id


def test_the_next_commit_tries_again(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.add_remote("origin", tmp_path / "store")
    small = Small()
    with repo.track("run", **small.parts, push="origin") as run, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.resume()
        small.step(next(iter(small.loader)))
        run.step()
        (tmp_path / "store").rename(tmp_path / "away")
        run.commit(block=True)
        until_s = time.monotonic() + 20
        while not told and time.monotonic() < until_s:
            run.wait()
            time.sleep(0.02)
        assert len(told) == 1
        (tmp_path / "away").rename(tmp_path / "store")
        small.step(next(iter(small.loader)))
        run.step()
        run.commit(block=True)
    assert len(told) == 1
    assert repo["origin/run"].id == repo["run"].id


def test_a_branch_that_others_moved_is_left_alone(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.add_remote("origin", tmp_path / "store")
    train(repo, 1)
    ckstore.clone(tmp_path / "store", tmp_path / "clone", cache=tmp_path / "clone-cache")
    with ckstore.open(tmp_path / "clone", cache=tmp_path / "clone-cache", threads=1) as clone:
        theirs = clone.commit({"x": 1}, branch="run")
        clone.push("origin", "run")
    with pytest.warns(CkstoreWarning, match="has moved on"):
        train(repo, 3)
    repo.fetch()
    assert repo["origin/run"].id == theirs.id
    assert repo["run"].info.step == 3


def test_a_remote_that_hangs_does_not_hold_up(
    repo: ckstore.Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), threading.Event()
    put = MemoryRemote.put

    def hanging(self: MemoryRemote, name: str, source: Source) -> bool:
        if not name.startswith("packs/probe"):
            asked.set()
            go_on.wait(60)
        return put(self, name, source)

    repo.add_remote("origin", f"memory://{tmp_path.name}")
    monkeypatch.setattr(MemoryRemote, "put", hanging)
    began_s = time.monotonic()
    try:
        with pytest.warns(CkstoreWarning, match="not all on 'origin' after 0.5 s of waiting"):
            train(repo, 6, push_patience_s=0.5)
        assert asked.is_set()
        assert time.monotonic() - began_s < 20
        assert [info.step for info in repo.log("run")] == [6, 5, 4, 3, 2, 1]
    finally:
        go_on.set()
    for thread in threading.enumerate():
        if thread.name == "ckstore-push":
            thread.join(20)
    assert memory_place(tmp_path.name).root is None  # it was given up
    monkeypatch.undo()
    assert repo.push("origin", "run").moves


def test_an_unknown_remote_is_said_at_once(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.add_remote("origin", tmp_path / "store")
    with pytest.raises(NotFound, match="no remote 'orgin'"):
        repo.track("run", **Small().parts, push="orgin")
