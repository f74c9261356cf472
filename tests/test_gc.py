"""gc: what goes, what stays, and that what stays reads back bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore import durable
from ckstore.checkpoint import store as store_module
from ckstore.digest import NO_ID, Kind
from ckstore.errors import Absent, CkstoreError, CkstoreWarning, Conflict, Integrity, InvalidInput, Locked, SaveFailed
from ckstore.graph.reachability import objects_of_tree
from ckstore.porcelain import gc as gc_module
from ckstore.porcelain.gc import GcOptions, GcResult, gc
from ckstore.storage.collector import Collector, collecting
from ckstore.storage.ingest import ingest
from ckstore.storage.sweep import units
from tests.indexed import indexed

if TYPE_CHECKING:
    from pathlib import Path


def drift(steps: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Successive states as training makes them: most bits stay; moments that move more; small tensors; a fixed part."""
    torch.manual_seed(seed)
    weight = torch.randn(700, 600) * 0.02
    moment = torch.randn(700, 600) * 1e-3
    small = torch.randn(900)
    fixed = torch.randn(300, 300)
    states = []
    for step in range(steps):
        weight = weight + torch.randn(700, 600) * 1e-5
        moment = moment * 0.9 + torch.randn(700, 600) * 1e-4
        small = small + torch.randn(900) * 1e-6
        states.append(
            {
                "model": {"w": weight.to(dtype), "b": small.clone(), "fixed": fixed},
                "optimizer": {"m": moment.clone(), "step": step},
            }
        )
    return states


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return bool(one == other)


def commit_all(repo: ckstore.Repo, states: list[dict[str, Any]], **options: Any) -> list[str]:
    return [repo.commit(state, step=step, **options).id for step, state in enumerate(states)]


def collect(repo: ckstore.Repo, policy: str | None = None, **options: Any) -> GcResult:
    policies = None if policy is None else {"": policy}
    return gc(repo._repository, GcOptions(time.time_ns(), policies, **options))


def packs(repo: ckstore.Repo) -> set[str]:
    return {path.name for path in (repo.path / ".ckstore/packs").iterdir()}


def disk(repo: ckstore.Repo) -> int:
    return sum(path.stat().st_size for path in (repo.path / ".ckstore/packs").iterdir())


def check(repo: ckstore.Repo, wanted: dict[str, Any]) -> None:
    """Every commit of `wanted` reads back, verify finds nothing, and an index made anew is the same."""
    for id, state in wanted.items():
        assert equal(repo[id].load(), state)
    assert repo.verify(read_data=True).findings == ()
    before = indexed(repo._repository)
    repo._repository.store.rebuild_index()
    assert indexed(repo._repository) == before
    for id, state in wanted.items():
        assert equal(repo[id].load(), state)


def test_a_bare_gc_takes_nothing_that_a_branch_leads_to(repo: ckstore.Repo) -> None:
    states = drift(5)
    ids = commit_all(repo, states)
    before = packs(repo)
    result = collect(repo)
    assert (result.removed_bytes, result.condemned_bytes, result.records) == (0, 0, ())
    assert packs(repo) == before
    check(repo, dict(zip(ids, states, strict=True)))


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("grace_ns", [0, 10**15])
def test_what_a_policy_keeps_is_all_that_stays(repo: ckstore.Repo, repack: bool, grace_ns: int) -> None:
    states = drift(12)
    ids = commit_all(repo, states)
    size = disk(repo)
    result = collect(repo, "last=3", grace_ns=grace_ns, repack=repack)
    kept = dict(zip(ids[-3:], states[-3:], strict=True))
    check(repo, kept)
    assert len(repo.log()) == 12
    assert [one.kept for one in result.plan.commits] == [True] * 3 + [False] * 9
    for id in ids[:-3]:
        with pytest.raises(CkstoreError):
            repo[id].load()
    if grace_ns:
        assert disk(repo) >= size
        assert result.condemned_bytes > 0
    else:
        assert disk(repo) < size * (0.45 if repack else 0.8)
    again = collect(repo, "last=3", grace_ns=grace_ns)
    assert not again.records
    repo.commit(drift(13)[12], step=12)
    check(repo, kept)


def test_components_go_by_their_own_rules(repo: ckstore.Repo) -> None:
    states = drift(6)
    ids = commit_all(repo, states)
    result = repo.gc(ckstore.keep(last=4, components={"optimizer": ckstore.keep(last=1)}), grace="0", repack=True)
    assert [dict(one.components).keys() for one in result.plan.commits[:4]] == [set(), *[{"optimizer"}] * 3]
    assert equal(repo[ids[5]].load(), states[5])
    for number in (2, 3, 4):
        assert equal(repo[ids[number]].load(only="model.*"), {"model": states[number]["model"]})
        assert equal(repo[ids[number]]["model"]["w"][3:9], states[number]["model"]["w"][3:9])
        with pytest.raises(Absent, match="optimizer"):
            repo[ids[number]].load()
        with pytest.raises(Absent, match="optimizer"):
            repo[ids[number]]["optimizer"]
    assert {one.absent for one in repo.log()} == {(), ("optimizer",), ("model", "optimizer")}
    check(repo, {ids[5]: states[5]})


def test_what_a_deleted_branch_led_to_goes_and_comes_back(repo: ckstore.Repo) -> None:
    states = drift(4)
    main = commit_all(repo, states[:2])
    repo.commit(states[2], branch="side", parent="main")
    side = repo.commit(states[3], branch="side").id
    repo.delete_branch("side", force=True)
    result = repo.gc(grace="1d")
    assert result.condemned_bytes > 0
    with pytest.raises(CkstoreError):
        repo[side].load()
    with pytest.raises(CkstoreError):
        repo.branch("side", side)
    check(repo, dict(zip(main, states[:2], strict=True)))
    repo.commit(states[3], branch="anew", parent="main")
    check(repo, {"anew": states[3]})


def test_undo_of_a_deleted_branch_brings_back_what_gc_took(repo: ckstore.Repo) -> None:
    states = drift(4)
    repo.commit({"x": torch.arange(10)})
    ids = commit_all(repo, states, branch="gone")
    repo.delete_branch("gone", force=True)
    deleted = repo.reflog().entries[0].seq
    repo.gc(grace="1d", repack=True)
    repo.gc(grace="1d", repack=True)
    with pytest.raises(CkstoreError):
        repo[ids[0]].load()
    assert repo.undo(deleted, dry_run=True).moves[0].new == ids[-1]
    assert repo.undo(deleted).moves[0].new == ids[-1]
    check(repo, dict(zip(ids, states, strict=True)))
    repo.gc(grace="0")
    check(repo, dict(zip(ids, states, strict=True)))
    repo.delete_branch("gone", force=True)
    repo.gc(grace="0")
    with pytest.raises(Integrity):
        repo.undo(repo.reflog().entries[0].seq)
    assert "gone" not in repo.branches


def test_a_commit_upon_a_branch_that_goes_meanwhile(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent was there when it began; what it would hang on must be there when it is recorded too."""
    states = drift(3)
    repo.commit({"x": torch.arange(10)})
    repo.commit(states[0], branch="side")

    def meanwhile(*arguments: Any) -> dict[str, bytes]:
        trees = ingest(*arguments)
        with ckstore.open(repo.path) as other:
            other.delete_branch("side", force=True)
            other.gc(grace="0")
        return trees

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "ingest", meanwhile)
        with pytest.raises(Conflict):
            repo.commit(states[1], branch="new", parent="side")
    assert sorted(repo.branches) == ["main"]
    assert repo.verify(read_data=True).ok
    repo.gc(grace="0")


class Killed(BaseException):
    """What stops a gc here."""


@pytest.mark.parametrize("records", [1, 2, 4, 6, 8])
def test_a_commit_after_a_gc_that_was_killed_between_its_records(
    repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """What lost its base and has not gone itself is no known object: a commit stores it anew."""
    states = drift(5)
    repo.commit({"x": torch.arange(10)})
    commit_all(repo, states, branch="gone")
    repo.delete_branch("gone", force=True)
    replace = Collector.replace
    done: list[Any] = []

    def killed(self: Collector, *arguments: Any) -> int | None:
        if len(done) == records:
            raise Killed
        done.append(arguments)
        return replace(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(gc_module, "units", partial(units, frames=1))
        patched.setattr(Collector, "replace", killed)
        with pytest.raises(Killed):
            repo.gc(grace="1d")
    assert repo.verify(read_data=True).ok
    wanted = {}
    for number in reversed(range(5)):
        wanted[f"b{number}"] = states[number]
        repo.commit(states[number], branch=f"b{number}")
        assert equal(repo[f"b{number}"].load(), states[number])
    check(repo, wanted)
    repo.gc(grace="0")
    check(repo, wanted)


def test_undo_brings_back_what_is_still_there(repo: ckstore.Repo) -> None:
    states = drift(8)
    ids = commit_all(repo, states)
    before = repo.gc("last=2", grace="7d", repack=True)
    with pytest.raises(Absent):
        repo[ids[0]].load()
    undone = repo.undo()
    assert undone.seq == before.records[0]
    assert (undone.restored, undone.lost) == (12, 0)
    check(repo, dict(zip(ids, states, strict=True)))
    assert not any(one.absent for one in repo.log())
    repo.gc("last=2", grace="0")
    with pytest.raises(Absent):
        repo.undo()
    check(repo, dict(zip(ids[-2:], states[-2:], strict=True)))


def test_undo_brings_back_a_part(repo: ckstore.Repo) -> None:
    """What other commits share is there for ever; the rest was removed."""
    shared = {"kept": torch.arange(50_000)}
    repo.commit({"a": shared, "b": {"w": torch.randn(300, 300)}})
    repo.commit({"a": shared, "b": {"w": torch.randn(300, 300)}})
    repo.gc("last=1", grace="0", repack=True)
    undone = repo.undo()
    assert (undone.restored, undone.lost) == (1, 1)
    assert equal(repo["HEAD~1"].load(only="a"), {"a": shared})
    with pytest.raises(Absent):
        repo["HEAD~1"].load()
    assert repo.verify(read_data=True).ok


def test_grace_counts_from_the_record(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_all(repo, drift(4))
    first = repo.gc("last=1", grace="1h")
    assert first.removed_bytes == 0
    assert first.condemned_bytes > 0
    size = disk(repo)
    assert repo.gc("last=1", grace="1h").removed_bytes == 0
    assert disk(repo) == size
    touch = durable.touch_ns
    monkeypatch.setattr(durable, "touch_ns", lambda path: touch(path) + 3_601 * 10**9)
    second = repo.gc("last=1", grace="1h")
    assert second.removed_bytes == first.condemned_bytes
    assert disk(repo) == size - second.removed_bytes


def test_a_plan_is_carried_out_or_refused(repo: ckstore.Repo, tmp_path: Path) -> None:
    states = drift(5)
    ids = commit_all(repo, states)
    plan = repo.plan_gc("last=2", grace="0", repack=True)
    assert [one.kept for one in plan.commits] == [True, True, False, False, False]
    assert all(one.reasons for one in plan.commits)
    size = disk(repo)
    assert size == disk(repo)
    with ckstore.open(tmp_path / "other") as other:
        commit_all(other, states)
        with pytest.raises(Conflict, match="another repository"):
            other.gc(plan=plan)
    stale = repo.plan_gc("last=1", grace="0")
    repo.gc(plan=plan)
    check(repo, dict(zip(ids[-2:], states[-2:], strict=True)))
    with pytest.raises(Conflict, match="record"):
        repo.gc(plan=stale)
    check(repo, dict(zip(ids[-2:], states[-2:], strict=True)))


def test_a_dry_run_writes_nothing_and_needs_no_lock(repo: ckstore.Repo) -> None:
    commit_all(repo, drift(4))
    before = {path: path.read_bytes() for path in (repo.path / ".ckstore").rglob("*") if path.is_file()}
    with collecting(repo._repository.store):
        plan = repo.plan_gc("last=1", grace="0")
        with pytest.raises(Locked):
            repo.gc("last=1")
    assert plan.removed_bytes > 0
    after = {path: path.read_bytes() for path in (repo.path / ".ckstore").rglob("*") if path.is_file()}
    ours = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path.name for path in ours} <= {"gc.lock", "lock.mdb", "lock"}


@pytest.mark.parametrize(
    "policy",
    ["last=0", "", "nonsense", "within=x", "best=2", "best=2:val/loss", "best=1:nosuch:min", "optimizer:last=1"],
)
def test_policies_that_cannot_be_meant_touch_nothing(policy: str, repo: ckstore.Repo) -> None:
    states = drift(3)
    ids = [repo.commit(state, metrics={"val/loss": 1.0}).id for state in states]
    with pytest.raises(InvalidInput):
        repo.gc(policy, grace="0")
    check(repo, dict(zip(ids, states, strict=True)))


def test_unknown_branches_and_grace_times(repo: ckstore.Repo) -> None:
    commit_all(repo, drift(2))
    with pytest.raises(InvalidInput, match="nosuch"):
        repo.gc({"nosuch": "last=1"})
    with pytest.raises(InvalidInput, match="span"):
        repo.gc("last=1", grace="soon")


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumped_drops_nothing(years: int, repo: ckstore.Repo) -> None:
    states = drift(4)
    ids = commit_all(repo, states)
    later = time.time_ns() + years * 365 * 86_400 * 10**9
    options = GcOptions(later, {"": "within=7d"}, 0)
    with pytest.raises(InvalidInput, match="clock"):
        gc(repo._repository, options)
    check(repo, dict(zip(ids, states, strict=True)))
    # Rules that do not look at the time go on; and a person may know better.
    gc(repo._repository, GcOptions(later, {"": "last=2"}, 0))
    check(repo, dict(zip(ids[2:], states[2:], strict=True)))
    gc(repo._repository, GcOptions(later, {"": "within=7d"}, 0, trust_clock=True))
    check(repo, dict(zip(ids[3:], states[3:], strict=True)))


def test_what_is_missing_stops_gc(repo: ckstore.Repo) -> None:
    states = drift(4)
    commit_all(repo, states)
    store = repo._repository.store
    kept = next(iter(repo["HEAD"]._commit.components)).tree
    place = store.objects.locate(kept)
    assert place is not None
    path = store.layout.pack(place.pack)
    content = path.read_bytes()
    path.unlink()
    store.packs.close()
    before = packs(repo)
    with pytest.raises(Integrity):
        repo.gc("last=1", grace="0")
    assert packs(repo) == before
    path.write_bytes(content[:-10])
    with pytest.raises(Integrity, match="repair"):
        repo.gc("last=1", grace="0")
    path.write_bytes(content)
    store.packs.close()
    repo.gc("last=1", grace="0")
    check(repo, {"HEAD": states[-1]})


def test_a_read_only_repository_is_planned_for_only(
    repo: ckstore.Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_all(repo, drift(3))
    repo.close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    before = {path: path.stat().st_mtime_ns for path in (repo.path / ".ckstore").rglob("*")}
    with ckstore.open(repo.path, cache=tmp_path / "cache") as again:
        assert len(again.plan_gc("last=1", grace="0").dropped) == 2
        with pytest.raises(SaveFailed, match="read-only"):
            again.gc("last=1", grace="0")
    assert {path: path.stat().st_mtime_ns for path in (repo.path / ".ckstore").rglob("*")} == before


def test_auto(repo: ckstore.Repo) -> None:
    """The settings' policy is applied after each commit; what it cannot do is warned of, and the commit is made."""
    (repo.path / ".ckstore/config.toml").write_text('[retention]\ngrace = "1d"\n[keep]\nmain = "last=2 auto"\n')
    with ckstore.open(repo.path) as opened:
        states = drift(5)
        ids = commit_all(opened, states)
        assert [bool(one.absent) for one in opened.log()] == [False, False, True, True, True]
        check(opened, dict(zip(ids[3:], states[3:], strict=True)))
        opened.commit(states[0], branch="other")
        assert [bool(one.absent) for one in opened.log("other")] == [False]
    (repo.path / ".ckstore/config.toml").write_text('[keep]\nmain = "best=1:nosuch:min auto"\n')
    with ckstore.open(repo.path) as opened, pytest.warns(CkstoreWarning, match="the commit is made"):
        opened.commit(states[1])


def test_tags_and_pins_hold(repo: ckstore.Repo) -> None:
    states = drift(6)
    ids = commit_all(repo, states)
    repo.tag("v1", ids[1])
    repo.pin(ids[3])
    result = repo.gc("last=1", grace="0", repack=True)
    kept = {one.id: one.reasons for one in result.plan.commits if one.kept}
    assert set(kept) == {ids[5], ids[3], ids[1]}
    check(repo, {ids[number]: states[number] for number in (1, 3, 5)})


def test_a_budget_keeps_what_is_worth_most(repo: ckstore.Repo) -> None:
    states = drift(10)
    losses = [1.0, 0.9, 0.8, 0.7, 5.0, 0.6, 0.5, 0.4, 0.3, 0.2]
    for step, (state, loss) in enumerate(zip(states, losses, strict=True)):
        repo.commit(state, step=step, metrics={"loss": loss})
    size = disk(repo)
    result = repo.gc(ckstore.keep(budget=size // 2, metric="loss", mode="min"), grace="0", repack=True)
    kept = [one.step for one in result.plan.commits if one.kept]
    assert 9 in kept
    assert 2 <= len(kept) < 9
    assert disk(repo) <= size * 0.6
    assert repo.verify(read_data=True).ok


@pytest.mark.parametrize("preset", ["balanced", "archive", "fast"])
def test_repacking_a_long_run(preset: str, repo: ckstore.Repo) -> None:
    """What is left takes hardly more than it would in a repository of its own, and the tip hangs on nothing."""
    states = drift(40)
    ids = commit_all(repo, states, preset=preset)
    result = repo.gc("last=3", grace="0", repack=True)
    kept = dict(zip(ids[-3:], states[-3:], strict=True))
    check(repo, kept)
    with ckstore.open(repo.path / "fresh") as fresh:
        commit_all(fresh, states[-3:], preset=preset)
        assert disk(repo) <= 1.1 * disk(fresh)
    assert result.written_bytes <= 2 * result.removed_bytes
    known = {one.frame.id: one.frame for one in repo._repository.store.ask(lambda view: list(view.locations()))}
    run = objects_of_tree(repo._repository.store.objects, repo["HEAD"]._commit.components[0].tree)
    assert {known[id].base for kind, id in run if kind is Kind.CHUNK} == {NO_ID}
    repo.commit(drift(41)[40])
    check(repo, kept)


def test_deep_takes_less(repo: ckstore.Repo) -> None:
    """Plain chains are best where each step changes a little that stays changed."""
    torch.manual_seed(0)
    table = torch.randn(20_000, 40)
    states = []
    for _ in range(12):
        table = table.clone()
        table[torch.randint(0, 20_000, (800,))] += torch.randn(40)
        states.append({"model": {"table": table}})
    ids = commit_all(repo, states)
    size = disk(repo)
    repo.gc(grace="0", deep=True)
    assert disk(repo) < 0.9 * size
    check(repo, dict(zip(ids, states, strict=True)))


def test_repacking_again_does_next_to_nothing(repo: ckstore.Repo) -> None:
    commit_all(repo, drift(10))
    first = repo.gc("last=4", grace="0", repack=True)
    assert first.written_bytes > 0
    again = repo.gc("last=4", grace="0", repack=True)
    assert (again.written_bytes, again.removed_bytes, again.records) == (0, 0, ())


def test_branches_that_share_a_base(repo: ckstore.Repo) -> None:
    """Fine-tunes hang on a base that is dropped: what they need of it stays, or they are encoded anew."""
    base = drift(1)[0]
    repo.commit(base, branch="base")
    tunes = {f"tune{number}": drift(2, seed=0)[1] for number in range(3)}
    for number, (name, state) in enumerate(tunes.items()):
        state["model"]["w"] = state["model"]["w"] + torch.randn(700, 600) * 1e-5 * (number + 1)
        repo.commit(state, branch=name)
    repo.delete_branch("base", force=True)
    for _ in range(2):
        repo.gc(grace="0", repack=True)
        check(repo, tunes)


def test_versions_that_lie_in_one_pack_are_turned_round(repo: ckstore.Repo) -> None:
    """Joined first, as two branches end in them; once one is deleted, each hangs on what had hung on it."""
    states = drift(12)
    ids = commit_all(repo, states[:10])
    repo.commit(states[10], branch="other", parent="main")
    ids.append(repo.commit(states[11]).id)
    joined = repo.gc(grace="0", repack=True)
    assert len(packs(repo)) < 6 < joined.plan.packs
    repo.delete_branch("other", force=True)
    assert repo.gc(grace="0", repack=True).written_bytes
    check(repo, dict(zip(ids, [*states[:10], states[11]], strict=True)))


def test_many_small_commits_are_joined(repo: ckstore.Repo) -> None:
    for step in range(40):
        repo.commit({"step": torch.tensor(step), "note": f"step {step}" * 900}, step=step)
    assert len(packs(repo)) >= 40
    repo.gc(grace="0", repack=True)
    assert len(packs(repo)) <= 4
    for step in range(40):
        assert repo[f"step:{step}"].load()["note"] == f"step {step}" * 900
    assert repo.verify(read_data=True).ok


def test_files_that_were_dropped(repo: ckstore.Repo, tmp_path: Path) -> None:
    for step in range(3):
        torch.save(drift(3)[step], tmp_path / "x.pt")
        repo.commit_files(tmp_path / "x.pt", step=step)
    repo.gc("last=1", grace="0")
    repo.checkout("HEAD", tmp_path / "out.pt")
    with pytest.raises(Absent):
        repo.checkout("HEAD~1", tmp_path / "old.pt")
    with pytest.raises(Absent):
        repo.export("HEAD~1", tmp_path / "old.safetensors", format="safetensors")
    assert not (tmp_path / "old.pt").exists()


def fill(path: Path) -> None:
    """Take all that is left of a disk."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def test_on_a_full_disk_the_reserve_lets_gc_run(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a disk to fill")
    try:
        states = [{"model": {"w": torch.randn(700, 600)}} for _ in range(16)]
        with ckstore.open(mount / "repo") as repo:
            for number, state in enumerate(states[:14]):
                repo.commit(state, step=number)
            repo._repository.store.keep_reserve()
            fill(mount / "filler")
            with pytest.raises(CkstoreError):
                repo.commit(states[14])
            repo.gc("last=2", grace="0")
            repo.commit(states[15])
            check(repo, {"HEAD": states[15], "HEAD~1": states[13]})
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


def test_the_command(repo: ckstore.Repo, tmp_path: Path) -> None:
    for step, state in enumerate(drift(4)):
        repo.commit(state, step=step, metrics={"loss": 1.0 / (step + 1)})
    repo.close()

    def run(*words: object) -> tuple[int, Any]:
        command = [sys.executable, "-c", "from ckstore.cli.main import run; run()", "-C", repo.path, "--json", "gc"]
        done = subprocess.run([*map(str, command), *map(str, words)], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout or done.stderr)

    status, told = run("--keep-last", 1, "--keep-best", "1:loss:max", "--dry-run")
    assert status == 0
    assert [one["kept"] for one in told["result"]["commits"]] == [True, False, False, True]
    assert run("--keep-last", 2, "--plan", tmp_path / "plan.json")[0] == 0
    assert run("--apply", tmp_path / "plan.json", "--keep-last", 2)[0] == 2
    assert run("--apply", tmp_path / "plan.json")[0] == 0
    assert run("--apply", tmp_path / "plan.json")[1]["error"]["code"] == "conflict"
    (tmp_path / "plan.json").write_text("{}")
    assert run("--apply", tmp_path / "plan.json")[1]["error"]["code"] == "invalid-input"
    assert run("--branch", "main")[0] == 2
    assert run("--grace", "x")[0] == 2
    shutil.rmtree(repo.path / ".ckstore/index")
    assert run("--repack", "--grace", "0")[0] == 0
