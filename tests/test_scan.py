"""scan: its estimate is what commits then take, it counts everything once, and it writes nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

import ckstore
from ckstore.errors import InvalidInput, NotFound
from ckstore.files.order import epoch_in, explicit_step_in, natural_key, series_of, step_in
from ckstore.files.units import OTHER, units
from ckstore.porcelain.scan import ScanOptions, ScanResult, scan
from tests.trained import Training, checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def scanned(*folders: Path, share: float | None = None, preset: str = "balanced") -> ScanResult:
    return scan(ScanOptions(folders, preset, share))


def stored_bytes(folder: Path) -> int:
    """Packs and journal of a repository."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".pack", ".journal"))


def committed(tmp_path: Path, paths: Iterable[Path], preset: str = "balanced", *, apart: bool = False) -> int:
    """What the files take, committed one after another; `apart`: each on a branch of its own."""
    with ckstore.open(tmp_path / f"repo-{preset}", preset=preset) as repo:
        for path in paths:
            repo.commit_files(path, branch=path.stem if apart else None)
    return stored_bytes(tmp_path / f"repo-{preset}")


@pytest.mark.parametrize("preset", ["balanced", "archive", "fast"])
def test_estimate_is_what_commits_take(tmp_path: Path, preset: str) -> None:
    paths = checkpoints(tmp_path / "run", 9)
    result = scanned(tmp_path / "run", preset=preset)
    real = committed(tmp_path, paths, preset)
    assert result.error_bytes == 0
    assert result.encoded_bytes >= result.unique_bytes
    assert abs(result.stored_bytes - real) < 0.01 * real
    assert result.raw_bytes == sum(path.stat().st_size for path in paths)


def test_a_sample_comes_close_and_says_how_close(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(3)
    state = {f"layer{n}.weight": torch.randn(200, 400) * 0.02 for n in range(120)}
    for step in range(3):
        for weight in state.values():
            weight += torch.randn_like(weight) * 1e-5
        torch.save(state, folder / f"step_{step}.pt")
    whole, part = scanned(folder), scanned(folder, share=0.2)
    assert part.encoded_bytes < 0.5 * whole.encoded_bytes
    assert 0 < part.error_bytes < 0.1 * part.stored_bytes
    assert abs(part.stored_bytes - whole.stored_bytes) < max(0.05 * whole.stored_bytes, 2 * part.error_bytes)


def test_runs_without_a_parent_find_each_other(tmp_path: Path) -> None:
    base = Training(0)
    base.step(20)
    folder = tmp_path / "tunes"
    folder.mkdir()
    paths = []
    for name in ("red", "green", "blue"):
        tune = Training(0)
        tune.model.load_state_dict(base.model.state_dict())
        tune.step(2)
        paths.append(folder / f"{name}.pt")
        torch.save(tune.model.state_dict(), paths[-1])
    result = scanned(folder)
    real = committed(tmp_path, sorted(paths), apart=True)
    assert len({unit.series for unit in units(folder)}) == 3
    assert abs(result.stored_bytes - real) < 0.02 * real


def test_folders_of_checkpoints_are_units(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for step in (500, 1000):
        folder = out / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        training = Training()
        training.step(step // 100)
        save_file(training.model.state_dict(), folder / "model.safetensors")
        torch.save(training.optimizer.state_dict(), folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file(training.model.state_dict(), out / "model.safetensors")
    (out / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("nothing")
    found = units(tmp_path)
    assert [(unit.name, unit.kind, len(unit.files)) for unit in found] == [
        ("*", OTHER, 1),
        ("out", "Hugging Face folder", 2),
        ("out/checkpoint-500", "Trainer folder", 3),
        ("out/checkpoint-1000", "Trainer folder", 3),
    ]
    result = scanned(tmp_path)
    assert {row.name: row.checkpoints for row in result.by_kind} == {
        "Trainer folder": 2,
        "Hugging Face folder": 1,
        OTHER: 1,
    }
    assert sum(row.raw_bytes for row in result.by_folder) == result.raw_bytes
    assert sum(row.stored_bytes for row in result.by_kind) == pytest.approx(result.stored_bytes, abs=10)
    assert result.unique_bytes < 0.9 * result.raw_bytes


def test_what_is_there_twice_counts_once(tmp_path: Path) -> None:
    (path,) = checkpoints(tmp_path / "run", 1)
    alone = scanned(tmp_path / "run")
    os.link(path, path.with_name("hard.pt"))
    path.with_name("soft.pt").symlink_to(path)
    assert scanned(tmp_path / "run").raw_bytes == alone.raw_bytes
    path.with_name("copy.pt").write_bytes(path.read_bytes())
    twice = scanned(tmp_path / "run")
    assert twice.raw_bytes == 2 * alone.raw_bytes
    assert twice.unique_bytes == alone.unique_bytes
    assert twice.stored_bytes < alone.stored_bytes + 3000


def test_damage_is_told_and_counted(tmp_path: Path) -> None:
    whole, torn = checkpoints(tmp_path / "run", 2)
    torn.write_bytes(torn.read_bytes()[:-1000])
    result = scanned(tmp_path / "run")
    assert [name for name, _ in result.damaged] == [torn.name]
    assert result.raw_bytes == whole.stat().st_size + torn.stat().st_size


def test_nothing_is_written(tmp_path: Path) -> None:
    checkpoints(tmp_path, 2)
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    scanned(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == {
        path: about.st_mtime_ns for path, about in before.items()
    }


def test_progress_adds_up(tmp_path: Path) -> None:
    class Told:
        total = done = 0

        def start(self, what: str, total_bytes: int) -> None:
            assert not self.total
            self.total = total_bytes

        def advance(self, done_bytes: int) -> None:
            self.done += done_bytes

    checkpoints(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("x" * 1000)
    told = Told()
    result = scan(ScanOptions([tmp_path]), told)
    assert told.done == told.total == result.raw_bytes


def test_wrong_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        scanned(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="no file"):
        scanned(tmp_path)
    checkpoints(tmp_path, 1)
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(InvalidInput, match="share"):
            scanned(tmp_path, share=share)
    with pytest.raises(InvalidInput, match="preset"):
        scanned(tmp_path, preset="best")


@pytest.mark.parametrize(
    ("name", "step", "last", "epoch"),
    [
        ("step_000100.pt", 100, 100, None),
        ("epoch=3-step=1200.ckpt", 1200, 1200, 3),
        ("checkpoint-500", 500, 500, None),
        ("run2/model.pt", None, 2, None),
        ("epoch_7.pt", None, None, 7),
        ("final.pt", None, None, None),
        ("global_step12/mp_rank_00.pt", 12, 0, None),
        ("step_" + "9" * 40 + ".pt", None, None, None),
    ],
)
def test_names_say_steps(name: str, step: int | None, last: int | None, epoch: int | None) -> None:
    assert explicit_step_in(name) == step
    assert step_in(name) == last
    assert epoch_in(name) == epoch


def test_names_sort_as_people_count() -> None:
    names = ["a/step_10.pt", "a/step_9.pt", "a/step_100.pt", "b/1.pt", "a.pt"]
    assert sorted(names, key=natural_key) == ["a/step_9.pt", "a/step_10.pt", "a/step_100.pt", "a.pt", "b/1.pt"]
    assert {series_of(name) for name in names[:3]} == {"a/step_#.pt"}
    assert series_of("run1/step_100/model.pt") == "run1/step_#/model.pt"
