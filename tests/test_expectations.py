"""What people expect on the first day, one test each; the rest have theirs where the code is tested."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from ckstore.cli import progress_line
from ckstore.cli.progress_line import ProgressLine
from ckstore.errors import CkstoreWarning, InvalidInput, Locked, NoRevision, StoreFull
from ckstore.porcelain.status import status

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore

PROGRAM = [sys.executable, "-c", "from ckstore.cli.main import run; run()"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """1: bytes, rate and time left, redrawn in place, gone at the end; it fits the terminal."""
    monkeypatch.setattr(progress_line, "_REDRAW_S", 0)
    for columns in (80, 200, 50):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = io.StringIO()
        bar = ProgressLine(out, live=True)
        bar.start("storing", 1_000_000_000)
        for _ in range(4):
            bar.advance(250_000_000)
        drawn = out.getvalue().split("\r\x1b[K")
        assert len(drawn) == 5
        assert drawn[-1] == ""
        assert re.search(r"storing 500\.0 MB of 1\.0 GB \(50%\), [\d.]+ \wB/s, \d+ s left", drawn[2])
        assert all(len(line) < max(columns, 64) for line in drawn)
        assert ("[" in drawn[2]) == (columns >= 80)
    assert "\n" not in out.getvalue()


def test_progress_is_a_line_now_and_then_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """1: nothing for what is quick, a line for each half minute of what is not."""
    out = io.StringIO()
    bar = ProgressLine(out, live=False)
    bar.start("storing", 100)
    for _ in range(100):
        bar.advance(1)
    assert out.getvalue() == ""
    now = 1000.0
    monkeypatch.setattr("ckstore.cli.progress_line.time.monotonic", lambda: now)
    bar.start("storing", 1000)
    for _ in range(99):
        now += 1
        bar.advance(10)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "storing 300 B of 1.0 kB (30%), 10 B/s, 70 s left"
    assert "\x1b" not in out.getvalue()


def test_no_bar_in_ci_or_on_a_dumb_terminal(tmp_path: Path) -> None:
    """1: what is not a person's terminal gets no escape sequences."""
    torch.save({"w": torch.randn(200_000)}, tmp_path / "m.pt")
    subprocess.run([*PROGRAM, "init"], cwd=tmp_path, check=True, capture_output=True)
    ran = subprocess.run([*PROGRAM, "commit", "m.pt"], cwd=tmp_path, check=True, capture_output=True)
    assert b"\x1b" not in ran.stdout + ran.stderr
    assert ran.stderr == b""


def test_room_is_checked_before_anything_is_written(
    repo: ckstore.Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8: space and inodes, for commits and for what is written out."""
    torch.save({"w": torch.randn(100_000)}, tmp_path / "m.pt")
    repo.commit_files(tmp_path / "m.pt")
    real = os.statvfs(tmp_path)

    def nearly_full(blocks: int, inodes: int) -> None:
        fields = list(real)
        fields[4], fields[7] = blocks, inodes
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    nearly_full(10, 10**6)
    before = sorted((repo.path / ".ckstore" / "packs").iterdir())
    with pytest.raises(StoreFull, match="do not fit"):
        repo.commit({"x": torch.randn(1000)})
    with pytest.raises(StoreFull, match="do not fit"):
        repo.checkout("HEAD", tmp_path / "out.pt")
    nearly_full(10**9, 2)
    with pytest.raises(StoreFull, match="inodes") as raised:
        repo.commit({"x": torch.randn(1000)})
    assert raised.value.hint
    assert not (tmp_path / "out.pt").exists()
    assert sorted((repo.path / ".ckstore" / "packs").iterdir()) == before
    assert list((repo.path / ".ckstore" / "tmp").iterdir()) == []
    nearly_full(60, 10**6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        repo.commit({"new": torch.randn(200_000)})
    assert [one.category for one in caught] == [CkstoreWarning]
    assert "may not fit" in str(caught[0].message)


def test_caches_are_visible_and_bounded(repo: ckstore.Repo) -> None:
    """9: the index is all there is besides packs and journal, status says so, and it is small."""
    repo.commit({"w": torch.randn(2_000_000)})
    found = status(repo._repository)
    folder = repo.path / ".ckstore"
    everything = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    assert found.index_bytes + found.stored_bytes <= everything <= found.index_bytes + found.stored_bytes + 64_000
    assert found.index_bytes < 0.1 * found.stored_bytes
    assert found.index.is_dir()


def test_locks_say_who_holds_them(repo: ckstore.Repo) -> None:
    """11: process, host and since when; a dead one's lock is free at once."""
    holder = (
        "import sys; from pathlib import Path; from ckstore.repository import open_repository\n"
        "with open_repository(Path(sys.argv[1]), Path(sys.argv[1]) / 'cache') as repo, repo.store.locked():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", holder, str(repo.path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Locked) as raised, repo._repository.store.locked(0.05):
            pass
        assert raised.value.why is not None
        assert f"process {process.pid} on {os.uname().nodename} since 20" in raised.value.why
        process.kill()
        process.wait()
        with repo._repository.store.locked(5):
            pass


def test_errors_name_what_was_meant(repo: ckstore.Repo, tmp_path: Path) -> None:
    """12: refs, metrics, paths and commands, each with the way out."""
    repo.commit({"model": {"weight": 1}}, metrics={"val/loss": 1.0}, branch="main", tag="v1.0")
    meant = {
        "mian": "main",
        "v1.1": "v1.0",
        "best:val/los:min": "val/loss",
        "step:7": None,
    }
    for wrong, right in meant.items():
        with pytest.raises(NoRevision) as raised:
            repo[wrong]
        assert right is None or right in (raised.value.hint or "")
    with pytest.raises(InvalidInput) as told:
        repo["main"].load(only="model.wieght")
    assert "model.weight" in (told.value.hint or "")
    ran = subprocess.run([*PROGRAM, "chekout"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == ["error: no command 'chekout'", "  Fix: did you mean checkout?"]


@pytest.mark.parametrize("arguments", [["--help"], ["log"], ["status"], ["list"], ["diff", "HEAD~1"], ["reflog"]])
def test_quick_commands_import_no_torch(tmp_path: Path, arguments: list[str]) -> None:
    """13: and nothing else that takes long; the times are in benchmarks/bench_core.py."""
    script = (
        "import sys, ckstore; from ckstore.cli.main import run\n"
        "sys.argv = ['ckstore', *sys.argv[1:]]\n"
        "try: run()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'safetensors', 'boto3', 'tomlkit', 'rich', 'zensical'} & set(sys.modules)\n"
        "assert not code and not heavy, (code, heavy)"
    )
    for command in (["init"], ["commit", "a.bin"], ["commit", "b.bin"]):
        (tmp_path / command[-1]).write_bytes(os.urandom(100)) if command[-1] != "init" else None
        subprocess.run([*PROGRAM, *command], cwd=tmp_path, check=True, capture_output=True)
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_locale_can_show_anything(tmp_path: Path, encoding: str) -> None:
    """12: a message that the terminal has no letters for is no reason to fail."""
    (tmp_path / "a.bin").write_bytes(b"x")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for command in (["init"], ["commit", "a.bin", "-m", "größer → 模型"], ["log", "--graph"], ["list"], ["scan", "."]):
        ran = subprocess.run([*PROGRAM, *command], cwd=tmp_path, capture_output=True, env=environment, check=False)
        assert ran.returncode == 0, ran.stderr
