"""Pins: made, listed, taken away; what they are not, and what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import ckstore
from ckstore.checkpoint.refs import RefChange, RefsMoved, move_refs
from ckstore.cli.main import app
from ckstore.errors import Conflict, InvalidInput, NoRevision
from ckstore.graph.policy_text import parse_policies
from ckstore.graph.reached import reached
from ckstore.graph.retention import decide
from ckstore.porcelain.pin import PinOptions, list_pins, pin, unpin
from ckstore.storage.record import RefMove
from tests.written import refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """Three commits on main."""
    with ckstore.open(tmp_path / "repo", threads=1) as repo:
        for step in (1, 2, 3):
            repo.commit({"n": step}, message=f"step {step}", step=step)
        yield repo


def test_a_pin_is_a_ref_of_its_own_kind(filled: ckstore.Repo) -> None:
    id = filled["step:1"].id
    made = filled.pin("step:1")
    assert made == RefsMoved((RefChange(f"pins/{id[:12]}", None, id),), made.record)
    assert filled.pins == [id]
    assert (filled.tags, list(filled.branches)) == ({}, ["main"])
    (info,) = list_pins(filled._repository)
    assert (info.name, info.id, info.step, info.message) == (id[:12], id, 1, "step 1")
    assert filled.log(id)[0].tags == filled.log(id)[0].branches == ()
    assert [entry.reason for entry in filled.reflog(limit=1).entries] == ["pin"]
    assert filled.pin("step:1") == RefsMoved((), None)
    assert filled.pin().moves[0].new == filled["HEAD"].id


def test_unpinning(filled: ckstore.Repo) -> None:
    id = filled["step:1"].id
    filled.pin("step:1")
    gone = filled.unpin(id[:8])
    assert gone.moves == (RefChange(f"pins/{id[:12]}", id, None),)
    assert filled.pins == []
    error = refused(lambda: filled.unpin("step:1"), NoRevision, match="'step:1' is not pinned")
    assert error.hint == "`ckstore pin` lists what is"
    with pytest.raises(NoRevision):
        filled.unpin("nosuch")
    with pytest.raises(NoRevision):
        filled.pin("nosuch")
    filled.undo()
    assert filled.pins == [id]


def test_a_dry_run_moves_nothing(filled: ckstore.Repo) -> None:
    said = pin(filled._repository, PinOptions("HEAD", 0, dry_run=True))
    assert said.record is None
    assert len(said.moves) == 1
    assert filled.pins == []
    filled.pin()
    assert len(unpin(filled._repository, PinOptions("HEAD", 0, dry_run=True)).moves) == 1
    assert len(filled.pins) == 1


def test_what_is_pinned_stays_reachable(filled: ckstore.Repo) -> None:
    id = filled["HEAD"].id
    filled.pin()
    filled.commit({"n": 9}, branch="other")
    filled.switch("other")
    filled.delete_branch("main")
    assert id in [info.id for info in filled.log(all=True)]
    assert filled["step:2"].info.step == 2
    assert filled.verify(read_data=True).commits == 4


def test_a_pin_holds_a_commit_whole(filled: ckstore.Repo) -> None:
    filled.pin("step:1")
    commits = filled._repository.commits()
    found = reached(commits.refs, None, commits.read_commit)
    decisions = decide(found, parse_policies("last=1 n:last=1", {}), 10**18, commits.metric_mode)
    said = {one.id.hex(): (one.is_kept, one.reasons[0], dict(one.dropped_components)) for one in decisions.commits}
    assert said[filled["step:1"].id] == (True, "pinned", {})
    assert said[filled["step:2"].id][0] is False
    filled.unpin("step:1")
    commits = filled._repository.commits()
    found = reached(commits.refs, None, commits.read_commit)
    decisions = decide(found, parse_policies("last=1 n:last=1", {}), 10**18, commits.metric_mode)
    assert [one.id.hex() for one in decisions.kept] == [filled["HEAD"].id]


def test_two_commits_whose_ids_begin_alike(filled: ckstore.Repo) -> None:
    id, other = filled["HEAD"].id, filled["step:1"].id
    move_refs(filled._repository, "test", 0, [RefMove(f"pins/{id[:12]}", None, bytes.fromhex(other))])
    refused(filled.pin, InvalidInput, match="another commit is pinned as")
    assert filled.unpin("step:1").moves[0].name == f"pins/{id[:12]}"


def test_another_moves_it_meanwhile(filled: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled._repository.commits()
    filled.pin()
    monkeypatch.setattr(filled._repository, "commits", lambda: before)
    refused(filled.pin, Conflict)


def test_commands(filled: ckstore.Repo) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        ran = CliRunner().invoke(app, ["-C", str(filled.path), *arguments])
        assert ran.exit_code == code, ran.output
        return ran.stdout

    id = filled["step:2"].id
    assert run("pin") == "Nothing is pinned.\n"
    assert run("pin", "step:2", "--dry-run") == f"Would move pins/{id[:12]}: (none) -> {id[:12]}\n"
    assert run("pin", "step:2") == f"pins/{id[:12]}: (none) -> {id[:12]}\n"
    assert run("pin", "step:2") == "Nothing had to move.\n"
    assert run("pin").split()[:3] == [id[:12], "step", "2"]
    assert json.loads(run("pin", "--json"))["result"][0]["id"] == id
    assert run("unpin", "step:2") == f"pins/{id[:12]}: {id[:12]} -> (none)\n"
