"""gc: what goes, what stays, and that what stays reads back bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckstore.errors import CkstoreError
from ckstore.porcelain.gc import GcOptions, GcResult, gc
from tests.indexed import indexed

if TYPE_CHECKING:
    import ckstore


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
    return gc(repo._repository, GcOptions(repo_now(), policies, **options))


def repo_now() -> int:
    import time

    return time.time_ns()


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
