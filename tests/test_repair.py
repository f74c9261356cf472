"""repair and verify over real damage: what is sound stays, what is lost is named exactly, and all goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import ckstore
from ckstore import durable
from ckstore.cli.main import app
from ckstore.errors import Absent, InvalidInput, Locked, SaveFailed
from ckstore.lock import FileLock
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE
from ckstore.pack.reader import read_sealed, recover
from ckstore.porcelain.gc import GcOptions, gc
from ckstore.porcelain.repair import RepairResult, repair_journal
from ckstore.porcelain.verify import verify
from ckstore.storage.pack_file import PackFile
from ckstore.storage.verified import read_looked_at, read_verified
from ckstore.storage.view import View
from tests.equality import assert_same_components
from tests.indexed import indexed
from tests.test_state_machine import Dying, Killed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.storage.location import Location

NOW = 1_900_000_000 * 10**9
pytestmark = pytest.mark.filterwarnings("ignore::ckstore.errors.CkstoreWarning")  # damaged packs are warned of


def states(count: int = 4) -> list[dict[str, Any]]:
    """A model that drifts, so that its chunks are deltas; an optimizer that is new each time; a part that stays."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(400, 400, generator=generator)
    fixed = torch.randn(200, 200, generator=generator)
    found = []
    for step in range(count):
        weight = weight * (1 + torch.randn(400, 400, generator=generator) * 1e-6)
        moment = torch.randn(150, 150, generator=generator)
        found.append({"model": {"w": weight}, "optimizer": {"m": moment, "step": step}, "fixed": fixed})
    return found


def filled(repo: ckstore.Repo, count: int = 4) -> dict[str, dict[str, Any]]:
    return {repo.commit(state, step=step).id: state for step, state in enumerate(states(count))}


def packs(repo: ckstore.Repo) -> list[Path]:
    """The pack files in the order they came."""
    store = repo._repository.store
    return [store.layout.pack(entry.name) for entry in store.ask(View.packs)]


def rows(repo: ckstore.Repo) -> list[Location]:
    return repo._repository.store.ask(lambda view: list(view.locations()))


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def flip_payload(repo: ckstore.Repo, place: Location) -> None:
    flip(
        repo._repository.store.layout.pack(place.pack),
        place.offset + FRAME_HEADER_SIZE + place.frame.stored_length // 2,
    )


def data_packs(repo: ckstore.Repo) -> list[Path]:
    return [path for path in packs(repo) if path.stat().st_size > 30_000]


def meta_packs(repo: ckstore.Repo) -> list[Path]:
    return [path for path in packs(repo) if path.stat().st_size < 30_000]


def reopened(repo: ckstore.Repo) -> ckstore.Repo:
    repo.close()
    return ckstore.open(repo.path)


def missing(repo: ckstore.Repo, wanted: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """The components that raise `Absent`; all others read back bit for bit."""
    found = set()
    for id, state in wanted.items():
        for name, value in state.items():
            try:
                assert_same_components({name: value}, repo[id].load(only=f"{name}*"))
            except Absent:
                found.add((id, name))
    return found


def check_mended(repo: ckstore.Repo, wanted: dict[str, dict[str, Any]], result: RepairResult) -> None:
    """What was lost is what raises `Absent`; nothing is found any more; saves and gc go on."""
    assert not result.lost_commits
    assert missing(repo, wanted) == {(one.commit, one.component) for one in result.lost}
    assert repo.verify(read_data=True).findings == ()
    before = indexed(repo._repository)
    repo._repository.store.rebuild_index()
    assert indexed(repo._repository) == before
    again = repo.repair()
    assert (again.packs, again.lost, again.quarantined, again.record) == ((), (), (), None)
    newest = list(wanted.values())[-1]
    id = repo.commit(newest, step=99).id
    assert_same_components(newest, repo[id].load())
    gc(repo._repository, GcOptions(NOW, {"": "last=2"}, grace_ns=0, repack=True, trust_clock=True))
    assert repo.verify(read_data=True).findings == ()
    assert_same_components(newest, repo[id].load())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "payload": lambda path: flip(path, HEADER_SIZE + FRAME_HEADER_SIZE + 100),
    "frame header": lambda path: flip(path, HEADER_SIZE + 50),
    "pack header": lambda path: flip(path, 20),
    "table": lambda path: flip(path, path.stat().st_size - 100),
    "trailer": lambda path: flip(path, path.stat().st_size - 10),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x" * 100),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
    "zeros inside": lambda path: (
        path.write_bytes(path.read_bytes()[:1000] + bytes(4096) + path.read_bytes()[5096:]) and None
    ),
}
HARMLESS = {"pack header", "table", "trailer", "longer"}


@pytest.mark.parametrize("number", [0, 2, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_data_packs(repo: ckstore.Repo, damage: str, number: int) -> None:
    wanted = filled(repo)
    path = data_packs(repo)[number]
    DAMAGES[damage](path)
    affected = {id for finding in repo.verify(read_data=True).findings for id in finding.commits}
    dry = repo.repair(dry_run=True)
    assert path.exists() or damage == "gone"
    result = repo.repair()
    assert {one.name for one in result.packs} >= {path.stem}
    assert (dry.packs, dry.lost, dry.quarantined) == (result.packs, result.lost, result.quarantined) or damage == "gone"
    assert {one.commit for one in result.lost} == affected
    assert bool(result.lost) == (damage not in HARMLESS)
    quarantine = repo.path / ".ckstore/quarantine"
    assert [one.name for one in quarantine.iterdir()] == ([] if damage == "gone" else [path.name])
    assert not path.exists()
    check_mended(repo, wanted, result)


@pytest.mark.parametrize("lost_index", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_packs_of_trees_and_commits(repo: ckstore.Repo, damage: str, lost_index: bool) -> None:
    wanted = filled(repo)
    path = meta_packs(repo)[1]
    DAMAGES[damage](path)
    if lost_index:
        repo.close()
        shutil.rmtree(repo.path / ".ckstore/index")
        repo = ckstore.open(repo.path)
    result = repo.repair()
    if result.lost_commits:
        # Only where the index, which had a copy, is lost as well.
        assert lost_index
        lost = result.lost_commits[0]
        assert lost.commit == list(wanted)[1]
        assert lost.named_by == (list(wanted)[2],)
        assert not result.ok
        assert_same_components(wanted[list(wanted)[3]], repo["HEAD"].load())
        assert {finding.kind for finding in repo.verify(read_data=True).findings} == {"commit"}
        repo.commit(states(1)[0])
    else:
        assert {one.commit for one in result.lost} <= {list(wanted)[1]}
        check_mended(repo, wanted, result)
    repo.close()


def test_one_frame_of_many(repo: ckstore.Repo) -> None:
    """The others of its pack are kept, and only what needs it is lost."""
    wanted = filled(repo)
    (place,) = [place for place in rows(repo) if place.frame.raw_length == 150 * 150 * 4][1:2]
    flip_payload(repo, place)
    result = repo.repair()
    assert len(result.lost) == 1
    assert result.lost[0].component == "optimizer"
    assert (result.lost_objects, result.packs[0].unusable) == (1, 1)
    assert result.salvaged_objects == result.packs[0].salvaged > 0
    check_mended(repo, wanted, result)


def test_the_base_of_a_chain(repo: ckstore.Repo) -> None:
    """Every version goes, and nothing else; packs that are sound themselves are replaced and not set aside."""
    wanted = filled(repo)
    deltas = [place for place in rows(repo) if place.frame.version]
    assert deltas
    base = next(place for place in rows(repo) if place.frame.id == deltas[0].frame.base and not place.frame.version)
    flip_payload(repo, base)
    result = repo.repair()
    assert {(one.commit, one.component) for one in result.lost} == {(id, "model") for id in wanted}
    assert [bool(one.what) for one in result.packs].count(True) == 1
    assert len(result.quarantined) == 1
    assert len(result.packs) > 1
    check_mended(repo, wanted, result)


def test_an_index_that_follows_a_repair_knows_nothing_that_is_lost(repo: ckstore.Repo, tmp_path: Path) -> None:
    """Another host's index must not take what hung on a lost base to be there."""
    wanted = filled(repo)
    with ckstore.open(repo.path, index="cache", cache=tmp_path / "other") as other:
        other.log()
        flip_payload(repo, next(place for place in rows(repo) if place.frame.raw_length > 500_000))
        flip(packs(repo)[0], packs(repo)[0].stat().st_size - 10)
        repo.repair()
        other.log()
        assert indexed(other._repository) == indexed(repo._repository)
        newest = list(wanted.values())[-1]
        assert_same_components(newest, other[other.commit(newest).id].load())
        assert other.verify(read_data=True).ok


def test_two_copies(repo: ckstore.Repo, tmp_path: Path) -> None:
    """Where an object has a second frame nothing is lost."""
    state = states(1)[0]
    first = repo.commit(state).id
    other = ckstore.open(tmp_path / "other")
    other.commit(state)
    store = repo._repository.store
    # As two saves at once leave it: the same objects in two packs.
    from ckstore.storage.record import PackEntry, Record

    entries = []
    for path in packs(other):
        shutil.copy(path, store.layout.packs)
        sealed = read_sealed(PackFile(path))
        entries.append(PackEntry(sealed.name, sealed.digest, sealed.size_bytes))
    other.close()
    with store.locked():
        store.catch_up()
        store.record(Record(NOW, "copy", tuple(entries)), ())
    assert len(indexed(repo._repository)["spares"]) > 3
    data_packs(repo)[0].write_bytes(b"")
    result = repo.repair()
    assert result.ok
    assert len(result.packs) == 1
    check_mended(repo, {first: state}, result)


def test_a_damaged_spare(repo: ckstore.Repo, tmp_path: Path) -> None:
    state = states(1)[0]
    first = repo.commit(state).id
    store = repo._repository.store
    from ckstore.storage.record import PackEntry, Record

    with ckstore.open(tmp_path / "other") as other:
        other.commit(state)
        copied = []
        for path in data_packs(other):
            copied.append(Path(shutil.copy(path, store.layout.packs)))
            sealed = read_sealed(PackFile(path))
    with store.locked():
        store.catch_up()
        store.record(Record(NOW, "copy", (PackEntry(sealed.name, sealed.digest, sealed.size_bytes),)), ())
    flip(copied[-1], HEADER_SIZE + FRAME_HEADER_SIZE + 10)
    findings = repo.verify(read_data=True).findings
    assert [(one.kind, one.commits) for one in findings] == [("object", ())]
    result = repo.repair()
    assert result.ok
    assert result.packs[0].unusable == 1
    check_mended(repo, {first: state}, result)


def test_committing_again_fills_what_was_lost(repo: ckstore.Repo) -> None:
    wanted = filled(repo)
    for path in data_packs(repo):
        path.unlink()
    result = repo.repair()
    assert len(result.lost) == 12
    with pytest.raises(Absent, match="committing the same data again"):
        repo["HEAD"].load()
    log = repo.log()
    assert all(set(one.absent) == {"model", "optimizer", "fixed"} for one in log)
    for step, state in enumerate(wanted.values()):
        repo.commit(state, step=step)
    again = repo.repair()
    assert len(again.found) == 12
    assert missing(repo, wanted) == set()
    assert repo.verify(read_data=True).ok
    assert not repo._repository.absent()
    with pytest.raises(InvalidInput, match="moved no branch"):
        repo.undo(result.record)


def test_a_commit_that_changes_nothing_fills_a_hole(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(os.urandom(50_000))
    runner, folder = CliRunner(), str(tmp_path)
    command = ["-C", folder, "commit", str(tmp_path / "f.bin")]
    runner.invoke(app, ["-C", folder, "init"])
    assert runner.invoke(app, command).exit_code == 0
    assert runner.invoke(app, command).exit_code != 0
    with ckstore.open(tmp_path) as repo:
        data_packs(repo)[0].unlink()
    assert runner.invoke(app, ["-C", folder, "repair"]).exit_code == 4
    assert runner.invoke(app, command).exit_code == 0
    assert runner.invoke(app, ["-C", folder, "verify", "--read-data"]).exit_code == 0
    assert runner.invoke(app, ["-C", folder, "checkout", "HEAD", "-o", str(tmp_path / "back")]).exit_code == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "f.bin").read_bytes()


@pytest.mark.parametrize("damage", ["payload", "table", "gone", "cut"])
def test_killed_at_every_step(tmp_path: Path, damage: str) -> None:
    """Whatever step a repair dies at, the next one ends where one that lives would."""
    with ckstore.open(tmp_path / "whole", threads=1) as repo:
        wanted = filled(repo, 3)
        DAMAGES[damage](data_packs(repo)[1])
    calls = 0
    while True:
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "one")
        dying = Dying(calls, 0.5)
        repo = ckstore.open(tmp_path / "one", threads=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "os", dying)
            with contextlib.suppress(Killed):
                repo.repair()
        repo.close()
        with ckstore.open(tmp_path / "one", threads=1) as repo:
            repo.verify(read_data=True)
            result = repo.repair()
            lost = missing(repo, wanted)
            assert (damage == "table") == (not lost)
            assert {(id.hex(), name) for id, names in repo._repository.absent().items() for name in names} == lost
            assert repo.verify(read_data=True).findings == ()
            assert result.ok or not lost or {(one.commit, one.component) for one in result.lost} == lost
            assert not repo._repository.store.ask(View.condemned) or damage == "payload" or not dying.dead
            if not dying.dead or calls % 7 == 0:
                repo.commit(states(4)[3])
                gc(repo._repository, GcOptions(NOW, {"": "last=1"}, grace_ns=0, trust_clock=True))
                assert repo.verify(read_data=True).findings == ()
        if not dying.dead:
            break
        calls += 1
    assert calls > 10


def test_a_commit_beside_a_repair(repo: ckstore.Repo, tmp_path: Path) -> None:
    """It relies on what is lost, as nobody knew: the repair sees that and begins anew."""
    wanted = filled(repo)
    newest = list(wanted.values())[-1]
    flip_payload(repo, next(place for place in rows(repo) if place.frame.raw_length == 200 * 200 * 4))
    late: list[str] = []
    with ckstore.open(repo.path, cache=tmp_path / "cache2") as other:

        class Meanwhile:
            def start(self, what: str, total_bytes: int) -> None:
                if what == "salvaging" and not late:
                    late.append(other.commit(newest, step=50).id)

            def advance(self, done_bytes: int) -> None: ...

        result = repo.repair(progress=Meanwhile())
    assert late[0] in {one.commit for one in result.lost}
    assert {one.component for one in result.lost} == {"fixed"}
    check_mended(repo, {**wanted, late[0]: newest}, result)


def test_refused(repo: ckstore.Repo) -> None:
    filled(repo, 2)
    path = data_packs(repo)[0]
    flip(path, 500)
    with FileLock(repo._repository.store.layout.gc_lock).held(), pytest.raises(Locked):
        repo.repair()
    repo._repository.store.may_write = False
    with pytest.raises(SaveFailed, match="read-only"):
        repo.repair()
    assert not repo.repair(dry_run=True).ok
    assert path.exists()
    assert not repo._repository.absent()
    repo._repository.store.may_write = True


def test_what_cannot_be_read_for_another_reason_is_no_damage(repo: ckstore.Repo) -> None:
    if os.getuid() == 0:
        path = data_packs_of(repo)
        path.unlink()
        path.mkdir()  # reading it is EISDIR
    else:
        path = data_packs_of(repo)
        path.chmod(0)
    with pytest.raises(SaveFailed, match="cannot read pack"):
        repo.repair()
    assert not repo._repository.absent()


def data_packs_of(repo: ckstore.Repo) -> Path:
    filled(repo, 2)
    return data_packs(repo)[0]


def test_strays_are_set_aside(repo: ckstore.Repo) -> None:
    filled(repo, 2)
    stray = repo.path / ".ckstore/packs" / ("ab" * 16 + ".pack")
    shutil.copy(packs(repo)[0], stray)
    assert repo.repair(dry_run=True).quarantined == (stray.name,)
    assert repo.repair().quarantined == (stray.name,)
    assert not stray.exists()
    assert repo.verify(read_data=True).ok


def test_a_damaged_condemned_pack(repo: ckstore.Repo) -> None:
    for branch in ("one", "two"):
        repo.commit({"x": torch.randn(9000)}, branch=branch)
        repo.delete_branch(branch, force=True)
    gc(repo._repository, GcOptions(NOW, grace_ns=10**18, trust_clock=True))
    condemned = repo._repository.store.ask(View.condemned)
    assert len(condemned) == 4
    path = repo._repository.store.layout.pack(condemned[0].pack.name)
    flip(path, HEADER_SIZE + FRAME_HEADER_SIZE + 3)
    assert repo.verify(read_data=True).ok
    result = repo.repair()
    assert (result.packs, result.quarantined) == ((), (path.name,))
    path = repo._repository.store.layout.pack(repo._repository.store.ask(View.condemned)[0].pack.name)
    path.unlink()
    assert repo.verify(read_data=True).ok
    repo.repair()
    assert len(repo._repository.store.ask(View.condemned)) == len(condemned) - 2


def test_dropped_data_is_no_loss(repo: ckstore.Repo) -> None:
    wanted = filled(repo, 4)
    gc(repo._repository, GcOptions(NOW, {"": "last=2"}, grace_ns=0, trust_clock=True))
    before = repo._repository.absent()
    assert repo.repair().ok
    assert repo._repository.absent() == before
    for path in data_packs(repo):
        path.unlink()
    result = repo.repair()
    assert {one.commit for one in result.lost} == set(list(wanted)[2:])


def ruin_journal(folder: Path) -> None:
    """The newest segment from its first byte, and the index with it."""
    segment = max((folder / ".ckstore/journal").glob("*.journal"))
    flip(segment, 60)
    shutil.rmtree(folder / ".ckstore/index")


@pytest.mark.parametrize("damaged_table", [False, True])
def test_a_journal_made_anew(tmp_path: Path, damaged_table: bool) -> None:
    folder = tmp_path / "repo"
    with ckstore.open(folder) as repo:
        wanted = filled(repo, 3)
        side = repo.commit(states(5)[4], branch="side", parent=next(iter(wanted))).id
        last = repo.commit(states(6)[5]).id
        if damaged_table:
            flip(packs(repo)[0], packs(repo)[0].stat().st_size - 20)
    with pytest.raises(InvalidInput, match="can be read"), ckstore.open(folder) as repo:
        repair_journal(repo._repository.store.layout)
    ruin_journal(folder)
    with pytest.raises(ckstore.CkstoreError):
        ckstore.open(folder)
    ran = CliRunner().invoke(app, ["-C", str(folder), "--json", "repair", "--rebuild-journal"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["result"]["commits"] == 5
    with ckstore.open(folder) as repo:
        assert repo.branches == {f"recovered/{id[:12]}": id for id in (side, last)}
        assert repo["HEAD"].info.id == last
        result = repo.repair()
        assert result.ok
        assert bool(result.packs) == damaged_table
        assert any(name.endswith(".journal") for name in os.listdir(folder / ".ckstore/quarantine"))
        check_mended(repo, {**wanted, side: states(5)[4], last: states(6)[5]}, result) if not damaged_table else None
        assert repo.verify(read_data=True).ok


def test_a_journal_that_the_index_holds(repo: ckstore.Repo) -> None:
    """Damage to what lies before its end is not seen when it is opened; it is mended byte for byte."""
    wanted = filled(repo, 3)
    segment = max((repo.path / ".ckstore/journal").glob("*.journal"))
    before = segment.read_bytes()
    for offset in (60, len(before) // 2):
        flip(segment, offset)
        assert {finding.kind for finding in repo.verify().findings} == {"journal"}
        assert repo.repair(dry_run=True).journal_mended
        assert repo.repair().journal_mended
        assert segment.read_bytes() == before
    assert len(list((repo.path / ".ckstore/quarantine").iterdir())) == 2
    assert len(repo.reflog().entries) == 3
    check_mended(repo, wanted, repo.repair())


def test_a_journal_made_anew_keeps_the_names_that_the_index_knows(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with ckstore.open(folder) as repo:
        wanted = filled(repo, 3)
        repo.tag("v1")
        repo.commit(states(5)[4], branch="gone")
        repo.delete_branch("gone", force=True)
        gc(repo._repository, GcOptions(NOW, {"": "last=2 no-tags"}, grace_ns=0, trust_clock=True))
        absent = repo._repository.absent()
        shutil.copytree(folder / ".ckstore/index", tmp_path / "index")
        late = repo.commit(states(4)[3]).id
    shutil.rmtree(folder / ".ckstore/index")
    shutil.copytree(tmp_path / "index", folder / ".ckstore/index")  # one that is behind
    segment = max((folder / ".ckstore/journal").glob("*.journal"))
    segment.write_bytes(b"\xff" * segment.stat().st_size)
    with pytest.raises(ckstore.CkstoreError, match="rebuild-journal"):
        ckstore.open(folder)
    ran = CliRunner().invoke(app, ["-C", str(folder), "repair", "--rebuild-journal"])
    assert ran.exit_code == 0, ran.output
    assert "names are those of the index" in ran.stdout
    with ckstore.open(folder) as repo:
        assert repo.tags == {"v1": list(wanted)[2]}
        assert repo.branches == {"main": list(wanted)[2], f"recovered/{late[:12]}": late}
        assert repo._repository.absent() == absent
        assert repo.repair().ok
        assert repo.verify(read_data=True).ok
        assert_same_components(states(4)[3], repo[late].load())
        with pytest.raises(InvalidInput, match="nothing to undo"):
            repo.undo()


def test_a_subset_comes_round_to_all(repo: ckstore.Repo) -> None:
    filled(repo, 6)
    names = {bytes.fromhex(path.stem) for path in packs(repo)}
    total = sum(path.stat().st_size for path in packs(repo))
    layout = repo._repository.store.layout
    seen: set[bytes] = set()
    runs = 0
    while seen != names:
        before = read_verified(layout)
        result = verify(repo._repository, subset="25%", now_ns=NOW + runs)
        now = read_verified(layout)
        fresh = {name for name, when in now.items() if when == NOW + runs}
        assert len(fresh) == result.read_packs
        assert not fresh & seen or seen | fresh == names
        assert sum(layout.pack(name).stat().st_size for name in fresh) >= total / 4
        assert set(before) <= set(now)
        seen |= fresh
        runs += 1
        assert runs < 6
    assert runs > 2
    assert verify(repo._repository, subset="1", now_ns=NOW + 50).read_packs == len(names)
    for text in ("0", "0%", "101%", "2", "x", "-1", "1e1", ""):
        with pytest.raises(InvalidInput):
            verify(repo._repository, subset=text)


def test_a_damaged_pack_does_not_keep_the_subset_from_going_on(repo: ckstore.Repo) -> None:
    filled(repo, 6)
    largest = max(packs(repo), key=lambda path: path.stat().st_size)
    places = [place for place in rows(repo) if place.pack.hex() == largest.stem]
    flip_payload(repo, min(places, key=lambda place: place.frame.stored_length))  # the optimizer's: no delta needs it
    layout = repo._repository.store.layout
    found = sum(not verify(repo._repository, subset="10%", now_ns=NOW + run).ok for run in range(10))
    assert 0 < found < 10
    assert len(read_looked_at(layout)) == len(packs(repo))
    assert bytes.fromhex(largest.stem) not in read_verified(layout)


@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"payload", "zeros inside"}))
def test_verify_without_data_sees_structure(repo: ckstore.Repo, damage: str) -> None:
    wanted = filled(repo, 2)
    DAMAGES[damage](data_packs(repo)[0])
    findings = repo.verify().findings
    affected = {id for finding in findings for id in finding.commits}
    assert findings
    assert affected <= set(wanted)
    assert bool(affected) == (damage not in HARMLESS)


def test_verify_sees_what_the_index_lacks(repo: ckstore.Repo) -> None:
    filled(repo, 2)
    index = repo._repository.store.index
    place = rows(repo)[0]
    with index._shared.begin(write=True) as transaction:
        transaction.delete(place.frame.id, db=index._shared.tables["frames"])
    assert {finding.kind for finding in repo.verify().findings} == {"index", "object"}
    assert repo.repair().ok
    assert repo.verify(read_data=True).ok


def test_the_command(tmp_path: Path) -> None:
    runner, folder = CliRunner(), str(tmp_path / "repo")
    with ckstore.open(folder) as repo:
        filled(repo, 3)
        flip_payload(repo, next(place for place in rows(repo) if place.frame.raw_length == 150 * 150 * 4))
    report = tmp_path / "report.json"
    ran = runner.invoke(app, ["-C", folder, "--json", "verify", "--subset", "100%", "--report", str(report)])
    assert ran.exit_code == 4
    assert json.loads(report.read_text()) == json.loads(ran.stdout)
    assert len(json.loads(ran.stdout)["result"]["findings"]) == 1
    dry = runner.invoke(app, ["-C", folder, "repair", "--dry-run"])
    assert dry.exit_code == 4
    assert "would move to quarantine" in dry.stdout
    ran = runner.invoke(app, ["-C", folder, "repair"])
    assert ran.exit_code == 4
    assert "optimizer" in ran.stdout
    ran = runner.invoke(app, ["-C", folder, "repair"])
    assert (ran.exit_code, "Nothing is damaged." in ran.stdout) == (0, True)
    assert runner.invoke(app, ["-C", folder, "verify", "--read-data"]).exit_code == 0
    ran = runner.invoke(app, ["-C", folder, "--json", "repair", "--rebuild-journal"])
    assert ran.exit_code == 1


def test_recover_finds_frames_past_damage(repo: ckstore.Repo) -> None:
    filled(repo, 2)
    path = data_packs(repo)[0]
    every = list(recover(PackFile(path)))
    assert len(every) == len(read_sealed(PackFile(path)).rows) > 2
    flip(path, every[1].offset + 5)
    flip(path, 3)
    assert list(recover(PackFile(path))) == [every[0], *every[2:]]


def _damage(data: bytearray, kind: str, at: float, length: int) -> bytes | None:
    place = int(at * max(len(data) - 1, 0))
    if kind == "gone":
        return None
    if kind == "flip" and data:
        data[place] ^= 1 << (length % 8)
    elif kind == "zeros":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data += os.urandom(length)
    elif kind == "out":
        del data[place : place + length]
    return bytes(data)


damages = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "flip", "zeros", "cut", "longer", "out", "gone"]),
        st.floats(0, 1),
        st.integers(1, 5000),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages=damages, lost_index=st.booleans())
def test_random_damage(tmp_path_factory: pytest.TempPathFactory, damages: list[Any], lost_index: bool) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "repo"
    with ckstore.open(folder, threads=1) as repo:
        wanted = filled(repo, 3)
        paths = packs(repo)
    for which, kind, at, length in damages:
        path = paths[int(which * (len(paths) - 1))]
        if path.exists():
            data = _damage(bytearray(path.read_bytes()), kind, at, length)
            path.unlink()
            if data is not None:
                path.write_bytes(data)
    if lost_index:
        shutil.rmtree(folder / ".ckstore/index")
    with ckstore.open(folder, threads=1) as repo:
        result = repo.repair()
        if result.lost_commits:
            assert lost_index
            here = {id: state for id, state in wanted.items() if id not in {one.commit for one in result.lost_commits}}
            reached = {id: state for id, state in here.items() if id in _reached(repo)}
            assert missing(repo, reached) == {(one.commit, one.component) for one in result.lost}
            assert {one.kind for one in repo.verify(read_data=True).findings} == {"commit"}
        else:
            check_mended(repo, wanted, result)
    shutil.rmtree(folder)


def _reached(repo: ckstore.Repo) -> set[str]:
    """Commits that lead back from the tips until one is lost."""
    found: set[str] = set()
    pending = list(repo.branches.values())
    while pending:
        id = pending.pop()
        try:
            pending += repo[id].info.parents
        except ckstore.CkstoreError:
            continue
        found.add(id)
    return found


def test_a_full_disk(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by it; a reserve is used."""
    wanted = filled(repo, 3)
    path = data_packs(repo)[1]
    flip(path, HEADER_SIZE + FRAME_HEADER_SIZE + 100)
    layout = repo._repository.store.layout

    class Full:
        """`os` on a disk that takes no new pack while the reserve is there."""

        def __getattr__(self, name: str) -> Any:
            if name == "writev" and full():
                raise OSError(28, "No space left on device")
            return getattr(os, name)

    always = threading.Event()
    always.set()

    def full() -> bool:
        return always.is_set() or layout.reserve.exists()

    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", Full())
        with pytest.raises(ckstore.StoreFull):
            repo.repair()
    assert path.exists()
    assert not repo._repository.absent()
    always.clear()
    layout.reserve.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", Full())
        result = repo.repair()
    assert result.reserve_released
    check_mended(repo, wanted, result)
