"""push and fetch over a remote in memory: everything arrives, once, and in few requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Conflict, Integrity, NotFound, RemoteFailed
from ckstore.remote.root import decode_root
from ckstore.storage.layout import Layout, read_format
from ckstore.storage.record import RefMove
from ckstore.sync.fill import FillRequest, fill
from ckstore.sync.push import PushRequest, push
from tests.committed import put_refs
from tests.sync.places import Counting, counting, fetch_all, heads, local, objects_of, opened, push_all, state, twin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        for step in range(3):
            repo.commit(state(step), step=step)
        yield repo


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "other") as repo:
        yield repo


@pytest.fixture
def remote() -> Counting:
    return counting()


def test_what_was_pushed_can_be_fetched(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    mine.tag("v1", "HEAD~1")
    pushed = push_all(mine, remote)
    assert [move.name for move in pushed.moves] == ["heads/main", "tags/v1"]
    fetched = fetch_all(other, remote)
    assert fetched.commits == 3
    assert fetched.head == "main"
    assert objects_of(other) == objects_of(mine)
    assert {name.split("/", 1)[1]: id for name, id in other._repository.commits().refs.items()} == {
        "origin/main": heads(mine)["heads/main"],
        "v1": heads(mine)["tags/v1"],
    }
    assert other.verify(read_data=True).ok


def test_nothing_to_do_takes_one_request(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    push_all(mine, remote)
    fetch_all(other, remote)
    remote.reset()
    assert push_all(mine, remote).moves == ()
    assert remote.requests == ["root"]
    assert fetch_all(other, remote).moves == ()
    assert remote.requests == ["root", "root"]


def test_an_incremental_push_sends_little_more_than_what_is_new(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Counting
) -> None:
    for step in range(3, 6):
        mine.commit(state(step, size=1_000_000), step=step)
    push_all(mine, remote)
    before = mine._repository.store.ask(lambda view: {place.frame.id for place in view.locations()})
    mine.commit(state(6, size=1_000_000), step=6)
    new = mine._repository.store.ask(
        lambda view: [place.frame for place in view.locations() if place.frame.id not in before]
    )
    assert any(frame.version for frame in new)  # some are deltas
    remote.reset()
    pushed = push_all(mine, remote)
    stored = sum(frame.stored_length + 104 for frame in new)
    assert pushed.objects == len(new)
    assert remote.sent_bytes <= 1.02 * stored
    packs = sum(request.startswith("put packs/") for request in remote.requests)
    assert len(remote.requests) <= packs + 4
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)


def test_segments_are_merged_and_everything_is_still_found(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Counting
) -> None:
    for step in range(3, 24):
        mine.commit(state(step, size=300), step=step)
        push_all(mine, remote)
    root = remote.read_root()
    assert root is not None
    contents = decode_root(root.data)
    assert [pointer.level for pointer in contents.segments] == [1, 1, *[0] * 5]
    assert contents.generation == 21
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)


def test_who_is_behind_gets_a_conflict_and_force_goes_over_it(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Counting
) -> None:
    push_all(mine, remote)
    fetch_all(other, remote)
    put_refs(other, 1, RefMove("heads/main", None, other._repository.commits().refs["remotes/origin/main"]))
    other.commit(state(10), step=10)
    mine.commit(state(20), step=20)
    push_all(other, remote)
    with pytest.raises(Conflict, match="pull"):
        push_all(mine, remote)
    root = remote.read_root()
    assert root is not None
    assert decode_root(root.data).refs[0].commit == heads(other)["heads/main"]
    pushed = push_all(mine, remote, force=True)
    assert pushed.moves[0].forced
    fetch_all(other, remote)
    assert other._repository.commits().refs["remotes/origin/main"] == heads(mine)["heads/main"]
    assert objects_of(other, prefix="remotes/") == objects_of(mine)


def test_a_ref_can_be_deleted_and_pruned(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    mine.branch("side")
    push_all(mine, remote)
    fetch_all(other, remote)
    push(remote, local(mine), PushRequest({"heads/side": None}, jobs=1))
    fetch_all(other, remote)
    assert "remotes/origin/side" in other._repository.commits().refs
    fetch_all(other, remote, prune=True)
    assert "remotes/origin/side" not in other._repository.commits().refs


def test_another_repository_is_refused(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    push_all(mine, remote)
    other.commit(state(1, seed=9))
    with pytest.raises(RemoteFailed, match="another repository"):
        push_all(other, remote)
    with pytest.raises(RemoteFailed, match="another repository"):
        fetch_all(other, remote)
    fetch_all(other, remote, foreign=True)
    assert objects_of(other, prefix="remotes/") == objects_of(mine)
    fetch_all(other, remote)  # known by now


def test_an_older_root_is_an_alarm(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    push_all(mine, remote)
    older = remote.place.root
    mine.commit(state(5))
    push_all(mine, remote)
    fetch_all(other, remote)
    remote.place.root = older
    for again in (lambda: fetch_all(other, remote), lambda: push_all(mine, remote)):
        with pytest.raises(Integrity, match="older"):
            again()
    remote.place.root = None
    with pytest.raises(Integrity, match="older"):
        fetch_all(other, remote)
    remote.place.root = older
    fetch_all(other, remote, older=True)
    fetch_all(other, remote)


def test_an_empty_remote_holds_nothing(other: ckstore.Repo, remote: Counting) -> None:
    with pytest.raises(NotFound, match="nothing yet"):
        fetch_all(other, remote)


def test_what_is_left_out_becomes_holes_and_can_be_filled(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Counting
) -> None:
    push_all(mine, remote)
    fetch_all(other, remote, only=["model"])
    absent = other._repository.absent()
    assert sorted(reason for one in absent.values() for reason in one.items()) == [("optimizer", "not fetched")] * 3
    assert other.verify(read_data=True).ok
    fill(remote, local(other), FillRequest([(id, name) for id, one in absent.items() for name in one], 1, jobs=1))
    assert other._repository.absent() == {}
    assert objects_of(other) == objects_of(mine)


@pytest.mark.parametrize(
    ("options", "whole"), [({"depth": 1}, 1), ({"depth": 2}, 2), ({"metadata": True}, 0), ({"depth": 9}, 3)]
)
def test_depth_and_metadata_leave_commits_whole(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Counting, options: dict[str, object], whole: int
) -> None:
    push_all(mine, remote)
    fetch_all(other, remote, **options)
    assert len(other.log("origin/main")) == 3
    holes = other._repository.absent()
    assert len(holes) == 3 - whole
    assert other.verify(read_data=True).ok


def test_holes_travel_and_are_not_filled_unasked(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    push_all(mine, remote)
    second = counting("second")
    with twin(tmp_path / "other", mine) as other:
        fetch_all(other, remote, only=["model"])
        request = PushRequest({"heads/main": other._repository.commits().refs["remotes/origin/main"]}, jobs=1)
        assert push(second, local(other), request).holes == 3
    push_all(mine, second)
    with opened(tmp_path / "third") as third:
        fetch_all(third, second)
        assert sum(map(len, third._repository.absent().values())) == 3
    filled = push_all(mine, second, fill=True)
    assert filled.filled == 3
    with opened(tmp_path / "fourth") as fourth:
        fetch_all(fourth, second)
        assert objects_of(fourth) == objects_of(mine)


def test_a_dry_run_changes_nothing(mine: ckstore.Repo, other: ckstore.Repo, remote: Counting) -> None:
    planned = push_all(mine, remote, dry_run=True)
    assert remote.requests == ["root"]
    done = push_all(mine, remote)
    assert (planned.objects, planned.stored_bytes, planned.packs) == (done.objects, done.stored_bytes, done.packs)
    planned_fetch = fetch_all(other, remote, dry_run=True)
    assert other._repository.commits().refs == {}
    assert planned_fetch.objects == fetch_all(other, remote).objects == done.objects


def test_the_ids_stay_apart(mine: ckstore.Repo, other: ckstore.Repo) -> None:
    assert read_format(Layout(mine._repository.store.layout.root)) != other._repository.store.id
