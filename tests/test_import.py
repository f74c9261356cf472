"""import: a folder of checkpoints as one history; nothing is deleted that has not come back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from ckstore.errors import Conflict, Integrity, InvalidInput, NotFound
from ckstore.files.archive import read
from ckstore.files.facts import Facts, Table, from_file, from_folder, from_name
from ckstore.files.source import HeldSource
from ckstore.porcelain.import_files import ImportOptions, ImportPlan, plan_import
from ckstore.storage.layout import FOLDER
from tests.trained import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


def plan(repo: ckstore.Repo, folder: Path, *patterns: str, **options: Any) -> ImportPlan:
    return plan_import(repo._repository, ImportOptions(folder, 10**18, patterns, **options))


def steps(repo: ckstore.Repo, branch: str = "main") -> list[int | None]:
    return [info.step for info in repo.log(branch)][::-1]


def saved(path: Path, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {"w": torch.arange(4.0)}, **content}, path)
    return path


def test_a_run_becomes_a_history(repo: ckstore.Repo, tmp_path: Path) -> None:
    paths = checkpoints(tmp_path / "run", 4)
    originals = {path.name: path.read_bytes() for path in paths}
    result = repo.import_files(tmp_path / "run", "step_*.pt")
    assert (result.imported, result.already_there, result.freed_bytes) == (4, 0, 0)
    assert steps(repo) == [3, 6, 9, 12]
    infos = repo.log()[::-1]
    assert [info.message for info in infos] == [f"import {path.name}" for path in paths]
    assert [info.time_ns for info in infos] == [path.stat().st_mtime_ns for path in paths]
    assert all(0 < info.metrics["loss"] < 10 for info in infos)
    for number, path in enumerate(paths):
        repo.checkout(f"HEAD~{3 - number}", tmp_path / "out.pt", force=True)
        assert (tmp_path / "out.pt").read_bytes() == originals[path.name]
    assert result.pack_bytes < result.raw_bytes


def test_a_second_try_goes_on(repo: ckstore.Repo, tmp_path: Path) -> None:
    paths = checkpoints(tmp_path / "run", 5)
    hidden = tmp_path / "later"
    hidden.mkdir()
    for path in paths[2:]:
        path.rename(hidden / path.name)
    assert repo.import_files(tmp_path / "run").imported == 2
    for path in hidden.iterdir():
        path.rename(tmp_path / "run" / path.name)
    again = repo.import_files(tmp_path / "run")
    assert (again.imported, again.already_there) == (3, 2)
    assert steps(repo) == [3, 6, 9, 12, 15]
    assert repo.import_files(tmp_path / "run").imported == 0


@pytest.mark.parametrize("replace", [False, True])
def test_a_killed_import_goes_on(tmp_path: Path, *, replace: bool) -> None:
    folder = tmp_path / "run"
    paths = checkpoints(folder, 6)
    originals = {path.name: path.read_bytes() for path in paths}
    ckstore.open(tmp_path / "repo").close()
    script = (
        "import os, signal, sys, ckstore\n"
        "class Kills:\n"
        "    left = int(sys.argv[1])\n"
        "    def start(self, what, total_bytes): pass\n"
        "    def advance(self, done_bytes):\n"
        "        self.left -= 1\n"
        "        if not self.left: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"repo = ckstore.open({str(tmp_path / 'repo')!r})\n"
        f"repo.import_files({str(folder)!r}, replace={replace}, progress=Kills())"
    )
    for reports in (1, 2, 4):
        ran = subprocess.run([sys.executable, "-c", script, str(reports)], check=False)
        assert ran.returncode == -signal.SIGKILL
    with ckstore.open(tmp_path / "repo") as repo:
        repo.import_files(folder, replace=replace)
        assert steps(repo) == [3, 6, 9, 12, 15, 18]
        for number, name in enumerate(originals):
            repo.checkout(f"HEAD~{5 - number}", tmp_path / "out.pt", force=True)
            assert (tmp_path / "out.pt").read_bytes() == originals[name]
    assert {path.name for path in folder.iterdir()} == (set() if replace else set(originals))


def test_originals_are_deleted_only_when_they_come_back(repo: ckstore.Repo, tmp_path: Path) -> None:
    paths = checkpoints(tmp_path / "run", 3)
    repo.import_files(tmp_path / "run")
    packs = sorted((repo.path / FOLDER / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(packs[-1].read_bytes())
    data[len(data) // 3] ^= 1
    packs[-1].write_bytes(data)
    with pytest.raises(Integrity):
        repo.import_files(tmp_path / "run", replace=True)
    assert any(path.exists() for path in paths)
    packs[-1].write_bytes(
        bytes(data[: len(data) // 3]) + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :]
    )
    freed = repo.import_files(tmp_path / "run", replace=True).freed_bytes
    assert freed > 0
    assert not any(path.exists() for path in paths)


def test_an_original_that_changed_stays(repo: ckstore.Repo, tmp_path: Path) -> None:
    (path,) = checkpoints(tmp_path / "run", 1)
    repo.import_files(tmp_path / "run")
    about = path.stat()
    data = bytearray(path.read_bytes())
    archive = read(memoryview(data))
    assert archive is not None
    data[archive.storages["0"].start] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises((Integrity, Conflict)):
        repo.import_files(tmp_path / "run", replace=True)
    assert path.read_bytes() == data


def test_folders_are_imported_and_replaced(repo: ckstore.Repo, tmp_path: Path) -> None:
    for step in (900, 1000):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        saved(folder / "sub" / "weights.pt", step=step)
        state = {
            "global_step": step,
            "epoch": step / 400,
            "log_history": [{"step": 900, "loss": 2.5, "epoch": 2.25}, {"step": 1000, "loss": 2.0, "eval_loss": 2.25}],
        }
        (folder / "trainer_state.json").write_text(json.dumps(state))
    result = repo.import_files(tmp_path / "out", "checkpoint-*", replace=True)
    assert result.imported == 2
    infos = repo.log()
    assert [(info.step, info.epoch) for info in infos] == [(1000, 2), (900, 2)]
    assert [dict(info.metrics) for info in infos] == [{"loss": 2.0, "eval_loss": 2.25}, {"loss": 2.5}]
    assert list((tmp_path / "out").iterdir()) == []
    repo.checkout("step:900", tmp_path / "back")
    assert torch.load(tmp_path / "back" / "sub" / "weights.pt")["step"] == 900


def test_a_repository_in_an_original_stays(repo: ckstore.Repo, tmp_path: Path) -> None:
    """It is no part of the commit, and so must not go with it."""
    folder = tmp_path / "out" / "step_1"
    saved(folder / "a.pt", step=1)
    with ckstore.open(folder / "sub", cache=tmp_path / "cache") as inner:
        inner.commit({"x": 1})
    with pytest.raises(Conflict, match="is not in the commit") as caught:
        repo.import_files(tmp_path / "out", "step_?", replace=True)
    assert caught.value.hint
    with ckstore.open(folder / "sub", create=False, cache=tmp_path / "cache") as inner:
        assert inner["HEAD"].load() == {"x": 1}
    assert (folder / "a.pt").exists()


def test_a_folder_whose_links_changed_stays(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "step_1"
    for name in ("a.pt", "b.pt"):
        saved(folder / name, step=1)
    (folder / "best").symlink_to("a.pt")
    repo.import_files(tmp_path / "out", "step_?")
    (folder / "best").unlink()
    (folder / "best").symlink_to("b.pt")
    with pytest.raises(Conflict):
        repo.import_files(tmp_path / "out", "step_?", replace=True)
    assert (folder / "best").exists()


def test_a_folder_whose_deletion_was_cut_short_is_finished(repo: ckstore.Repo, tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path / "out" / f"step_{step}" / "a.pt", step=step)
        saved(tmp_path / "out" / f"step_{step}" / "b.pt", step=step)
    repo.import_files(tmp_path / "out", "step_?")
    left = tmp_path / "out" / "step_1.ckstore-imported"
    (tmp_path / "out" / "step_1").rename(left)
    (left / "a.pt").unlink()
    result = repo.import_files(tmp_path / "out", "step_?", replace=True)
    assert (result.imported, result.already_there) == (0, 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_order_is_by_step_then_by_time(repo: ckstore.Repo, tmp_path: Path) -> None:
    for number, name in enumerate(("last.pt", "step_10.pt", "step_9.pt", "best.pt")):
        path = saved(tmp_path / "run" / name)
        os.utime(path, ns=(10**9, 10**9 * (number + 1)))
    entries = plan(repo, tmp_path / "run", "*.pt").entries
    assert [entry.name for entry in entries] == ["step_9.pt", "step_10.pt", "last.pt", "best.pt"]


def test_several_runs_must_be_told_apart(repo: ckstore.Repo, tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / "runs" / name / "step_1.pt")
    with pytest.raises(InvalidInput, match="2 runs") as raised:
        plan(repo, tmp_path / "runs")
    assert raised.value.hint is not None
    assert "--pattern" in raised.value.hint
    assert len(plan(repo, tmp_path / "runs", "a/*.pt", branch="a").entries) == 1
    repo.import_files(tmp_path / "runs", "a/*.pt", branch="a")
    repo.import_files(tmp_path / "runs", "b/*.pt", branch="b")
    assert set(repo.branches) == {"a", "b"}


def test_damaged_checkpoints_are_left_out_and_named(repo: ckstore.Repo, tmp_path: Path) -> None:
    paths = checkpoints(tmp_path / "run", 3)
    paths[1].write_bytes(paths[1].read_bytes()[:-500])
    result = repo.import_files(tmp_path / "run", replace=True)
    assert result.imported == 2
    assert [name for name, _ in result.damaged] == [paths[1].name]
    assert [path.exists() for path in paths] == [False, True, False]
    assert repo.import_files(tmp_path / "run", opaque=True).imported == 1


def test_facts_from_names() -> None:
    pattern = re.compile(r"loss=(?P<loss>[0-9.]+[0-9])(?:-acc=(?P<acc>[0-9.]+[0-9]))?")
    assert from_name("epoch=3-step=12-loss=0.25-acc=0.5.ckpt", pattern) == Facts(12, 3, {"loss": 0.25, "acc": 0.5})
    assert from_name("step_12.ckpt", pattern) == Facts(12, None, {})
    assert from_name("x7y3.pt", re.compile(r"x(?P<epoch>\d+)y(?P<step>\d+)")) == Facts(3, 7, {})
    with pytest.raises(InvalidInput, match="no number"):
        from_name("loss=high.pt", re.compile("loss=(?P<loss>[a-z]+)"))


def test_facts_from_content(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "x.pt", global_step=40, epoch=2, val_loss=0.5, metrics={"acc": 0.25, "count": 3, "name": "x"}, lr=0.1
    )
    facts = from_file("x.pt", HeldSource(path.read_bytes()))
    assert facts == Facts(40, 2, {"val_loss": 0.5, "acc": 0.25, "count": 3.0})
    path = saved(tmp_path / "y.pt", global_step=-1, epoch=True, step=2**70)
    assert from_file("y.pt", HeldSource(path.read_bytes())) == Facts()


@pytest.mark.parametrize("text", ["[]", "{", '{"log_history": [1]}', '{"log_history": 7}', "[" * 10_000])
def test_a_damaged_trainer_state_is_told(repo: ckstore.Repo, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "out" / "checkpoint-5"
    saved(folder / "w.pt")
    (folder / "trainer_state.json").write_text(text)
    assert [name for name, _ in plan(repo, tmp_path / "out", "checkpoint-*").damaged] == ["checkpoint-5"]


def test_facts_from_a_folder_without_a_state(tmp_path: Path) -> None:
    assert from_folder({"w.pt": tmp_path / "w.pt"}) == Facts()


def test_facts_from_a_table(repo: ckstore.Repo, tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("step,epoch,train_loss,val_loss,note\n3,0,2.5,,a\n3,0,,2.25,b\n6,1,,1.5,c\nx,,9,9,d\n")
    for name in ("step_3.pt", "step_6.pt", "step_9.pt"):
        saved(tmp_path / "run" / name)
    entries = plan(repo, tmp_path / "run", table=table).entries
    assert [dict(entry.facts.metrics) for entry in entries] == [
        {"train_loss": 2.5, "val_loss": 2.25},
        {"val_loss": 1.5},
        {},
    ]
    table.write_text("epoch,loss\n1,0.5\n")
    assert Table(table).facts(Facts(epoch=1)).metrics == {"loss": 0.5}
    for bad in ("", "a,b\n1,2\n", "step,loss\n"):
        table.write_text(bad)
        with pytest.raises(InvalidInput, match=re.escape(str(table))):
            Table(table)
    with pytest.raises(InvalidInput, match="cannot read"):
        Table(tmp_path / "absent.csv")


def test_wrong_input_is_told(repo: ckstore.Repo, tmp_path: Path) -> None:
    saved(tmp_path / "run" / "step_1.pt")
    with pytest.raises(NotFound, match=r"\*\.ckpt"):
        plan(repo, tmp_path / "run", "*.ckpt")
    with pytest.raises(NotFound, match="no folder"):
        plan(repo, tmp_path / "absent")
    with pytest.raises(InvalidInput, match="no pattern"):
        plan(repo, tmp_path / "run", "/etc/*")
    with pytest.raises(InvalidInput, match="no regular expression"):
        plan(repo, tmp_path / "run", metric_from="(")
    with pytest.raises(InvalidInput, match="names no metric"):
        plan(repo, tmp_path / "run", metric_from="loss=(.*)")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no checkpoints"):
        plan(repo, tmp_path / "empty")
