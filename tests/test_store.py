"""The store between processes, threads, forks, caches, and after damage to index or journal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore import filesystem
from ckstore.errors import Conflict, Integrity, InvalidInput, Locked, NoRepository
from ckstore.filesystem import Mount, mount_of
from ckstore.lock import FileLock
from ckstore.storage import journal
from ckstore.storage.packer import Packer
from tests.commands import run_code
from tests.indexed import indexed

if TYPE_CHECKING:
    from collections.abc import Callable


def state(seed: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((300, 300), float(seed)), "b": torch.arange(seed + 1)}, "step": seed}


def same(loaded: Any, seed: int) -> bool:
    wanted = state(seed)
    return (
        torch.equal(loaded["model"]["w"], wanted["model"]["w"])
        and torch.equal(loaded["model"]["b"], wanted["model"]["b"])
        and loaded["step"] == seed
    )


def run(code: str, *arguments: object) -> Any:
    """Run Python in a process of its own; what it prints, as JSON."""
    ran = run_code(code, *arguments)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_two_processes_with_separate_caches(tmp_path: Path) -> None:
    """As two hosts on one network mount: each has its own index, the journal is what they share."""
    code = (
        "import sys, json, ckstore\n"
        "repo = ckstore.open(sys.argv[1], index='cache', cache=sys.argv[2])\n"
        "seen = [entry.step for entry in repo.log()]\n"
        "repo.commit({'step': len(seen)}, step=len(seen))\n"
        "values = [repo[f'HEAD~{n}'].load()['step'] for n in range(len(seen) + 1)]\n"
        "print(json.dumps([seen, values, repo.verify(read_data=True).ok]))\n"
    )
    for turn in range(6):
        seen, values, ok = run(code, tmp_path / "repo", tmp_path / f"host{turn % 2}")
        assert seen == list(range(turn))[::-1]
        assert values == list(range(turn + 1))[::-1]
        assert ok
    assert not (tmp_path / "repo/.ckstore/index").exists()
    opened = [ckstore.open(tmp_path / "repo", index="cache", cache=tmp_path / host) for host in ("host0", "host1")]
    for repo in opened:
        repo.log()
    assert indexed(opened[0]._repository) == indexed(opened[1]._repository)


def test_a_stale_index_never_cuts_an_acknowledged_commit(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with ckstore.open(folder, index="cache", cache=tmp_path / "a") as repo:
        repo.commit(state(1))
        shutil.copytree(tmp_path / "a", tmp_path / "stale")
        repo.commit(state(2))
    with ckstore.open(folder, index="cache", cache=tmp_path / "stale") as repo:
        assert same(repo["HEAD"].load(), 2)
        repo.commit(state(3))
        assert [same(repo[f"HEAD~{n}"].load(), 3 - n) for n in range(3)] == [True] * 3


def test_a_read_only_repository_is_read_through_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with ckstore.open(folder) as repo:
        repo.commit(state(1))
    shutil.rmtree(folder / ".ckstore/index")
    code = (
        "import sys, json, os\n"
        "import ckstore\n"
        "with ckstore.open(sys.argv[2] + '/warm') as warm:\n"  # everything is imported while this user may
        "    warm.commit({'a': 1}); warm['HEAD'].load(only='a')\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "repo = ckstore.open(sys.argv[1], create=False, cache=sys.argv[2])\n"
        "try:\n"
        "    repo.commit({'a': 1}); refused = None\n"
        "except ckstore.SaveFailed as error:\n"
        "    refused = error.what\n"
        "print(json.dumps([repo['HEAD'].load(only='step')['step'], refused]))\n"
    )
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    (tmp_path / "cache").mkdir()
    for place in (tmp_path, *tmp_path.parents):
        if place.name.startswith(("pytest-", "popen-")) or place == tmp_path:
            place.chmod(0o755)
    (tmp_path / "cache").chmod(0o777)
    step, refused = run(code, folder, tmp_path / "cache")
    assert step == 1
    assert "read-only" in refused
    assert not (folder / ".ckstore/index").exists()


def test_two_writers_one_wins(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.commit(state(0))
    other = ckstore.open(repo.path, cache=tmp_path / "cache")
    barrier = threading.Barrier(2)
    outcomes: list[object] = []

    def write(who: ckstore.Repo, seed: int) -> None:
        barrier.wait()
        try:
            outcomes.append(who.commit(state(seed), parent=tip))
        except (Conflict, InvalidInput) as error:
            outcomes.append(error)

    tip = repo.branches["main"]
    threads = [threading.Thread(target=write, args=(who, seed)) for who, seed in ((repo, 1), (other, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [outcome for outcome in outcomes if isinstance(outcome, ckstore.CommitResult)]
    assert len(won) == 1
    assert len(repo.log()) == 2
    assert repo.verify(read_data=True).ok
    other.close()


def test_conflict_keeps_the_objects_for_a_retry(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit(state(0))
    intruding: list[Callable[[], None]] = []

    def commit_other() -> None:
        moved = run(
            "import sys, json, ckstore\nprint(json.dumps(ckstore.open(sys.argv[1]).commit({'x': 1}).id))", repo.path
        )
        assert moved

    finish = Packer.finish

    def finish_then_lose(packer: Any, workers: Any) -> Any:
        sealed = finish(packer, workers)
        if intruding:
            intruding.pop()()
        return sealed

    intruding.append(commit_other)
    monkeypatch.setattr(Packer, "finish", finish_then_lose)
    with pytest.raises(Conflict) as caught:
        repo.commit(state(1))
    assert caught.value.retryable
    again = repo.commit(state(1))
    assert again.known_objects > 0
    assert again.new_objects == 1
    assert len(repo.log()) == 3
    assert repo.verify(read_data=True).ok


def test_many_threads_one_repository(repo: ckstore.Repo) -> None:
    def write(number: int) -> None:
        for seed in range(3):
            repo.commit(state(10 * number + seed), branch=f"b{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(repo.branches) == [f"b{number}" for number in range(4)]
    for number in range(4):
        assert same(repo[f"b{number}"].load(), 10 * number + 2)
        assert len(repo.log(f"b{number}")) == 3


def test_a_forked_child_reads_and_commits(repo: ckstore.Repo) -> None:
    repo.commit(state(1))
    wanted = state(1)["model"]["w"].numpy().tobytes()
    child = os.fork()
    if not child:
        code = 1
        try:  # no arithmetic in torch here: its own threads do not survive a fork
            good = repo["HEAD"].load()["model"]["w"].numpy().tobytes() == wanted
            repo.commit({"step": 99}, branch="child")
            code = 0 if good else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert repo["child"].load() == {"step": 99}
    repo.commit(state(2))
    assert same(repo["HEAD"].load(), 2)
    assert repo.verify(read_data=True).ok


def test_a_child_forked_under_the_lock_does_not_hold_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    ready, go = os.pipe(), os.pipe()
    with lock.held():
        child = os.fork()
        if not child:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        with pytest.raises(Locked):
            FileLock(tmp_path / "lock").held(0.05).__enter__()
    with FileLock(tmp_path / "lock").held(0.05):
        pass
    os.write(go[1], b"x")
    os.waitpid(child, 0)


def test_a_busy_lock_names_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock").held():
        with pytest.raises(Locked) as caught:
            FileLock(tmp_path / "lock").held(0.05).__enter__()
        assert str(os.getpid()) in str(caught.value)
        assert caught.value.hint


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from ckstore.lock import FileLock\n"
        "with FileLock(Path(sys.argv[1])).held():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    with FileLock(tmp_path / "lock").held(0.05):
        pass


def test_a_lost_index_is_rebuilt_the_same(repo: ckstore.Repo) -> None:
    for seed in range(4):
        repo.commit(state(seed), tag=f"v{seed}")
    before = indexed(repo._repository)
    repo._repository.store.rebuild_index()
    assert indexed(repo._repository) == before
    repo.close()
    shutil.rmtree(repo.path / ".ckstore/index")
    with ckstore.open(repo.path) as again:
        assert indexed(again._repository) == before


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
def test_an_unreadable_index_is_rebuilt(repo: ckstore.Repo, damage: str) -> None:
    repo.commit(state(1))
    before = indexed(repo._repository)
    repo.close()
    data = repo.path / ".ckstore/index/data.mdb"
    content = {"garbage": os.urandom(20000), "cut": data.read_bytes()[:5000], "empty": b""}[damage]
    data.write_bytes(content)
    with ckstore.open(repo.path) as again:
        assert indexed(again._repository) == before
        assert same(again["HEAD"].load(), 1)


def test_a_damaged_row_is_mended(repo: ckstore.Repo) -> None:
    repo.commit(state(1))
    before = indexed(repo._repository)
    repo.close()
    data = repo.path / ".ckstore/index/data.mdb"
    content = bytearray(data.read_bytes())
    for table in ("frames", "refs", "commits"):
        for key, value in before[table]:
            place = content.rfind(value)
            assert place > 0, (table, key)
            content[place + len(value) // 2] ^= 0x20
    data.write_bytes(content)
    with ckstore.open(repo.path) as again:
        assert same(again["HEAD"].load(), 1)
        assert indexed(again._repository) == before


def test_a_journal_that_lost_its_tail_is_mended_from_the_index(repo: ckstore.Repo) -> None:
    for seed in range(3):
        repo.commit(state(seed))
    repo.close()
    (segment,) = (repo.path / ".ckstore/journal").iterdir()
    segment.write_bytes(segment.read_bytes()[:-100])
    with pytest.warns(ckstore.CkstoreWarning, match="mended"):
        again = ckstore.open(repo.path)
    with again:
        assert [same(again[f"HEAD~{n}"].load(), 2 - n) for n in range(3)] == [True] * 3
        again.commit(state(3))
    shutil.rmtree(repo.path / ".ckstore/index")
    with ckstore.open(repo.path) as again:
        assert same(again["HEAD~1"].load(), 2)
        assert again.verify(read_data=True).ok


def test_a_repository_put_back_to_an_earlier_state_is_believed(tmp_path: Path) -> None:
    """A restored backup is another history than a cached index followed: the journal is the truth."""
    folder = tmp_path / "repo"
    with ckstore.open(folder, index="cache", cache=tmp_path / "cache") as repo:
        repo.commit(state(1))
        shutil.copytree(folder, tmp_path / "backup")
        repo.commit(state(2))
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    with ckstore.open(folder, index="cache", cache=tmp_path / "cache") as repo:
        assert len(repo.log()) == 1
        assert same(repo["HEAD"].load(), 1)
        repo.commit(state(3))
        assert repo.verify(read_data=True).ok


def test_damage_in_the_journal_is_never_cut(repo: ckstore.Repo) -> None:
    for seed in range(3):
        repo.commit(state(seed))
    repo.close()
    shutil.rmtree(repo.path / ".ckstore/index")
    (segment,) = (repo.path / ".ckstore/journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[-80] ^= 1
    segment.write_bytes(content)
    with pytest.raises(Integrity, match="journal"):
        ckstore.open(repo.path)
    assert segment.read_bytes() == content


def test_segments_rotate(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckstore.storage.store.ROTATE_SIZE", 2000)
    for seed in range(40):
        repo.commit({"step": seed}, tag=f"v{seed}" if seed % 10 == 0 else None)
    segments = repo._repository.store.journal.segments()
    assert len(segments) > 2
    before = indexed(repo._repository)
    repo.close()
    shutil.rmtree(repo.path / ".ckstore/index")
    for number in segments[:-1]:
        (repo.path / f".ckstore/journal/{number:08x}.journal").unlink()
    with ckstore.open(repo.path) as again:
        assert indexed(again._repository) == before
        assert [again[f"v{seed}"].load()["step"] for seed in range(0, 40, 10)] == [0, 10, 20, 30]


def test_a_reader_follows_a_writer_over_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROTATE_SIZE", 1000)
    monkeypatch.setattr("ckstore.storage.store.ROTATE_SIZE", 1000)
    writer = ckstore.open(tmp_path / "repo", index="cache", cache=tmp_path / "a")
    reader = ckstore.open(tmp_path / "repo", index="cache", cache=tmp_path / "b")
    for seed in range(30):
        writer.commit({"step": seed})
        if seed % 7 == 0:
            assert reader["HEAD"].load() == {"step": seed}
    assert indexed(reader._repository) != {}
    reader.log()
    assert indexed(reader._repository) == indexed(writer._repository)


def test_what_dead_saves_left_is_swept(repo: ckstore.Repo) -> None:
    repo.commit(state(1))
    root = repo.path / ".ckstore"
    dead = root / "tmp/0123456789abcdef"
    dead.mkdir()
    (dead / "owner").touch()
    (dead / ("0" * 32 + ".part")).write_bytes(b"half a pack")
    (root / "packs" / ("f" * 32 + ".pack")).write_bytes(b"renamed, never recorded")
    repo.commit(state(2))
    assert list((root / "tmp").iterdir()) == []
    assert len(list((root / "packs").iterdir())) == len(indexed(repo._repository)["packs"])
    assert repo.verify(read_data=True).ok


def test_mounts(tmp_path: Path) -> None:
    table = (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "40 22 0:33 / /mnt/nfs rw,relatime - nfs4 server:/x rw,vers=4.2,local_lock=none\n"
        "41 22 0:34 / /mnt/bad rw,relatime - nfs server:/y rw,nolock,local_lock=all\n"
        "42 22 0:35 / /mnt/space\\040here rw - lustre a@tcp:/fs rw,flock\n"
        "broken line\n"
    )
    assert mount_of(Path("/mnt/nfs/runs"), table).kind == "nfs4"
    assert mount_of(Path("/mnt/nfs/runs"), table).is_network
    mount_of(Path("/mnt/nfs/runs"), table).check_locks()
    with pytest.raises(InvalidInput, match="nolock"):
        mount_of(Path("/mnt/bad"), table).check_locks()
    assert mount_of(Path("/mnt/space here/a"), table).kind == "lustre"
    assert not mount_of(Path("/mnt/nfsx"), table).is_network
    assert mount_of(tmp_path).kind == filesystem.mount_of(tmp_path.parent).kind
    Mount("/", "ext4", frozenset({"nolock"})).check_locks()


def test_open_without_create(tmp_path: Path) -> None:
    with pytest.raises(NoRepository):
        ckstore.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InvalidInput):
        ckstore.open(tmp_path / "none", threads=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ckstore.SaveFailed, match="file"):
        ckstore.open(tmp_path / "file")
    ckstore.open(tmp_path / "outer").close()
    inner = ckstore.open(tmp_path / "outer/inner")
    assert inner.path == tmp_path / "outer/inner"


def test_many_processes_make_one_repository(tmp_path: Path) -> None:
    code = "import sys, ckstore; ckstore.open(sys.argv[1]).commit({'n': 1}, branch='b' + sys.argv[2])"
    with ThreadPoolExecutor(4) as pool:
        ran = list(pool.map(lambda number: run_code(code, tmp_path / "r", number), range(4)))
    assert [one.returncode for one in ran] == [0] * 4, ran
    with ckstore.open(tmp_path / "r") as repo:
        assert sorted(repo.branches) == ["b0", "b1", "b2", "b3"]
    assert [path.name for path in (tmp_path / "r").iterdir()] == [".ckstore"]


def test_two_copies_of_a_repository_never_share_a_cached_index(tmp_path: Path) -> None:
    one, other, cache = tmp_path / "one", tmp_path / "other", tmp_path / "cache"
    with ckstore.open(one, index="cache", cache=cache) as repo:
        repo.commit({"step": 0})
    shutil.copytree(one, other)
    for folder, value in ((one, 1), (other, 2), (one, 3), (other, 4)):
        with ckstore.open(folder, index="cache", cache=cache) as repo:
            repo.commit({"step": value})
            assert repo.verify(read_data=True).ok
    for folder, values in ((one, [3, 1, 0]), (other, [4, 2, 0])):
        with ckstore.open(folder, index="cache", cache=cache) as repo:
            assert [repo[f"HEAD~{back}"].load()["step"] for back in range(3)] == values


def test_damage_in_an_applied_record_is_mended_at_open(repo: ckstore.Repo) -> None:
    for seed in range(4):
        repo.commit({"step": seed})
    repo.close()
    (segment,) = (repo.path / ".ckstore/journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with pytest.warns(ckstore.CkstoreWarning, match="mended"):
        again = ckstore.open(repo.path)
    assert again.verify(read_data=True).ok
    again.close()
    shutil.rmtree(repo.path / ".ckstore/index")
    with ckstore.open(repo.path) as rebuilt:
        assert [entry.id for entry in rebuilt.log()] != []
        assert rebuilt["HEAD~3"].load() == {"step": 0}


def test_a_state_that_changes_under_the_commit_is_refused(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = torch.zeros(300_000)
    known = type(repo._repository.store.objects).known

    def then_move(self: Any, ids: Any) -> Any:
        found = known(self, ids)
        moving.add_(1)
        return found

    monkeypatch.setattr(type(repo._repository.store.objects), "known", then_move)
    with pytest.raises(InvalidInput, match="changed"):
        repo.commit({"model": moving})
    monkeypatch.undo()
    assert repo.log() == []
    repo.commit({"model": torch.zeros(300_000)})
    assert not repo["HEAD"].load()["model"].any()


def test_missing_folders_and_stray_files_are_no_trouble(repo: ckstore.Repo) -> None:
    repo.commit({"step": 1})
    repo.close()
    for name in ("tmp", "quarantine"):
        shutil.rmtree(repo.path / ".ckstore" / name)
    with ckstore.open(repo.path) as again:
        (repo.path / ".ckstore/tmp/.DS_Store").write_bytes(b"x")
        again.commit({"step": 2})
        assert again["HEAD"].load() == {"step": 2}


def test_one_damaged_commit_hides_nothing_else(repo: ckstore.Repo) -> None:
    first = repo.commit(state(1))
    repo.commit(state(2))
    store = repo._repository.store
    location = store.ask(lambda view: view.locate(bytes.fromhex(first.id)))
    assert location is not None
    repo.close()
    path = repo.path / f".ckstore/packs/{location.pack.hex()}.pack"
    content = bytearray(path.read_bytes())
    content[location.offset + 100] ^= 1
    path.write_bytes(content)
    shutil.rmtree(repo.path / ".ckstore/index")
    with ckstore.open(repo.path) as again:
        assert same(again["HEAD"].load(), 2)
        with pytest.raises(Integrity):
            _ = again["HEAD~1"]
        affected = {one for finding in again.verify(read_data=True).findings for one in finding.commits}
        assert first.id in affected
