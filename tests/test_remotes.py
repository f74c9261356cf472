"""Remotes as people use them: add, push, fetch, pull, clone, between repositories and through every kind of store."""

from __future__ import annotations

import hashlib
import os
import time
import tomllib
import uuid
from typing import TYPE_CHECKING

import pytest

import ckstore
from ckstore.cli.main import _exit_code
from ckstore.errors import (
    Absent,
    Auth,
    CkstoreError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoRevision,
    NotFound,
    RemoteFailed,
)
from ckstore.remote.connect import connect
from ckstore.remote.root import Contents, decode_root, encode_root
from ckstore.remote.sealed import Sealing
from tests.sync.places import objects_of, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.fixtures import S3Server


class Users:
    """Repositories of several people in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, ckstore.Repo] = {}

    def open(self, name: str) -> ckstore.Repo:
        if name not in self._open:
            cache = self.folder / f"{name}-cache"
            self._open[name] = ckstore.open(self.folder / name, cache=cache, threads=1)
        return self._open[name]

    def clone(self, url: str | Path, name: str, **more: object) -> ckstore.Repo:
        cache = self.folder / f"{name}-cache"
        ckstore.clone(url, self.folder / name, cache=cache, **more)  # type: ignore[arg-type]
        return self.open(name)

    def close(self) -> None:
        for repo in self._open.values():
            repo.close()


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    found = Users(tmp_path)
    yield found
    found.close()


@pytest.fixture
def mine(users: Users) -> ckstore.Repo:
    """A repository with three commits, of which the second has a tag."""
    repo = users.open("mine")
    for step in range(3):
        repo.commit(state(step), step=step)
    repo.tag("v1", "HEAD~1")
    return repo


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place of each kind."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return server.url(server.bucket(), "some/runs")
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")


def refs(repo: ckstore.Repo) -> dict[str, bytes]:
    return {name: id for name, id in repo._repository.commits().refs.items() if name.startswith(("heads/", "tags/"))}


def files(folder: Path) -> dict[str, str]:
    """What is in a folder: the digest of each file, for finding out what has been touched."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


# Round trips


def test_a_clone_of_a_clone_equals_the_original(mine: ckstore.Repo, users: Users, place: str, tmp_path: Path) -> None:
    mine.branch("low-lr", "HEAD~2")
    added = mine.add_remote("origin", place)
    assert added.report is not None
    assert (added.report.can_pull, added.report.can_push, added.report.can_gc) == (True, True, True)
    pushed = mine.push(all=True)
    assert [move.name for move in pushed.moves] == ["heads/low-lr", "heads/main", "tags/v1"]
    first = users.clone(added.remote.url, "first")
    assert first.head == "main"
    first.add_remote("second", tmp_path / "second-store")
    first.push("second", all=True)
    second = users.clone(tmp_path / "second-store", "second")
    assert refs(second) == refs(first) == refs(mine)
    assert objects_of(second) == objects_of(first) == objects_of(mine)
    assert second.verify(read_data=True).ok
    assert second._repository.store.id == mine._repository.store.id


def test_back_and_forth(mine: ckstore.Repo, users: Users, place: str) -> None:
    url = mine.add_remote("origin", place).remote.url
    mine.push()
    other = users.clone(url, "other")
    made = other.commit(state(3), step=3)
    assert other["origin/main"].info.step == 2
    assert other.push().objects > 0
    assert other["origin/main"].id == made.id
    pulled = mine.pull()
    assert [(move.name, move.new) for move in pulled.branches] == [("heads/main", made.id)]
    assert mine["main"].id == mine["origin/main"].id == made.id
    assert pulled.fetched.commits == 1
    again = mine.pull()
    assert (again.branches, again.fetched.moves, again.fetched.requests) == ((), (), 1)
    assert mine.push().requests == 1


def test_what_is_not_named_is_the_current_branch(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.switch("low-lr", create=True)
    assert [move.name for move in mine.push().moves] == ["heads/low-lr"]
    assert [move.name for move in mine.push(tags=True).moves] == ["tags/v1"]
    assert [move.name for move in mine.push(refs="main").moves] == ["heads/main"]
    mine.switch("HEAD~1")
    with pytest.raises(InvalidInput, match="on no branch"):
        mine.push()
    with pytest.raises(InvalidInput, match="on no branch"):
        mine.pull()
    with pytest.raises(NoRevision, match="no branch or tag 'mian'") as raised:
        mine.push(refs=["mian"])
    assert raised.value.hint == "did you mean main?"
    other = users.clone(tmp_path / "store", "other")
    assert other.head == "low-lr"
    assert sorted(other.branches) == ["low-lr", "main"]


def test_a_branch_that_is_not_here_yet_is_made_by_pull(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    other = users.clone(tmp_path / "store", "other")
    mine.branch("low-lr", "HEAD~1")
    mine.push(all=True)
    assert [move.name for move in other.pull(branches="low-lr").branches] == ["heads/low-lr"]
    mine.branch("high-lr", "HEAD~1")
    mine.push(all=True)
    pulled = other.pull(all=True)
    assert [move.name for move in pulled.branches] == ["heads/high-lr"]
    assert refs(other) == refs(mine)
    with pytest.raises(NotFound, match="no branch 'low'"):
        other.pull(branches="low")


# Trying first


def test_a_dry_run_sends_nothing_and_moves_nothing(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    before = files(tmp_path / "store"), files(tmp_path / "mine")
    said = mine.push(all=True, dry_run=True)
    assert (files(tmp_path / "store"), files(tmp_path / "mine")) == before
    done = mine.push(all=True)
    assert (said.moves, said.objects, said.stored_bytes, said.packs) == (
        *(done.moves, done.objects, done.stored_bytes),
        done.packs,
    )
    assert said.requests == done.requests
    assert said.sent_bytes == pytest.approx(done.sent_bytes, rel=0.02)
    other = users.clone(tmp_path / "store", "other")
    mine.commit(state(3), step=3)
    mine.push()
    there, here = files(tmp_path / "store"), refs(other)
    said_pull = other.pull(dry_run=True).fetched
    assert (files(tmp_path / "store"), refs(other)) == (there, here)
    assert other["origin/main"].info.step == 2
    done_pull = other.pull().fetched
    assert (said_pull.moves, said_pull.commits, said_pull.objects, said_pull.stored_bytes) == (
        *(done_pull.moves, done_pull.commits, done_pull.objects),
        done_pull.stored_bytes,
    )


# Two at once


def test_two_users_part_and_each_way_out_works(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    other = users.clone(tmp_path / "store", "other")
    theirs = other.commit(state(10), step=10)
    other.push()
    own = mine.commit(state(20), step=20)
    store = files(tmp_path / "store")
    with pytest.raises(Conflict, match="has moved on") as raised:
        mine.push()
    assert "ckstore pull" in str(raised.value.hint)
    assert files(tmp_path / "store") == store
    with pytest.raises(Conflict, match="have parted") as raised:
        mine.pull()
    assert "ckstore branch main-mine main" in str(raised.value.hint)
    assert mine["main"].id == own.id
    assert mine["origin/main"].id == theirs.id
    mine.branch("main-mine", "main")
    moved = mine.pull(force=True).branches
    assert [(move.old, move.new, move.forced) for move in moved] == [(own.id, theirs.id, True)]
    mine.undo()
    assert mine["main"].id == own.id
    pushed = mine.push(force=True)
    assert [(move.old, move.new, move.forced) for move in pushed.moves] == [(theirs.id, own.id, True)]
    assert other.pull(force=True).branches[0].new == own.id


def test_who_has_more_is_told_so(mine: ckstore.Repo, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    made = mine.commit(state(3), step=3)
    pulled = mine.pull()
    assert (pulled.ahead, pulled.branches) == (("main",), ())
    assert mine["main"].id == made.id


def test_tags_stay_unless_forced_and_refs_are_deleted(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push(all=True)
    mine.tag("v1", "HEAD", force=True)
    with pytest.raises(Conflict, match="the tag 'v1'"):
        mine.push(refs="v1")
    assert mine.push(refs="v1", force=True).moves[0].new == mine["HEAD"].id
    mine.branch("old")
    mine.push(refs="old")
    assert mine["origin/old"].id
    moves = mine.push(refs=["old", "v1"], delete=True).moves
    assert [(move.name, move.new) for move in moves] == [("heads/old", None), ("tags/v1", None)]
    with pytest.raises(NoRevision):
        _ = mine["origin/old"]
    with pytest.raises(NotFound, match="has no old"):
        mine.push(refs="old", delete=True)
    other = users.clone(tmp_path / "store", "other")
    assert sorted(refs(other)) == ["heads/main"]


# Parts


def test_only_some_components(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    part = users.clone(tmp_path / "store", "part", only="model")
    assert sorted(part["HEAD~1"].load("model.*")) == ["model"]
    with pytest.raises(Absent, match="not fetched") as raised:
        _ = part["HEAD"]["optimizer"]
    assert raised.value.hint == "`ckstore fetch origin --fill` brings it"
    newest = part.fetch(fill=True, depth=1)
    assert newest.filled == 1
    assert sorted(part["HEAD"].load()) == ["model", "optimizer"]
    with pytest.raises(Absent):
        _ = part["HEAD~1"]["optimizer"]
    assert part.fetch(fill=True).filled == 2
    assert part.fetch(fill=True).filled == 0
    assert objects_of(part) == objects_of(mine)
    with pytest.raises(InvalidInput, match=r"no commit on .* has a component 'modle'") as wrong:
        users.clone(tmp_path / "store", "wrong", only="modle")
    assert wrong.value.hint == "did you mean model?"


def test_only_the_newest(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    part = users.clone(tmp_path / "store", "part", depth=1)
    assert len(part.log()) == 3
    assert sorted(part["HEAD"].load()) == ["model", "optimizer"]
    with pytest.raises(Absent, match="shallow"):
        part["HEAD~1"].load()
    part.commit(state(5), step=5)
    part.push()
    assert mine.pull().fetched.holes == 0  # what is absent there is here
    assert mine.verify(read_data=True).ok
    with pytest.raises(InvalidInput, match="depth"):
        users.clone(tmp_path / "store", "none", depth=0)


def test_only_the_commits(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    part = users.clone(tmp_path / "store", "part", metadata=True)
    assert [info.step for info in part.log()] == [2, 1, 0]
    with pytest.raises(Absent):
        part["HEAD"].load()
    assert part.verify().ok
    said = part.fetch(fill=True, dry_run=True)
    assert said.filled == 6
    with pytest.raises(Absent):
        part["HEAD"].load()
    assert part.fetch(fill=True).filled_bytes == said.filled_bytes > 0
    assert objects_of(part) == objects_of(mine)
    with pytest.raises(InvalidInput, match="no data at all"):
        part.fetch(metadata=True, fill=True)


# Settings


def test_what_is_written_down(mine: ckstore.Repo, tmp_path: Path) -> None:
    added = mine.add_remote("origin", tmp_path / "store", jobs=2, limit_rate="50M", timeout="30s")
    assert added.made_folder
    assert (added.remote.jobs, added.remote.limit_bytes_per_s, added.remote.timeout_s) == (2, 50_000_000, 30.0)
    config = tomllib.loads((tmp_path / "mine/.ckstore/config.toml").read_text())
    assert config["remotes"] == {"origin": (tmp_path / "store").as_uri()}
    assert (config["jobs"], config["limit_rate"], config["timeout"]) == (
        *({"origin": "2"}, {"origin": "50M"}),
        {"origin": "30s"},
    )
    assert mine.remotes == config["remotes"]
    mine.push()
    before = files(tmp_path / "store")
    removed = mine.remove_remote("origin")
    assert removed == added.remote
    assert mine.remotes == {}
    assert files(tmp_path / "store") == before
    assert not [name for name in mine._repository.commits().refs if name.startswith("remotes/")]
    assert "origin" not in (tmp_path / "mine/.ckstore/config.toml").read_text()


@pytest.mark.parametrize(
    ("name", "url", "error"),
    [
        ("a/b", "store", InvalidInput),
        ("", "store", InvalidInput),
        ("-x", "store", InvalidInput),
        ("origin", "s3://key:SECRET@bucket", InvalidInput),
        ("origin", "s3://bucket?endpoint=http://me:SECRET@host", InvalidInput),
        ("origin", "s3://bucket?access_key=SECRET", InvalidInput),
        ("origin", "memory://me:SECRET@place", InvalidInput),
        ("origin", "ftp://host/place", InvalidInput),
        ("origin", "no/such/folder", NotFound),
        ("origin", "mine", InvalidInput),
        ("origin", "mine/.ckstore/store", InvalidInput),
    ],
)
def test_what_is_no_remote_is_not_written_down(
    mine: ckstore.Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str, error: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    with pytest.raises(error) as raised:
        mine.add_remote(name, url)
    assert "SECRET" not in str(raised.value)
    after = files(tmp_path)
    assert {path for path in after if after[path] != before.get(path)} <= {"mine/.ckstore/index/lock.mdb"}


def test_which_remote(mine: ckstore.Repo, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no remote") as none:
        mine.push()
    assert none.value.hint == "`ckstore remote add origin URL`"
    mine.add_remote("backup", tmp_path / "backup")
    assert mine.push().remote == "backup"
    mine.add_remote("cluster", tmp_path / "cluster")
    with pytest.raises(InvalidInput, match="several remotes") as several:
        mine.push()
    assert several.value.hint == "name one: backup, cluster"
    mine.add_remote("origin", tmp_path / "store")
    assert mine.push().remote == "origin"
    with pytest.raises(NotFound, match="no remote 'bakup'") as near:
        mine.push("bakup")
    assert near.value.hint == "did you mean backup?"
    with pytest.raises(InvalidInput, match="there is a remote 'origin' already"):
        mine.add_remote("origin", tmp_path / "other")
    with pytest.raises(NotFound, match="no remote"):
        mine.remove_remote("nobody")


def test_a_rate_is_kept(mine: ckstore.Repo, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    began_s = time.monotonic()
    pushed = mine.push(limit_rate="500k")
    assert time.monotonic() - began_s > 0.7 * (pushed.sent_bytes / 500_000 - 0.1)
    assert pushed.sent_bytes > 300_000
    for wrong in ("0", "fast", "-1"):
        with pytest.raises(InvalidInput, match="no rate"):
            mine.push(limit_rate=wrong)
    with pytest.raises(InvalidInput, match="span of time"):
        mine.push(timeout="30")
    with pytest.raises(InvalidInput, match="transfers"):
        mine.push(jobs=0)


# Clones that cannot be


def test_a_clone_that_was_cut_off_goes_on(
    mine: ckstore.Repo, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push(all=True)
    pack = max((tmp_path / "store/packs").iterdir(), key=lambda path: path.stat().st_size)
    away = tmp_path / "away"
    pack.rename(away)
    with pytest.raises(CkstoreError):
        users.clone(tmp_path / "store", "other")
    away.rename(pack)
    other = users.clone(tmp_path / "store", "other")
    assert objects_of(other) == objects_of(mine)
    with pytest.raises(InvalidInput, match="is that clone already"):
        ckstore.clone(tmp_path / "store", tmp_path / "other", cache=tmp_path / "other-cache")


def test_what_cannot_be_cloned(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds nothing yet"):
        users.clone(tmp_path / "empty", "x")
    with pytest.raises(NotFound, match="is a repository, and no remote"):
        users.clone(tmp_path / "mine", "x")
    with pytest.raises(NotFound, match="no folder"):
        users.clone(tmp_path / "nowhere", "x")
    assert not (tmp_path / "x").exists()
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("kept")
    before = files(tmp_path / "full")
    with pytest.raises(InvalidInput, match="is not empty"):
        users.clone(tmp_path / "store", "full")
    assert files(tmp_path / "full") == before
    users.open("stranger").commit({"x": 1})
    with pytest.raises(InvalidInput, match="another repository"):
        users.clone(tmp_path / "store", "stranger")
    assert list(users.open("stranger").branches) == ["main"]


# Places that are not as they should be


def foreign(url: str, users: Users) -> None:
    stranger = users.open("stranger")
    stranger.commit({"x": 1})
    stranger.add_remote("origin", url)
    stranger.push()


def newer(url: str, _: Users) -> None:
    with connect(url) as remote:
        data = Sealing(Contents, b"CKROOT\r\n", "root", 1 << 20).seal(
            Contents(bytes(16), 1, bytes(16), None, (), (), None, ())
        )
        assert decode_root(data)
        remote.swap_root(data[:8] + bytes([data[8] + 1]) + data[9:], None)


def damaged(url: str, _: Users) -> None:
    with connect(url) as remote:
        data = encode_root(Contents(bytes(16), 1, bytes(16), None, (), (), None, ()))
        remote.swap_root(data[:-1] + bytes([data[-1] ^ 1]), None)


@pytest.mark.parametrize(
    ("spoil", "error"), [(foreign, RemoteFailed), (newer, Format), (damaged, Integrity)], ids=lambda one: one.__name__
)
def test_odd_roots(
    mine: ckstore.Repo,
    users: Users,
    tmp_path: Path,
    spoil: Callable[[str, Users], None],
    error: type[CkstoreError],
) -> None:
    mine.add_remote("origin", tmp_path / "store")
    url = (tmp_path / "store").as_uri()
    spoil(url, users)
    before = files(tmp_path / "store"), refs(mine)
    for call in (mine.push, mine.fetch, mine.pull, lambda: mine.push(force=True), mine.gc_remote):
        with pytest.raises(CkstoreError) as raised:
            call()
        assert isinstance(raised.value, (error, Format))
        assert _exit_code(raised.value) == 1
    assert (files(tmp_path / "store"), refs(mine)) == before


def test_odd_buckets(mine: ckstore.Repo, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = s3.bucket()
    mine.add_remote("origin", s3.url(bucket))
    mine.push()
    mine.commit(state(4), step=4)
    before = refs(mine)

    def fails(error: type[CkstoreError], code: int, hint: str, url: str | None = None) -> None:
        for call in (mine.push, mine.fetch, mine.test_remote) if url is None else (lambda: mine.add_remote("x", url),):
            with pytest.raises(error) as raised:
                call()
            assert _exit_code(raised.value) == code
            assert hint in str(raised.value)
        with pytest.raises(error):
            ckstore.clone(url or s3.url(bucket), tmp_path / "x")
        assert not (tmp_path / "x").exists()
        assert refs(mine) == before
        assert list(mine.remotes) == ["origin"]

    fails(NotFound, 1, "no bucket", s3.url("no-such-bucket"))
    fails(NotFound, 1, "no bucket", s3.url("no-such-bucket").replace("us-east-1", "eu-west-1"))
    wrong = s3.url(bucket).replace("region=us-east-1", "region=eu-west-1")
    mine.add_remote("elsewhere", wrong)  # boto3 finds the right one by itself
    assert mine.push("elsewhere", dry_run=True).moves
    mine.remove_remote("elsewhere")
    for key, hint in (("EXPIRED", "fresh"), ("STRANGER", "get-caller-identity")):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{key}SECRET")
        fails(Auth, 12, hint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "READER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "READERSECRET")
    with pytest.raises(Auth, match="s3:PutObject") as raised:
        mine.push()
    assert _exit_code(raised.value) == 12
    report = mine.test_remote()
    assert (report.can_pull, report.can_push) == (True, False)
    assert mine.fetch().moves == ()
    assert "SECRET" not in (tmp_path / "mine/.ckstore/config.toml").read_text()


def test_a_bucket_without_conditions_is_named_and_not_pushed_to(mine: ckstore.Repo, s3: S3Server) -> None:
    added = mine.add_remote("origin", s3.url(s3.bucket("no-conditions")))
    assert added.report is not None
    assert (added.report.can_pull, added.report.can_push) == (True, False)
    assert [one.what for one in added.report.findings if not one.good]
    with pytest.raises(RemoteFailed) as raised:
        mine.push()
    assert _exit_code(raised.value) == 1
    with connect(added.remote.url) as remote:
        assert remote.read_root() is None
    assert not [name for name in mine._repository.commits().refs if name.startswith("remotes/")]


# Making room there


def test_gc_of_a_remote(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.branch("doomed")
    mine.switch("doomed")
    mine.commit(state(9, seed=9), step=9)
    mine.push(all=True)
    mine.push(refs="doomed", delete=True)
    before = files(tmp_path / "store")
    said = mine.gc_remote(grace="0", dry_run=True)
    assert files(tmp_path / "store") == before
    assert said.condemned + said.left_bytes > 0
    mine.gc_remote(grace="0")
    mine.gc_remote(grace="0")
    other = users.clone(tmp_path / "store", "other")
    assert other.branches == {"main": mine["main"].id}
    assert other.verify(read_data=True).ok
    with pytest.raises(InvalidInput, match="span"):
        mine.gc_remote(grace="soon")
    assert os.listdir(tmp_path / "store/packs")


def test_undo_leaves_what_follows_a_remote_alone(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.commit(state(3), step=3)
    mine.push()
    tip, before = mine["HEAD"].id, mine["HEAD~1"].id
    assert [move.new for move in mine.undo().moves] == [before]
    assert mine["origin/main"].id == tip
    part = users.clone(tmp_path / "store", "part", only="model")
    made = part.commit(state(5), step=5)
    part.fetch(fill=True)
    assert [move.old for move in part.undo().moves] == [made.id]
    with pytest.raises(InvalidInput, match="fetch"):
        part.undo(2)


def test_what_has_been_put_back_or_mixed_is_taken_only_when_asked(
    mine: ckstore.Repo, users: Users, tmp_path: Path
) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.push()
    old = (tmp_path / "store/root").read_bytes()
    made = mine.commit(state(3), step=3)
    mine.push()
    (tmp_path / "store/root").write_bytes(old)
    for call in (mine.push, mine.fetch, mine.pull):
        with pytest.raises(Integrity, match="older than when it was last seen") as raised:
            call()
        assert _exit_code(raised.value) == 1
    assert mine.push(accept_older=True).moves[0].new == made.id
    stranger = users.open("stranger")
    own = stranger.commit({"x": 1}, branch="own")
    stranger.add_remote("origin", tmp_path / "store")
    with pytest.raises(RemoteFailed, match="holds another repository"):
        stranger.push(refs="own")
    assert stranger.push(refs="own", foreign=True).moves[0].new == own.id
    assert mine.pull(branches="own").branches[0].new == own.id
    assert mine.verify(read_data=True).ok


def test_branches_that_are_gone_there_are_forgotten_when_asked(
    mine: ckstore.Repo, users: Users, tmp_path: Path
) -> None:
    mine.add_remote("origin", tmp_path / "store")
    mine.branch("old")
    mine.push(all=True)
    other = users.clone(tmp_path / "store", "other")
    mine.push(refs="old", delete=True)
    assert other.fetch().moves == ()
    assert other["origin/old"].id
    assert [(move.name, move.new) for move in other.fetch(prune=True).moves] == [("remotes/origin/old", None)]
    assert sorted(other.branches) == ["main", "old"]  # one's own stay


def test_a_push_fills_what_is_absent_there_when_asked(mine: ckstore.Repo, users: Users, tmp_path: Path) -> None:
    mine.add_remote("first", tmp_path / "first")
    mine.push()
    part = users.clone(tmp_path / "first", "part", only="model")
    part.add_remote("second", tmp_path / "second")
    assert part.push("second").holes == 3
    mine.add_remote("second", tmp_path / "second")
    assert mine.push("second").moves == ()
    assert mine.push("second", fill=True, dry_run=True).filled == 3
    filled = mine.push("second", fill=True)
    assert (filled.moves, filled.filled) == ((), 3)
    whole = users.clone(tmp_path / "second", "whole")
    assert objects_of(whole) == objects_of(mine)
