"""Eight processes push to one folder: to a branch each, and all to one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import ckstore
from ckstore.digest import Kind
from tests.commands import run_code
from tests.sync.places import objects_of

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8

PUSHER = """
import sys
from pathlib import Path
import ckstore

folder, number, branch = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
mine = folder / f"mine-{number}"
cache = folder / f"cache-{number}"
ckstore.clone(folder / "remote", mine, cache=cache)
with ckstore.open(mine, cache=cache, threads=1) as repo:
    while True:
        made = repo.commit({"w": bytes([number]) * 100_000}, branch=branch, message=f"from {number}", parent=None)
        try:
            repo.push(refs=branch, jobs=2)
        except ckstore.Conflict:
            repo.pull(branches=branch, force=True)
        else:
            break
print(made.id)
"""


@pytest.mark.parametrize("branches", [1, PROCESSES])
def test_many_push_at_once(tmp_path: Path, branches: int) -> None:
    with ckstore.open(tmp_path / "first", cache=tmp_path / "cache", threads=1) as first:
        first.commit({"w": b"0" * 1000})
        first.add_remote("origin", tmp_path / "remote")
        first.push()
    with ThreadPoolExecutor(PROCESSES) as pool:
        ran = pool.map(lambda number: _pushed(tmp_path, number, branches), range(PROCESSES))
        acknowledged = {bytes.fromhex(one) for one in ran}
    made = tmp_path / "last"
    ckstore.clone(tmp_path / "remote", made, cache=tmp_path / "cache")
    with ckstore.open(made, cache=tmp_path / "cache", threads=1) as repo:
        found = objects_of(repo)
        assert acknowledged <= {id for id in found if _is_commit(repo, id)}
        log = repo.log("main")
        assert len(log) == (1 + PROCESSES if branches == 1 else 1)
        assert all(len(one.parents) <= 1 for one in log)
        assert repo.verify(read_data=True).ok


def _pushed(folder: Path, number: int, branches: int) -> str:
    """What one of them made and pushed."""
    ran = run_code(PUSHER, folder, number, f"b{number}" if branches > 1 else "main")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def _is_commit(repo: ckstore.Repo, id: bytes) -> bool:
    place = repo._repository.store.objects.locate(id)
    return place is not None and place.frame.kind is Kind.COMMIT
