"""Repo.push, fetch and pull: URLs, paths, remotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Conflict, InvalidInput
from tests.sync.places import counting, objects_of, opened, state, twin

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore


def test_push_fetch_and_pull(tmp_path: Path, repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "remote").mkdir()
    monkeypatch.chdir(tmp_path)
    repo.commit(state(1), step=1)
    repo.tag("v1")
    pushed = repo.push("remote", all_branches=True, tags=True)
    assert pushed.url == (tmp_path / "remote").as_uri()
    assert [move.name for move in pushed.moves] == ["heads/main", "tags/v1"]
    with twin(tmp_path / "twin", repo) as other:
        assert other.fetch(pushed.url, only=["model"]).holes == 1
        assert other.pull("remote").branch == "main"
        assert other.log("main")[0].step == 1
        other.commit(state(2), step=2)
        other.push("remote")
        repo.commit(state(3), step=3)
        with pytest.raises(Conflict):
            repo.push("remote")
        with pytest.raises(Conflict):
            repo.pull("remote")
        repo.push("remote", force=True)
    place = counting()
    repo.push(place)
    with opened(tmp_path / "third") as third:
        third.pull(place)
        assert objects_of(third) == objects_of(repo)
    with pytest.raises(InvalidInput):
        repo.push("nowhere://x")
