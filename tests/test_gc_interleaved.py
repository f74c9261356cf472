"""gc beside a commit, a branch, an undo: every order of their steps, and nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore.errors import CkstoreError, Conflict
from ckstore.porcelain import gc as gc_module
from ckstore.porcelain.gc import GcOptions, gc
from ckstore.storage.collector import Collector
from ckstore.storage.transaction import Transaction
from tests.interleaved import Actor, orders, run, steps_of, stopping_at
from tests.test_gc import check, equal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GC_STEPS = [
    (gc_module, "take_inventory"),
    (gc_module, "mark"),
    (gc_module, "sweep"),
    (Collector, "replace"),
    (Collector, "remove"),
]
COMMIT_STEPS = [(Transaction, "__enter__"), (Transaction, "put_meta"), (Transaction, "publish")]


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


def collect(repo: ckstore.Repo, repack: bool) -> object:
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


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("work", [again, onward, revive, tagged])
def test_every_order(
    work: Callable[[ckstore.Repo], str], repack: bool, template: Path, tmp_path: Path, scale_steps: int = 0
) -> None:
    places = GC_STEPS + COMMIT_STEPS
    shutil.copytree(template, tmp_path / "alone")
    with ckstore.open(tmp_path / "alone", threads=1) as repo, stopping_at(places):
        gc_steps = steps_of(lambda: collect(repo, repack))
        work_steps = steps_of(lambda: work(repo))
    assert gc_steps >= 5
    assert work_steps >= 3
    count = 0
    for order in orders(min(gc_steps, 8), min(work_steps, 4)):
        folder = tmp_path / "repo"
        shutil.copytree(template, folder)
        with ckstore.open(folder, threads=1) as one, ckstore.open(folder, threads=1) as two:
            actors = [Actor("gc", lambda one=one: collect(one, repack)), Actor("work", lambda two=two: work(two))]
            with stopping_at(places):
                run(actors, order)
            for actor in actors:
                assert actor.error is None, (order, actor.name, actor.error)
            _judge(one, work, actors[1].result, order)
        shutil.rmtree(folder)
        count += 1
    assert count > 30


def _judge(repo: ckstore.Repo, work: object, result: object, order: object) -> None:
    told = f"order {order}"
    wanted: dict[str, Any] = {}
    if work is again:
        wanted[str(result)] = STATES[1]
    elif work is onward:
        wanted[str(result)] = STATES[5]
    else:
        wanted[repo["main"].id] = STATES[3]
    if work is revive and result:
        assert equal(repo["revived"].load(), {"other": torch.arange(30_000)}), told
        assert equal(repo["revived~1"].load(), STATES[4]), told
    try:
        check(repo, wanted)
    except AssertionError as error:
        raise AssertionError(told) from error
    gc(repo._repository, GcOptions(time.time_ns(), {"": "last=1"}, grace_ns=0, repack=True))
    check(repo, {str(result): STATES[1 if work is again else 5]} if work in (again, onward) else wanted)
