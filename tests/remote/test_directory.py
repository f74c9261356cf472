from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from ckstore import durable
from ckstore.errors import Auth, InvalidInput, NotFound, RemoteFailed, StoreFull
from ckstore.errors import Integrity as Damage
from ckstore.remote.connect import Connection, connect, full_url
from ckstore.remote.directory import DirectoryRemote
from ckstore.remote.interface import Remote, RootMoved, Transient, Unclear
from ckstore.remote.memory import MemoryRemote
from ckstore.remote.s3 import S3Remote
from ckstore.remote.source import Buffers, FileRange

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_name_never_leaves_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "packs").symlink_to(outside)
    remote = DirectoryRemote(folder)
    with pytest.raises(InvalidInput, match="lies outside"):
        remote.put("packs/a", Buffers(b"x"))
    (outside / "a").write_bytes(b"theirs")
    for call in (lambda: remote.get("packs/a"), lambda: remote.stat("packs/a"), lambda: remote.delete(["packs/a"])):
        with pytest.raises(InvalidInput, match="lies outside"):
            call()
    assert (outside / "a").read_bytes() == b"theirs"
    assert list(remote.list("")) == []


def test_a_link_is_no_object(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tmp_path / "remote"
    (folder / "packs").mkdir(parents=True)
    (folder / "packs" / "a").symlink_to(secret)
    (folder / "root").symlink_to(secret)
    remote = DirectoryRemote(folder)
    for call in (lambda: remote.get("packs/a"), lambda: remote.stat("packs/a"), remote.read_root):
        with pytest.raises(Damage, match="no plain file"):
            call()
    with pytest.raises(Damage):
        remote.put("packs/a", Buffers(b"x"))
    assert list(remote.list("")) == []
    assert secret.read_bytes() == b"secret"


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    remote = DirectoryRemote(tmp_path / "unmounted")
    for call in (
        lambda: remote.get("a"),
        lambda: remote.put("packs/a", Buffers(b"")),
        lambda: remote.stat("a"),
        lambda: list(remote.list("")),
        lambda: remote.delete(["a"]),
        remote.read_root,
        lambda: remote.swap_root(b"", None),
        remote.clock_ns,
        remote.remove_root,
        lambda: remote.inside("a"),
    ):
        with pytest.raises(NotFound, match="no folder"):
            call()
    assert not (tmp_path / "unmounted").exists()


def test_errors_of_the_disk_are_those_of_a_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = DirectoryRemote(tmp_path)
    remote.put("packs/a", Buffers(b"x"))
    for number, kind in ((5, RemoteFailed), (13, Auth), (28, StoreFull), (116, Transient)):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(kind):
                remote.put("packs/b", Buffers(b"x"))
            with pytest.raises(kind):
                remote.swap_root(b"x", None)
    assert [stat.name for stat in remote.list("")] == ["packs/a"]
    assert list((tmp_path / ".tmp").iterdir()) == []
    assert remote.read_root() is None


def test_a_root_whose_folder_was_not_synced_is_unclear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = DirectoryRemote(tmp_path)
    remote.put("packs/a", Buffers(b"x"))

    def fail(_: int) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Unclear):
            remote.swap_root(b"x", None)


def test_parts_of_dead_writers_go_after_a_day(tmp_path: Path) -> None:
    remote = DirectoryRemote(tmp_path)
    remote.put("packs/a", Buffers(b"x"))
    old, new = tmp_path / ".tmp" / "old.part", tmp_path / ".tmp" / "new.part"
    for path in (old, new):
        path.write_bytes(b"x")
    then_ns = remote.clock_ns() - 25 * 3600 * 10**9
    os.utime(old, ns=(then_ns, then_ns))
    remote.delete(["packs/a"])
    assert not old.exists()
    assert new.exists()


def test_a_busy_lock_passes(tmp_path: Path) -> None:
    one, two = DirectoryRemote(tmp_path), DirectoryRemote(tmp_path, lock_timeout_s=0.05)
    with one._lock.held(), pytest.raises(Transient, match="hold the lock"):
        two.swap_root(b"", None)


def add(folder: Path, number: int) -> None:
    remote = DirectoryRemote(folder)
    for again in range(10):
        while True:
            root = remote.read_root()
            assert root is not None
            try:
                remote.swap_root(root.data + b"<%d.%d>" % (number, again), root.version)
            except RootMoved:
                continue
            break


def test_processes_lose_no_move_of_the_root(tmp_path: Path) -> None:
    DirectoryRemote(tmp_path).swap_root(b"", None)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    root = DirectoryRemote(tmp_path).read_root()
    assert root is not None
    assert root.data.count(b">") == 40
    assert all(b"<%d.%d>" % (number, again) in root.data for number in range(4) for again in range(10))


def test_a_file_is_sent_from_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10)
    (tmp_path / "remote").mkdir()
    remote = DirectoryRemote(tmp_path / "remote")
    remote.put("packs/a", FileRange(path, 100, 1100))
    assert remote.get("packs/a") == path.read_bytes()[100:1100]
    with pytest.raises(Damage, match="early"):
        remote.put("packs/b", FileRange(path, 0, 5000))
    with pytest.raises(NotFound):
        remote.put("packs/c", FileRange(tmp_path / "none", 0, 5))
    assert [stat.name for stat in remote.list("")] == ["packs/a"]


def test_what_is_written_goes_through_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what survives a power cut: content, then its name."""
    calls: list[str] = []

    def noting(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            calls.append(name)
            real(*arguments)

        return call

    for owner, name in ((durable, "rename"), (durable, "sync_folder"), (durable.DurableFile, "sync")):
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))
    remote = DirectoryRemote(tmp_path)
    remote.put("a", Buffers(b"x"))
    assert calls[-3:] == ["sync", "rename", "sync_folder"]
    calls.clear()
    remote.swap_root(b"x", None)
    assert calls == ["sync", "rename", "sync_folder"]


# From a URL to a remote


def test_urls_lead_to_remotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (tmp_path / "a b").mkdir()
    for text in ("a b", "./a b", str(tmp_path / "a b"), (tmp_path / "a b").as_uri(), "../" + tmp_path.name + "/a b"):
        url = full_url(text, tmp_path)
        assert url == (tmp_path / "a b").as_uri()
        remote = connect(url)
        assert isinstance(remote, DirectoryRemote)
        assert remote.url == url
    one, two = connect("memory://here"), connect("memory://here")
    assert isinstance(one, MemoryRemote)
    one.put("a", Buffers(b"x"))
    assert two.get("a") == b"x"
    assert list(connect("memory://there").list("")) == []
    with connect("s3://bucket/p?region=eu-west-1", Connection(timeout_s=5)) as remote:
        assert isinstance(remote, S3Remote)
        assert remote.url == full_url("s3://bucket/p/?region=eu-west-1", tmp_path)


@pytest.mark.parametrize(
    "url", ["", "ftp://host/a", "file://host/a", "gcs://b", "s3s://b", "file:///a?b", "s3://k:s@b"]
)
def test_what_leads_nowhere(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as raised:
        full_url(url, tmp_path)
    assert raised.value.hint
    with pytest.raises(InvalidInput):
        connect(url)


def plugin(url: str, options: Connection) -> Remote:
    assert options.connections
    return connect("memory://" + url.partition("://")[2])


def no_remote(_url: str, _options: Connection) -> str:
    return "no remote"


def test_plugins_add_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "plug-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (made / "entry_points.txt").write_text(
        "[ckstore.plugins]\nremote.plug = tests.remote.test_directory:plugin\n"
        "remote.bad = tests.remote.test_directory:no_remote\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert full_url("plug://x", tmp_path) == "plug://x"
    connect("plug://x").put("a", Buffers(b"1"))
    assert connect("memory://x").get("a") == b"1"
    with pytest.raises(InvalidInput, match="made no Remote"):
        connect("bad://x")
