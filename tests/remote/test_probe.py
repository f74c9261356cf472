from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Auth, NotFound
from ckstore.remote.directory import DirectoryRemote
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.remote.probe import Probe, probe
from ckstore.remote.source import Buffers
from tests.remote.test_contract import LooksThenWrites, LosesTheLastByteOfRanges, TakesOldVersions
from tests.servers.fixtures import use_key

if TYPE_CHECKING:
    from pathlib import Path

    from ckstore.remote.interface import Remote
    from tests.servers.fixtures import S3Server

EVERYTHING = ("read", "list", "write", "range", "create", "replace", "delete", "clock")


def ask(remote: Remote) -> Probe:
    return probe(remote, "t0", time.time_ns)


def said(found: Probe, what: str) -> str:
    return " ".join(finding.text for finding in found.findings if finding.what == what)


def check_good(found: Probe) -> None:
    assert [finding for finding in found.findings if not finding.good] == []
    assert found.good(*EVERYTHING)
    assert found.can_pull
    assert found.can_push
    assert found.can_gc
    assert found.ahead_ns is not None
    assert abs(found.ahead_ns) < 60 * 10**9


def test_memory() -> None:
    remote = MemoryRemote(MemoryPlace("x"))
    remote.put("packs/a", Buffers(b"1"))
    version = remote.swap_root(b"mine", None)
    check_good(ask(remote))
    check_good(ask(remote))
    assert [stat.name for stat in remote.list("")] == ["packs/a"]
    assert remote.read_root() == (b"mine", version)
    assert not list(remote.inside("probe-t0").list(""))


def test_directory(tmp_path: Path) -> None:
    remote = DirectoryRemote(tmp_path)
    check_good(ask(remote))
    assert remote.read_root() is None
    assert [path.name for path in tmp_path.iterdir()] == [".clock"], "no litter"


@pytest.mark.parametrize("bucket", ["bucket", "unquoted", "no-batch"])
def test_s3(bucket: str, s3: S3Server) -> None:
    name = s3.bucket(bucket)
    with s3.remote(name, "p") as remote:
        check_good(ask(remote))
        assert "Contents" not in remote._client.list_objects_v2(Bucket=name)


@pytest.mark.parametrize(
    ("bucket", "bad", "text"),
    [
        ("no-conditions", "create", "501"),
        ("no-conditions", "replace", "condition"),
        ("careless", "create", "two pushes may both believe they won"),
        ("careless", "replace", "may get lost"),
        ("deaf", "create", "were told that they had"),
        ("deaf", "replace", "had changed meanwhile"),
        ("no-range", "range", "parts"),
        ("short", "range", "parts"),
    ],
)
def test_servers_that_cannot(bucket: str, bad: str, text: str, s3: S3Server) -> None:
    with s3.remote(s3.bucket(bucket)) as remote:
        found = ask(remote)
    assert text in said(found, bad)
    assert not found.good(bad)
    assert found.can_pull
    assert not found.can_push
    assert not found.can_gc


@pytest.mark.parametrize(
    ("wrong", "bad"),
    [(LooksThenWrites, "create"), (TakesOldVersions, "replace"), (LosesTheLastByteOfRanges, "range")],
)
def test_remotes_that_are_wrong(wrong: type[MemoryRemote], bad: str) -> None:
    class Wrong(wrong):  # type: ignore[valid-type, misc]
        def inside(self, name: str) -> Remote:
            made: Remote = wrong(super().inside(name).place)
            return made

    found = ask(Wrong(MemoryPlace("x")))
    assert not found.good(bad)
    assert not found.can_push


def test_a_reader_is_told_that_it_is_one(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    use_key(monkeypatch, "READER")
    with s3.remote(bucket) as remote:
        found = ask(remote)
    assert found.can_pull
    assert not found.can_push
    assert "read-only" in said(found, "write")


def test_what_cannot_be_reached_is_an_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.remote("no-such-bucket-2") as remote, pytest.raises(NotFound):
        ask(remote)
    with pytest.raises(NotFound):
        ask(DirectoryRemote(tmp_path / "none"))
    bucket = s3.bucket()
    use_key(monkeypatch, "EXPIRED")
    with s3.remote(bucket) as remote, pytest.raises(Auth):
        ask(remote)


def test_a_clock_that_is_far_off_is_said() -> None:
    place = MemoryPlace("x", lambda: time.time_ns() + 3600 * 10**9)
    found = ask(MemoryRemote(place))
    assert "3600 s ahead of ours" in said(found, "clock")
    assert found.can_gc
