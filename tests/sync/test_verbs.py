"""The verbs: push, fetch, pull, clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Conflict, InvalidInput, NoRevision, NotFound
from ckstore.porcelain.clone import CloneOptions, CloneResult, clone
from ckstore.porcelain.fetch import FetchOptions, fetch
from ckstore.porcelain.prune import prune
from ckstore.porcelain.pull import PullOptions, pull
from ckstore.porcelain.push import PushOptions, push
from ckstore.repository import open_repository
from ckstore.sync.prune import PruneRequest
from tests.sync.places import Counting, counting, heads, objects_of, opened, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore

NOW = 10**18


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        for step in range(3):
            repo.commit(state(step), step=step)
        repo.tag("v1")
        yield repo


@pytest.fixture
def remote() -> Counting:
    return counting()


def pushed(repo: ckstore.Repo, remote: Counting, *refs: str, **more: object) -> list[str]:
    options = PushOptions("origin", NOW, refs, jobs=2, **more)  # type: ignore[arg-type]
    return [move.name for move in push(repo._repository, remote, options).moves]


def cloned(remote: Counting, folder: Path, **more: object) -> CloneResult:
    options = CloneOptions(NOW, jobs=2, **more)  # type: ignore[arg-type]
    cache = folder.parent / f"{folder.name}-cache"
    return clone(remote, folder, lambda path: open_repository(path, cache), options)


def test_a_clone_of_a_clone_equals_the_original(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    mine.commit(state(9, seed=9), branch="side", parent="HEAD~1")
    assert pushed(mine, remote, all_branches=True, tags=True) == ["heads/main", "heads/side", "tags/v1"]
    made = cloned(remote, tmp_path / "one", all_branches=True)
    assert (made.branch, made.commits, made.holes) == ("main", 4, 0)
    second = counting("second")
    with opened(tmp_path / "one") as one:
        assert one._repository.store.id == mine._repository.store.id
        pushed(one, second, all_branches=True, tags=True)
    cloned(second, tmp_path / "two", all_branches=True)
    with opened(tmp_path / "two") as two:
        assert objects_of(two) == objects_of(mine)
        assert heads(two) == heads(mine)
        assert two.verify(read_data=True).ok


def test_pull_goes_forward_and_never_merges(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    pushed(mine, remote)
    cloned(remote, tmp_path / "one")
    with opened(tmp_path / "one") as one:
        mine.commit(state(5), step=5)
        pushed(mine, remote)
        done = pull(one._repository, remote, PullOptions("origin", NOW))
        assert [move.name for move in done.moves] == ["remotes/origin/main", "heads/main"]
        assert heads(one)["heads/main"] == heads(mine)["heads/main"]
        assert pull(one._repository, remote, PullOptions("origin", NOW)).moves == ()
        one.commit(state(6), step=6)
        assert pull(one._repository, remote, PullOptions("origin", NOW)).moves == ()
        mine.commit(state(7), step=7)
        pushed(mine, remote)
        with pytest.raises(Conflict, match="both moved on"):
            pull(one._repository, remote, PullOptions("origin", NOW))
        with pytest.raises(Conflict, match="moved on"):
            pushed(one, remote)
        pull(one._repository, remote, PullOptions("origin", NOW, force=True))
        assert heads(one)["heads/main"] == heads(mine)["heads/main"]


def test_push_follows_the_remote_here(mine: ckstore.Repo, remote: Counting) -> None:
    pushed(mine, remote)
    refs = mine._repository.commits().refs
    assert refs["remotes/origin/main"] == refs["heads/main"]
    mine.branch("side")
    pushed(mine, remote, "side")
    assert pushed(mine, remote, "side", delete=True) == ["heads/side"]
    assert "remotes/origin/side" not in mine._repository.commits().refs


def test_what_is_no_branch_is_refused(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    with pytest.raises(NoRevision, match="mian"):
        pushed(mine, remote, "mian")
    with pytest.raises(InvalidInput, match="delete"):
        pushed(mine, remote, delete=True)
    with pytest.raises(NotFound, match="nothing yet"):
        cloned(remote, tmp_path / "one")
    pushed(mine, remote)
    with pytest.raises(NotFound, match="no branch"):
        cloned(remote, tmp_path / "one", branch="nope")
    with pytest.raises(NotFound, match="no branch"):
        fetch(mine._repository, remote, FetchOptions("origin", NOW, branches=("nope",)))
    with pytest.raises(InvalidInput, match="depth"):
        fetch(mine._repository, remote, FetchOptions("origin", NOW, depth=0))
    with pytest.raises(InvalidInput, match="has commits"):
        cloned(remote, tmp_path / "mine")
    with opened(tmp_path / "another") as another:
        another.commit(state(1))
    with pytest.raises(InvalidInput, match="another repository"):
        cloned(remote, tmp_path / "another")


def test_a_clone_that_failed_goes_on(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    pushed(mine, remote)
    name = next(one.name for one in remote.list("packs/"))
    held = remote.place.objects.pop(name)
    with pytest.raises(NotFound):
        cloned(remote, tmp_path / "one")
    remote.place.objects[name] = held
    cloned(remote, tmp_path / "one", only=("model",))
    with opened(tmp_path / "one") as one:
        assert len(one.log()) == 3
        assert sum(map(len, one._repository.absent().values())) == 3


def test_gc_of_a_remote(mine: ckstore.Repo, remote: Counting) -> None:
    pushed(mine, remote)
    mine.commit(state(1, seed=8), branch="side")
    pushed(mine, remote, "side")
    pushed(mine, remote, "side", delete=True)
    assert prune(mine._repository, remote, PruneRequest(0)).condemned
    assert prune(mine._repository, remote, PruneRequest(0)).deleted
