"""Branches and tags: listed, made, moved, renamed, deleted; what is refused, and what another did meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ckstore
from ckstore.checkpoint.refs import RefChange, RefsMoved, move_refs
from ckstore.errors import Conflict, InvalidInput, NoRevision, SaveFailed
from ckstore.porcelain.branch import (
    BranchOptions,
    DeleteBranchOptions,
    RenameBranchOptions,
    create_branch,
    delete_branch,
    list_branches,
    rename_branch,
)
from ckstore.porcelain.tag import DeleteTagOptions, TagOptions, create_tag, delete_tag, list_tags
from ckstore.storage.record import RefMove
from tests.committed import put_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckstore.repository import Repository

BAD_NAMES = ["", "a b", "-a", "a..b", "HEAD", "last", "a~1", "x" * 300, "\ud800", "a:b"]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """Two commits on main, the current branch, and one on side."""
    with ckstore.open(tmp_path / "repo", threads=1) as repo:
        repo.commit({"n": 1}, message="first\nand more", step=10)
        repo.commit({"n": 2}, message="second", step=20)
        repo.commit({"n": 3}, message="apart", branch="side")
        yield repo


def moved(name: str, old: str | None, new: str | None) -> tuple[RefChange, ...]:
    return (RefChange(name, old, new),)


def test_listing(filled: ckstore.Repo) -> None:
    filled.tag("v1", "main~1")
    main, side = list_branches(filled._repository)
    assert (main.name, main.id, main.step, main.message, main.is_current) == (
        "main", filled.branches["main"], 20, "second", True,
    )  # fmt: skip
    assert (side.name, side.step, side.message, side.is_current) == ("side", None, "apart", False)
    (tag,) = list_tags(filled._repository)
    info = filled["v1"].info
    assert (tag.name, tag.id, tag.step, tag.time_ns, tag.message) == ("v1", info.id, 10, info.time_ns, "first")


def test_nothing_to_list(repo: ckstore.Repo) -> None:
    assert list_branches(repo._repository) == list_tags(repo._repository) == ()


def test_what_cannot_be_read_is_listed_too(filled: ckstore.Repo) -> None:
    lost = bytes(range(32))
    put_refs(filled, 0, RefMove("heads/lost", None, lost), RefMove("tags/lost", None, lost))
    branch = next(one for one in list_branches(filled._repository) if one.name == "lost")
    assert (branch.id, branch.step, branch.time_ns, branch.message) == (lost.hex(), None, None, None)
    assert list_tags(filled._repository)[0].id == lost.hex()


def test_a_branch_is_made_where_it_was_asked_for(filled: ckstore.Repo) -> None:
    first = filled["main~1"].id
    made = filled.branch("new", "main~1")
    assert made == RefsMoved(moved("heads/new", None, first), made.record)
    assert made.record == filled.reflog().entries[0].seq
    assert filled.branches["new"] == first
    assert filled.head == "main"
    assert filled.branch("topic/x").moves == moved("heads/topic/x", None, filled.branches["main"])
    assert [entry.reason for entry in filled.reflog(limit=2).entries] == ["branch", "branch"]


def test_a_tag_stays_unless_forced(filled: ckstore.Repo) -> None:
    first, second = filled["main~1"].id, filled["main"].id
    assert filled.tag("v1").moves == moved("tags/v1", None, second)
    with pytest.raises(InvalidInput, match="'v1' is taken, by") as caught:
        filled.tag("v1", "main~1")
    assert "--force" in str(caught.value.hint)
    assert filled.tags == {"v1": second}
    assert filled.tag("v1", "main~1", force=True).moves == moved("tags/v1", second, first)
    again = filled.tag("v1", first, force=True)
    assert again == RefsMoved((), None)
    assert filled.delete_tag("v1").moves == moved("tags/v1", first, None)
    assert filled.tags == {}
    assert filled[first].load() == {"n": 1}
    assert [entry.reason for entry in filled.reflog("v1").entries] == ["delete tag", "tag", "tag"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_cannot_be(filled: ckstore.Repo, name: str) -> None:
    before = filled.reflog().entries
    for call in (filled.branch, filled.tag, lambda name: filled.rename_branch("side", name)):
        with pytest.raises(InvalidInput, match="cannot name"):
            call(name)
    assert filled.reflog().entries == before


def test_what_is_taken_or_not_there(filled: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match="the branch 'side' is taken"):
        filled.branch("side")
    with pytest.raises(InvalidInput, match="the branch 'side' is taken"):
        filled.rename_branch("main", "side")
    with pytest.raises(InvalidInput, match="the branch 'main' is taken"):
        filled.rename_branch("main", "main")
    with pytest.raises(NoRevision):
        filled.branch("new", "nowhere")
    filled.tag("v1")
    for call, wanted, hint in (
        (filled.delete_branch, "sied", "did you mean side?"),
        (lambda name: filled.rename_branch(name, "new"), "sied", "did you mean side?"),
        (filled.delete_tag, "v2", "did you mean v1?"),
        (filled.delete_tag, "qqqq", "`ckstore tag` lists them"),
        (filled.delete_branch, "qqqq", "`ckstore branch` lists them"),
    ):
        with pytest.raises(NoRevision) as caught:
            call(wanted)
        assert caught.value.hint == hint


def test_a_branch_and_a_tag_may_have_one_name(filled: ckstore.Repo) -> None:
    filled.tag("side", "main")
    filled.delete_branch("side", force=True)
    assert filled["side"].id == filled["main"].id


# Deleting


def test_the_current_branch_is_not_deleted(filled: ckstore.Repo) -> None:
    filled.tag("keep")
    for force in (False, True):
        with pytest.raises(InvalidInput, match="'main' is the current branch") as caught:
            filled.delete_branch("main", force=force)
        assert "ckstore checkout" in str(caught.value.hint)
    filled.switch("side")
    filled.delete_branch("main")
    assert sorted(filled.branches) == ["side"]


def test_a_tip_that_nothing_else_reaches(filled: ckstore.Repo) -> None:
    tip = filled.branches["side"]
    with pytest.raises(InvalidInput, match="no other branch or tag reaches") as caught:
        filled.delete_branch("side")
    assert "--force" in str(caught.value.hint)
    assert filled.delete_branch("side", force=True).moves == moved("heads/side", tip, None)
    assert filled[tip].load() == {"n": 3}


@pytest.mark.parametrize("keep", ["tag", "branch", "child", "merge below"])
def test_a_tip_that_something_else_reaches(filled: ckstore.Repo, keep: str) -> None:
    tip = filled.branches["side"]
    if keep == "tag":
        filled.tag("kept", "side")
    elif keep == "branch":
        filled.branch("kept", "side")
    else:
        filled.commit({"n": 4}, branch="kept", parent="side")
        if keep == "merge below":
            filled.commit({"n": 5}, branch="kept")
    filled.delete_branch("side")
    assert "side" not in filled.branches
    assert filled[tip].load() == {"n": 3}


def test_an_ancestor_is_reached_but_a_descendant_is_not(filled: ckstore.Repo) -> None:
    filled.branch("behind", "main~1")
    filled.commit({"n": 9}, branch="ahead", parent="main")
    filled.delete_branch("behind")
    with pytest.raises(InvalidInput, match="no other branch or tag reaches"):
        filled.delete_branch("ahead")


# Renaming


def test_renaming_takes_head_along(filled: ckstore.Repo) -> None:
    tip = filled.branches["main"]
    result = filled.rename_branch("main", "trunk")
    assert result.moves == (
        RefChange("heads/trunk", None, tip),
        RefChange("heads/main", tip, None),
        RefChange("HEAD", "heads/main", "heads/trunk"),
    )
    assert len({entry.seq for entry in filled.reflog(limit=3).entries}) == 1
    assert (filled.head, sorted(filled.branches)) == ("trunk", ["side", "trunk"])
    filled.commit({"n": 4})
    assert filled["trunk~1"].id == tip


def test_renaming_another_leaves_head(filled: ckstore.Repo) -> None:
    assert len(filled.rename_branch("side", "apart").moves) == 2
    assert (filled.head, sorted(filled.branches)) == ("main", ["apart", "main"])


def test_renaming_a_branch_without_commits(repo: ckstore.Repo) -> None:
    assert repo.rename_branch("main", "trunk").moves == (RefChange("HEAD", "heads/main", "heads/trunk"),)
    repo.commit({"n": 1})
    assert sorted(repo.branches) == ["trunk"]
    with pytest.raises(NoRevision):
        repo.rename_branch("main", "x")


# Others at work


def verbs(repository: Repository) -> dict[str, Callable[[], RefsMoved]]:
    return {
        "branch": lambda: create_branch(repository, BranchOptions("new", 0)),
        "delete branch": lambda: delete_branch(repository, DeleteBranchOptions("side", 0, force=True)),
        "rename branch": lambda: rename_branch(repository, RenameBranchOptions("side", "new", 0)),
        "tag": lambda: create_tag(repository, TagOptions("v1", 0, "side", force=True)),
        "delete tag": lambda: delete_tag(repository, DeleteTagOptions("v1", 0)),
    }


@pytest.mark.parametrize("verb", ["branch", "delete branch", "rename branch", "tag", "delete tag"])
def test_another_was_faster(filled: ckstore.Repo, tmp_path: Path, verb: str) -> None:
    """What a verb would do, once another has done the same: a refusal, and nothing moves."""
    filled.tag("v1")
    repository = filled._repository
    before = repository.commits().targets
    with ckstore.open(filled.path, index="cache", cache=tmp_path / "other", threads=1) as other:
        done = verbs(other._repository)[verb]().moves
    after = repository.commits().targets
    planned = [RefMove(one.name, before.get(one.name), after.get(one.name)) for one in done]
    with pytest.raises(Conflict, match="was moved by another writer") as caught:
        move_refs(repository, verb, 0, planned)
    assert caught.value.retryable
    assert "reflog" in str(caught.value.hint)
    assert repository.commits().targets == after


@pytest.mark.parametrize("verb", ["branch", "delete branch", "rename branch", "tag", "delete tag"])
def test_nothing_moves_in_a_read_only_repository(filled: ckstore.Repo, verb: str) -> None:
    filled.tag("v1")
    before = filled._repository.commits().targets
    filled._repository.store.may_write = False
    with pytest.raises(SaveFailed, match="read-only"):
        verbs(filled._repository)[verb]()
    assert filled._repository.commits().targets == before


def test_all_moves_or_none(filled: ckstore.Repo) -> None:
    tips = {name: bytes.fromhex(id) for name, id in filled.branches.items()}
    moves = [RefMove("heads/new", None, tips["main"]), RefMove("heads/side", tips["main"], None)]
    with pytest.raises(Conflict, match="heads/side"):
        move_refs(filled._repository, "test", 0, moves)
    assert sorted(filled.branches) == ["main", "side"]
