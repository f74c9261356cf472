"""status, du and doctor: what they say is so."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import torch

from ckstore.codec import compiled
from ckstore.porcelain.doctor import doctor
from ckstore.porcelain.du import DuOptions, du
from ckstore.porcelain.status import status
from ckstore.porcelain.verify import verify
from ckstore.storage.layout import FOLDER
from ckstore.storage.verified import read_verified

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore

NOW = 1_900_000_000 * 10**9


def weights(seed: int, count: int = 300_000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def pack_bytes(repo: ckstore.Repo) -> int:
    return sum(path.stat().st_size for path in (repo.path / FOLDER / "packs").iterdir())


def test_status_of_an_empty_repository(repo: ckstore.Repo) -> None:
    found = status(repo._repository)
    assert (found.branch, found.head, found.commits, found.unverified_bytes) == ("main", None, 0, 0)
    assert found.next[0].startswith("ckstore commit FILE")


def test_status_counts_what_is_there(repo: ckstore.Repo) -> None:
    repo.commit({"model": weights(1)}, step=1, tag="v1")
    repo.commit({"model": weights(2)}, step=2)
    repo.commit({"model": weights(2)}, branch="other")
    found = status(repo._repository)
    assert found.head is not None
    assert (found.branch, found.head.step, found.head.is_head) == ("main", 2, True)
    assert (found.commits, found.branches, found.tags) == (2, 2, 1)
    assert found.stored_bytes > pack_bytes(repo) > 1_500_000
    assert found.unverified_bytes == pack_bytes(repo)
    assert found.disk_free_bytes <= os.statvfs(repo.path).f_bfree * os.statvfs(repo.path).f_frsize
    assert found.index_bytes < 10_000_000


def test_verified_packs_are_remembered(repo: ckstore.Repo) -> None:
    repo.commit({"model": weights(1)})
    verify(repo._repository, now_ns=NOW)
    assert status(repo._repository).unverified_bytes == pack_bytes(repo)
    verify(repo._repository, read_data=True, now_ns=NOW)
    found = status(repo._repository)
    assert (found.unverified_bytes, found.last_verified_ns) == (0, NOW)
    assert not any("verify" in step for step in found.next)
    before = pack_bytes(repo)
    repo.commit({"model": weights(2)})
    assert status(repo._repository).unverified_bytes == pack_bytes(repo) - before


def test_a_damaged_pack_is_not_verified(repo: ckstore.Repo) -> None:
    repo.commit({"model": weights(1)})
    repo.commit({"model": weights(2)})
    largest = max((repo.path / FOLDER / "packs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert not verify(repo._repository, read_data=True, now_ns=NOW).ok
    assert status(repo._repository).unverified_bytes == len(data)


def test_a_damaged_note_is_no_note(repo: ckstore.Repo) -> None:
    repo.commit({"x": 1})
    layout = repo._repository.store.layout
    for text in (b"", b"[]", b'{"zz": 1}', b'{"00": "x"}', b"\xff"):
        layout.verified.write_bytes(text)
        assert read_verified(layout) == {}
        assert status(repo._repository).unverified_bytes == pack_bytes(repo)


def test_du_counts_each_object_once(repo: ckstore.Repo) -> None:
    shared, own = weights(1), weights(2)
    repo.commit({"model": shared, "rng": b"x" * 5000})
    repo.commit({"model": shared, "rng": b"y" * 5000})
    repo.commit({"model": own}, branch="other")
    found = du(repo._repository, DuOptions(NOW))
    assert found.commits == 3
    assert found.raw_bytes == 3 * shared.nbytes + 10_000
    assert found.unreached_bytes == 0
    assert 0.9 * found.disk_bytes < found.stored_bytes < found.disk_bytes
    rows = {row.name: row for row in found.by_component}
    assert rows["model"].raw_bytes == 3 * shared.nbytes
    assert rows["rng"].commits == 2
    branches = {row.name: row for row in found.by_branch}
    assert branches["main"].commits == 2
    assert abs(branches["main"].own_bytes + branches["other"].own_bytes - found.stored_bytes) < 3000
    only = du(repo._repository, DuOptions(NOW, "other"))
    assert only.commits == 1
    assert only.stored_bytes == branches["other"].stored_bytes


def test_du_tells_what_nothing_reaches(repo: ckstore.Repo, tmp_path: Path) -> None:
    repo.commit({"model": weights(1)})
    repo.commit({"model": weights(2)}, branch="gone")
    before = du(repo._repository, DuOptions(NOW))
    repo.delete_branch("gone", force=True)
    after = du(repo._repository, DuOptions(NOW))
    assert after.unreached_bytes == before.stored_bytes - after.stored_bytes > 900_000


def test_doctor_finds_nothing_wrong(repo: ckstore.Repo) -> None:
    repo.commit({"x": 1})
    result = doctor(repo._repository, NOW)
    (passes,) = (check for check in result.checks if check.name == "passes")
    assert passes.state == ("warning" if compiled.KERNEL is None else "ok")
    assert result.ok
    states = {check.name: check.state for check in result.checks}
    assert set(states.values()) <= {"ok", "warning"}
    assert {"python", "zstandard", "repository", "file system", "lock", "space", "journal", "clock"} <= set(states)


def test_doctor_without_a_repository() -> None:
    result = doctor(None, NOW)
    assert result.ok
    assert result.checks[-1].hint == "ckstore init"


def test_doctor_tells_what_is_wrong(repo: ckstore.Repo) -> None:
    repo.commit({"x": 1})
    found = {check.name: check for check in doctor(repo._repository, 10**9).checks}
    assert found["clock"].state == "warning"
    holder = (
        "import sys; from pathlib import Path; from ckstore.repository import open_repository\n"
        "with open_repository(Path(sys.argv[1]), Path(sys.argv[2])) as repo, repo.store.locked():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", holder, str(repo.path), str(repo.path / "cache")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        lock = next(check for check in doctor(repo._repository, NOW).checks if check.name == "lock")
        assert lock.state == "warning"
        assert f"process {process.pid}" in lock.what
        process.communicate("")
    (segment,) = (repo.path / FOLDER / "journal").iterdir()
    segment.write_bytes(b"\0" * 100)
    assert not doctor(repo._repository, NOW).ok
