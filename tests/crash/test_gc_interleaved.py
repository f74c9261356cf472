"""gc beside a commit, a branch, an undo: every order of their steps, and nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore.checkpoint import gc_plan
from ckstore.checkpoint import store as store_module
from ckstore.errors import CkstoreError, Conflict
from ckstore.porcelain.gc import GcOptions, gc
from ckstore.storage import collector
from ckstore.storage import inventory as inventory_module
from ckstore.storage.collector import Collector
from ckstore.storage.transaction import Transaction
from tests.interleaved import Actor, orders, run, steps_of, stopping_at
from tests.test_gc import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GC_STEPS = [(gc_plan, "mark"), (gc_plan, "sweep"), (Collector, "replace"), (Collector, "remove")]
COMMIT_STEPS = [(Transaction, "__enter__"), (store_module, "ingest"), (Transaction, "publish")]
MOST_GC_STEPS = 7
"""Steps of gc that are interleaved; what would be beyond comes last."""


def small(steps: int) -> list[dict[str, Any]]:
    """As `drift`, in a hundredth of the time."""
    torch.manual_seed(1)
    weight = torch.randn(140, 130) * 0.02
    states = []
    for step in range(steps):
        weight = weight + torch.randn(140, 130) * 1e-5
        states.append({"model": {"w": weight.clone(), "fixed": torch.arange(20_000)}, "step": step})
    return states


STATES = small(6)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four commits on main, and one that a deleted branch led to."""
    folder = tmp_path_factory.mktemp("interleaved") / "repo"
    with ckstore.open(folder, threads=1) as repo:
        for step in range(4):
            repo.commit(STATES[step], step=step)
        repo.commit(STATES[4], step=4, branch="gone", parent="main")
        repo.commit({"other": torch.arange(30_000)}, step=5, branch="gone")
        loose = repo["gone"].id
        repo.delete_branch("gone", force=True)
    (folder / "loose").write_text(loose)
    return folder


def collect(repo: ckstore.Repo, *, repack: bool) -> object:
    try:
        return gc(repo._repository, GcOptions(time.time_ns(), {"": "last=1"}, grace_ns=0, repack=repack))
    except Conflict as error:
        return error


def again(repo: ckstore.Repo) -> str:
    """A commit whose chunks are mostly those that gc takes away."""
    return repo.commit(STATES[1], step=9).id


def onward(repo: ckstore.Repo) -> str:
    """A commit that is kept against the tip."""
    return repo.commit(STATES[5], step=9).id


def revive(repo: ckstore.Repo) -> str:
    """A branch on what nothing leads to; refused where gc was there first."""
    loose = (repo.path / "loose").read_text()
    try:
        repo.branch("revived", loose)
    except CkstoreError:
        return ""
    return loose


def tagged(repo: ckstore.Repo) -> str:
    """A tag on a commit that the policy drops."""
    repo.tag("kept", "HEAD~1")
    return repo["kept"].id


def alone(template: Path, folder: Path, work: Callable[[ckstore.Repo], object]) -> int:
    """How many steps something has that nothing comes between."""
    shutil.copytree(template, folder)
    with ckstore.open(folder, threads=1) as repo, stopping_at(GC_STEPS + COMMIT_STEPS):
        return steps_of(lambda: work(repo))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the lock here, so that gc need not leave it free for a while."""
    monkeypatch.setattr(collector, "LONGEST_NAP_S", 0.0)


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("work", [again, onward, revive, tagged])
def test_every_order(
    work: Callable[[ckstore.Repo], str],
    repack: bool,
    template: Path,
    memory: Path,
    count: Callable[[str, int], None],
) -> None:
    gc_steps = alone(template, memory / "gc", lambda repo: collect(repo, repack=repack))
    work_steps = alone(template, memory / "work", work)
    assert gc_steps >= 5
    assert work_steps >= 3
    done = 0
    for order in orders(min(gc_steps, MOST_GC_STEPS), work_steps):
        folder = memory / "repo"
        shutil.copytree(template, folder)
        with ckstore.open(folder, threads=1) as one, ckstore.open(folder, threads=1) as two:
            actors = [Actor("gc", partial(collect, one, repack=repack)), Actor("work", partial(work, two))]
            with stopping_at(GC_STEPS + COMMIT_STEPS):
                run(actors, order)
            for actor in actors:
                assert actor.error is None, (order, actor.name, actor.error)
            _judge(one, work, actors[1].result, f"order {order}")
        shutil.rmtree(folder)
        done += 1
    count("orders of gc and another step by step", done)


@pytest.mark.parametrize("work", [again, onward, revive, tagged])
def test_something_saved_while_gc_reads_the_packs(
    work: Callable[[ckstore.Repo], str], template: Path, memory: Path
) -> None:
    """Which packs there are and where refs point is of one moment: what came later is not missing."""
    folder = memory / "repo"
    shutil.copytree(template, folder)
    with ckstore.open(folder, threads=1) as one, ckstore.open(folder, threads=1) as two:
        actor = Actor("gc", partial(collect, one, repack=False))
        with stopping_at([(inventory_module, "_tables")]):
            actor.start()
            actor.step()
            assert not actor.ended
            result = work(two)
            while not actor.ended:
                actor.step()
        assert actor.error is None
        _judge(one, work, result, "saved while the packs were read")


def _judge(repo: ckstore.Repo, work: object, result: object, told: str) -> None:
    """What was acknowledged is there, now and after another gc; nothing else is amiss."""
    wanted: dict[str, Any] = {repo["main"].id: STATES[3]}
    if work in (again, onward):
        wanted = {str(result): STATES[1 if work is again else 5]}
    elif work is revive and result:
        wanted["revived"] = {"other": torch.arange(30_000)}
    try:
        check(repo, wanted)
        gc(repo._repository, GcOptions(time.time_ns(), {"main": "last=1"}, grace_ns=0, repack=True))
        check(repo, wanted)
    except (AssertionError, CkstoreError) as error:
        raise AssertionError(told) from error
