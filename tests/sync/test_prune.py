"""gc of a remote: what nothing needs goes after the grace, by the server's clock, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Format, Integrity, InvalidInput, NotFound
from ckstore.remote.memory import MemoryPlace
from ckstore.remote.root import decode_root
from ckstore.remote.source import Buffers
from ckstore.sync.prune import PruneRequest, prune
from ckstore.sync.push import PushRequest, push
from tests.sync.made import segment_of
from tests.sync.places import Counting, fetch_all, heads, local, objects_of, opened, push_all, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore

HOUR = 3600 * 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 10**18

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote(clock: Clock) -> Counting:
    return Counting(MemoryPlace("origin", clock))


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        repo.commit(state(1), step=1)
        repo.commit(state(1, seed=5), branch="side")
        yield repo


def names(remote: Counting) -> set[str]:
    return {one.name for one in remote.list("")}


def test_what_a_deleted_branch_needed_goes_after_the_grace(
    tmp_path: Path, mine: ckstore.Repo, remote: Counting, clock: Clock
) -> None:
    push(remote, local(mine), PushRequest({"heads/main": heads(mine)["heads/main"]}, jobs=1))
    alone = {name for name in names(remote) if name.startswith("packs/")}
    push_all(mine, remote)
    everything = names(remote)
    push(remote, local(mine), PushRequest({"heads/side": None}, jobs=1))
    planned = prune(remote, local(mine), PruneRequest(HOUR, dry_run=True))
    done = prune(remote, local(mine), PruneRequest(HOUR))
    assert planned.condemned == done.condemned > 0
    assert done.deleted == 0
    assert everything <= names(remote)
    clock.now += HOUR // 2
    assert prune(remote, local(mine), PruneRequest(HOUR)).deleted == 0
    clock.now += HOUR
    assert prune(remote, local(mine), PruneRequest(HOUR)).deleted == done.condemned
    assert {name for name in names(remote) if name.startswith("packs/")} == alone
    with opened(tmp_path / "other") as other:
        fetch_all(other, remote)
        assert objects_of(other) == objects_of(mine, prefix="heads/main")


def test_it_comes_to_rest(mine: ckstore.Repo, remote: Counting, clock: Clock) -> None:
    push_all(mine, remote)
    push(remote, local(mine), PushRequest({"heads/side": None}, jobs=1))
    for _ in range(4):
        prune(remote, local(mine), PruneRequest(HOUR))
        clock.now += 2 * HOUR
    remote.reset()
    assert prune(remote, local(mine), PruneRequest(HOUR)).condemned == 0
    assert not any(request.startswith(("put", "swap", "delete")) for request in remote.requests)


def test_strays_go_once_they_are_old(mine: ckstore.Repo, remote: Counting, clock: Clock) -> None:
    push_all(mine, remote)
    remote.put("packs/" + "ab" * 16, Buffers(b"given up"))
    assert prune(remote, local(mine), PruneRequest(HOUR)).condemned == 0
    clock.now += HOUR
    assert prune(remote, local(mine), PruneRequest(HOUR)).condemned == 1
    clock.now += HOUR
    assert prune(remote, local(mine), PruneRequest(HOUR)).deleted == 1
    assert "packs/" + "ab" * 16 not in names(remote)


def test_components_can_be_dropped(tmp_path: Path, mine: ckstore.Repo, remote: Counting, clock: Clock) -> None:
    push_all(mine, remote)
    main = heads(mine)["heads/main"]
    assert main is not None
    with pytest.raises(InvalidInput):
        prune(remote, local(mine), PruneRequest(HOUR, holes=[(main, "nothing", "dropped")]))
    assert prune(remote, local(mine), PruneRequest(HOUR, holes=[(main, "optimizer", "dropped")])).holes == 1
    with opened(tmp_path / "other") as other:
        fetch_all(other, remote)
        assert other._repository.absent() == {main: {"optimizer": "dropped"}}
    assert prune(remote, local(mine), PruneRequest(HOUR)).holes == 0
    clock.now += HOUR


def test_where_something_is_missing_nothing_goes(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    push_all(mine, remote)
    push(remote, local(mine), PushRequest({"heads/side": None}, jobs=1))
    before = remote.place.root
    assert before is not None
    pointer = decode_root(before.data).segments[0]
    _, data, _ = segment_of(range(3))
    held = remote.place.objects[pointer.name]
    for damaged in (data, held.data[:-1], bytes(len(held.data))):
        remote.place.objects[pointer.name] = held._replace(data=damaged)
        with opened(tmp_path / "other") as other, pytest.raises((Integrity, Format)):
            prune(remote, local(other), PruneRequest(0))
    remote.place.objects[pointer.name] = held
    for one in list(remote.list("packs/")):
        gone = remote.place.objects.pop(one.name)
        with opened(tmp_path / "other") as other, suppress(NotFound):  # what is only data is not looked at
            prune(remote, local(other), PruneRequest(0, dry_run=True))
        remote.place.objects[one.name] = gone
    assert remote.place.root == before
