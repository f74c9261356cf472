"""Files of commits written to the disk: as they were, whole or not at all, and nothing that was not asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch

from ckstore.errors import Integrity, StoreFull
from tests.snapshots import snapshot
from tests.written import below, refused

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Hugging Face has them, and a checkpoint beside it."""
    made = tmp_path / "run"
    (made / "sub/none").mkdir(parents=True)
    torch.manual_seed(0)
    safetensors.torch.save_file({"w": torch.randn(600, 600), "b": torch.randn(3)}, made / "model.safetensors")
    torch.save({"m": torch.randn(5), "n": [1, 2]}, made / "sub/extra.pt")
    for name in ("config.json", "sub/config.json", "sub/a[1].json", "sub/a1.json"):
        (made / name).write_text(name)
    (made / "sub/link").symlink_to("../config.json")
    for path in (made / "sub", made):
        os.utime(path, ns=(10**18, 10**18))
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# Files


def test_one_file_under_a_new_name(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    path = folder / "model.safetensors"
    path.chmod(0o640)
    repo.commit_files(path)
    result = repo.checkout("HEAD", out / "deep/er/new")
    assert result.files == ((out / "deep/er/new", path.stat().st_size),)
    assert (result.id, result.converted, result.left_out) == (repo["HEAD"].id, False, 0)
    made = out / "deep/er/new"
    assert made.read_bytes() == path.read_bytes()
    assert (made.stat().st_mode, made.stat().st_mtime_ns) == (path.stat().st_mode, path.stat().st_mtime_ns)
    assert below(out) == ["deep/er/new"]


def test_one_file_into_a_folder(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder / "model.safetensors")
    out.mkdir()
    assert repo.checkout("HEAD", out).files[0][0] == out / "model.safetensors"
    assert below(out) == ["model.safetensors"]


def test_a_folder_into_one_that_is_there(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    (out / "sub").mkdir(parents=True)
    (out / "mine").write_text("mine")
    for path in (out / "sub", out):
        path.chmod(0o711)
    result = repo.checkout("HEAD", out)
    assert [path.relative_to(out).as_posix() for path, _ in result.files] == [
        "config.json", "model.safetensors", "sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt",
    ]  # fmt: skip
    left, right = snapshot(folder), snapshot(out)
    assert right.pop(b"mine")[3] == b"mine"
    assert left.pop(b"") != right.pop(b"")
    assert left.pop(b"sub") != right.pop(b"sub")
    assert (out / "sub").stat().st_mode & 0o777 == 0o711
    assert left == right


def test_special_bits_of_a_mode_are_left_out(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "tool"
    path.write_text("x")
    path.chmod(0o6755)
    repo.commit_files(path)
    repo.checkout("HEAD", out)
    assert out.stat().st_mode & 0o7777 == 0o755


def occupied(out: Path, what: str) -> None:
    out.mkdir()
    (out / "zzz").write_text("mine")
    if what == "file":
        (out / "sub").mkdir()
        (out / "sub/extra.pt").write_text("mine")
    elif what == "link":
        (out / "model.safetensors").symlink_to("nowhere")
    elif what == "file for a link":
        (out / "sub").mkdir()
        (out / "sub/link").write_text("mine")
    elif what == "folder for a file":
        (out / "config.json").mkdir()
    elif what == "folder for a link":
        (out / "sub/link").mkdir(parents=True)
    elif what == "file for a folder":
        (out / "sub").write_text("mine")
    elif what == "file for an empty folder":
        (out / "sub").mkdir()
        (out / "sub/none").write_text("mine")
    elif what == "link out":
        (out.parent / "elsewhere").mkdir()
        (out / "sub").symlink_to("../elsewhere")


FORCED = ["file", "link", "file for a link"]
UNFORCED = ["folder for a file", "folder for a link", "file for a folder", "file for an empty folder", "link out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", [*FORCED, *UNFORCED])
def test_what_is_there_stays(repo: ckstore.Repo, folder: Path, out: Path, what: str, force: bool) -> None:
    """Nothing at all is written where one thing cannot be."""
    repo.commit_files(folder)
    occupied(out, what)
    before = snapshot(out.parent, leave_out=(b".ckstore",))
    if force and what in FORCED:
        repo.checkout("HEAD", out, force=True)
        assert (out / "zzz").read_text() == "mine"
        assert (out / "sub/extra.pt").read_bytes() == (folder / "sub/extra.pt").read_bytes()
        assert os.readlink(out / "sub/link") == "../config.json"
        assert not (out / "model.safetensors").is_symlink()
        return
    refused(lambda: repo.checkout("HEAD", out, force=force), match="exists|is no folder|is a folder|is a link")
    assert snapshot(out.parent, leave_out=(b".ckstore",)) == before


@pytest.mark.parametrize("format", [None, "safetensors", "pt"])
def test_a_file_that_is_there_stays(repo: ckstore.Repo, folder: Path, out: Path, format: str | None) -> None:
    repo.commit_files(folder / "model.safetensors")
    out.mkdir()
    (out / "there").write_text("mine")
    (out / "dangling").symlink_to("nowhere")
    for name in ("there", "dangling", "there/below", "there/below/further", "dangling/below"):
        refused(lambda name=name: repo.checkout("HEAD", out / name, format=format), match="exists|is no folder")  # type: ignore[misc]
    refused(lambda: repo.checkout("HEAD", out / "there/below", format=format, force=True), match="is no folder")
    assert (out / "there").read_text() == "mine"
    assert below(out) == ["dangling", "there"]
    for name in ("there", "dangling"):
        repo.checkout("HEAD", out / name, format=format, force=True)
        assert (out / name).stat().st_size > 1_000_000
    assert below(out) == ["dangling", "there"]


def test_a_folder_cannot_go_where_a_file_is(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    out.write_text("mine")
    for force in (False, True):
        refused(lambda force=force: repo.checkout("HEAD", out, force=force), match="is no folder")  # type: ignore[misc]
    assert out.read_text() == "mine"


# Only some files


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("*.json", ["config.json", "sub/a1.json", "sub/a[1].json", "sub/config.json"]),
        ("sub", ["sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt"]),
        ("sub/", ["sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt"]),
        ("s?b/*.pt", ["sub/extra.pt"]),
        ("extra.*", ["sub/extra.pt"]),
        (["*.pt", "model.safetensors"], ["model.safetensors", "sub/extra.pt"]),
        ("config.json", ["config.json", "sub/config.json"]),
        ("a[1].json", ["sub/a1.json", "sub/a[1].json"]),
        ("a1*", ["sub/a1.json"]),
    ],
)
def test_only_some_files(
    repo: ckstore.Repo, folder: Path, out: Path, only: str | list[str], expected: list[str]
) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out, only=only)
    assert below(out) == expected
    for name in expected:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
        assert (out / name).stat().st_mtime_ns == (folder / name).stat().st_mtime_ns


@pytest.mark.parametrize("name", ["sub/extra.pt", "model.safetensors", "sub/a1.json"])
def test_one_file_by_its_whole_name(repo: ckstore.Repo, folder: Path, out: Path, name: str) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out / "new", only=name)
    assert (out / "new").read_bytes() == (folder / name).read_bytes()
    repo.checkout("HEAD", out, only=[name])
    assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_the_only_file_of_a_folder_by_its_name(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    (tmp_path / "run/more").mkdir(parents=True)
    (tmp_path / "run/x.json").write_text("x")
    (tmp_path / "run/more/link").symlink_to("../x.json")
    repo.commit_files(tmp_path / "run")
    repo.checkout("HEAD", out, only="x.json")
    assert out.read_text() == "x"
    (tmp_path / "there").mkdir()
    repo.checkout("HEAD", tmp_path / "there", only="x.json")
    assert sorted(os.listdir(tmp_path / "there")) == ["x.json"]


def test_only_all_is_the_whole_folder(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out, only="*")
    assert snapshot(out) == snapshot(folder)


def test_only_what_is_not_there(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    assert "no files to write" in refused(lambda: repo.checkout("HEAD", out, only="modle.safetensors")).what
    error = refused(lambda: repo.checkout("HEAD", out / "x.pt", only="modle.w"))
    assert "model.w" in str(error.hint)
    error = refused(lambda: repo.checkout("HEAD", out / "x.safetensors", only="modle.w"))
    assert "model.w" in str(error.hint)
    assert not out.exists()


# What goes wrong on the way


KILLED = """
import os, signal, sys
import ckstore

class Deadly:
    def start(self, what, total_bytes):
        self.left = total_bytes // 2

    def advance(self, done_bytes):
        self.left -= done_bytes
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

ckstore.open(sys.argv[1]).checkout("HEAD", sys.argv[2], force=True, progress=Deadly())
"""


@pytest.mark.parametrize("name", ["file", "folder", "x.safetensors"])
@pytest.mark.parametrize("there", [False, True])
def test_a_kill_leaves_no_half_file(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str, there: bool) -> None:
    parts = {f"w{number}": torch.randn(1 << 20) for number in range(3)}
    source = tmp_path / "run"
    source.mkdir()
    for key, part in parts.items():
        safetensors.torch.save_file({key: part}, source / f"{key}.safetensors")
    repo.commit({"model": parts}) if name.endswith("s") else repo.commit_files(
        source if name == "folder" else source / "w0.safetensors"
    )
    target = out / name
    whole = [target / f"{key}.safetensors" for key in parts] if name == "folder" else [target]
    if there:
        for path in whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("old")
    ran = subprocess.run([sys.executable, "-c", KILLED, repo.path, target], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    known = {(source / f"{key}.safetensors").read_bytes() for key in parts} | {b"old"}
    found = [path.read_bytes() if path.exists() else None for path in whole]
    assert found[-1] == (b"old" if there else None)
    assert all(data is None or data in known for data in found)
    left = [path for path in out.rglob("*") if path.is_file() and path not in whole]
    assert all(path.name.startswith(".ckstore-") and path.name.endswith(".part") for path in left)
    repo.checkout("HEAD", target, force=True)
    assert all(path.stat().st_size > 4 << 20 for path in whole)


FULL = """
import json, resource, sys
import ckstore
repo = ckstore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))
try:
    repo.checkout("HEAD", sys.argv[2], force=True)
except ckstore.CkstoreError as error:
    print(error.code, bool(error.hint))
"""


@pytest.mark.parametrize("name", ["file", "x.safetensors", "x.pt"])
@pytest.mark.parametrize("there", [False, True])
def test_no_room_on_the_disk(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str, there: bool) -> None:
    part = torch.randn(2 << 20)
    safetensors.torch.save_file({"w": part}, tmp_path / "w.safetensors")
    repo.commit_files(tmp_path / "w.safetensors") if name == "file" else repo.commit({"model": {"w": part}})
    out.mkdir()
    if there:
        (out / name).write_text("old")
    ran = subprocess.run(
        [sys.executable, "-c", FULL, repo.path, out / name], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "store-full True"), ran.stderr
    assert below(out) == ([name] if there else [])
    assert not there or (out / name).read_text() == "old"


def test_files_that_fit_one_by_one_but_not_together(
    repo: ckstore.Repo, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free is looked at before the first file is written."""
    largest, extra = (folder / "model.safetensors").stat().st_size, (folder / "sub/extra.pt").stat().st_size
    repo.commit_files(folder)
    real = os.statvfs(folder)
    room = os.statvfs_result((1, 1, real.f_blocks, largest + extra - 1, largest + extra - 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    refused(lambda: repo.checkout("HEAD", out), StoreFull, match="do not fit")
    assert not out.exists()
    repo.checkout("HEAD", out, only="model.*")


@pytest.mark.parametrize("name", ["file", "x.safetensors", "x.pt"])
def test_damage_leaves_no_file(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str) -> None:
    part = torch.randn(2 << 20)
    safetensors.torch.save_file({"w": part}, tmp_path / "w.safetensors")
    repo.commit_files(tmp_path / "w.safetensors") if name == "file" else repo.commit({"model": {"w": part}})
    largest = max((repo.path / ".ckstore/packs").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as pack:
        pack.seek(largest.stat().st_size * 3 // 4)
        byte = pack.read(1)
        pack.seek(-1, os.SEEK_CUR)
        pack.write(bytes([byte[0] ^ 0x10]))
    out.mkdir()
    (out / name).write_text("old")
    with pytest.raises(Integrity):
        repo.checkout("HEAD", out / name, force=True)
    assert (out / name).read_text() == "old"
    assert below(out) == [name]
