"""Folders, conversions and exports as a person runs them: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.equality import assert_same
from tests.snapshots import snapshot
from tests.test_cli import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder = tmp_path / "work"
    folder.mkdir()
    made = Shell(folder)
    made.run("init")
    return made


@pytest.fixture
def run(shell: Shell) -> Path:
    """A folder of a trained model."""
    folder = shell.folder / "run"
    (folder / "empty").mkdir(parents=True)
    torch.manual_seed(0)
    safetensors.torch.save_file({"w": torch.randn(300, 300)}, folder / "model.safetensors")
    torch.save({"state": {0: {"m": torch.randn(90_000)}}, "param_groups": [{"lr": 0.1}]}, folder / "optimizer.pt")
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "best").symlink_to("model.safetensors")
    return folder


def test_a_folder(shell: Shell, run: Path) -> None:
    said = shell.run("commit", run, "-m", "all of it", "--step", "3").stdout
    assert said.startswith("[main ")
    assert "all of it" in said
    (entry,) = shell.json("log")["result"]
    assert entry["components"] == ["model", "optimizer", "@files"]
    assert entry["step"] == 3
    text = shell.run("checkout", "main", "-o", "back").stdout
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "back/config.json", "back/model.safetensors", "back/optimizer.pt",
    ]  # fmt: skip
    assert snapshot(shell.folder / "back") == snapshot(run)
    again = shell.json("commit", "run", "--allow-empty")
    assert again["command"] == "commit"
    assert again["result"]["new_objects"] == 1
    assert again["result"]["parents"] == [entry["id"]]
    assert again["result"]["raw_bytes"] == sum(path.stat().st_size for path in run.iterdir() if not path.is_symlink()
                                               and path.is_file())  # fmt: skip


def test_the_folder_one_stands_in(shell: Shell, run: Path) -> None:
    """The repository in it is no part of the commit."""
    shell.run("commit", ".")
    (shell.folder / "later").write_text("x")
    files = shell.json("checkout", "main", "-o", "../back")["result"]["files"]
    assert [path for path, _ in files] == [
        f"../back/run/{name}" for name in ("config.json", "model.safetensors", "optimizer.pt")
    ]
    assert not (shell.folder / "../back/.ckstore").exists()


def test_several_paths_and_plain_bytes(shell: Shell, run: Path) -> None:
    shell.run("commit", run / "config.json", run / "optimizer.pt", "--opaque")
    (entry,) = shell.json("log")["result"]
    assert entry["components"] == ["@files"]
    shell.run("checkout", "main", "-o", "back")
    assert (shell.folder / "back/optimizer.pt").read_bytes() == (run / "optimizer.pt").read_bytes()


def test_what_cannot_be_committed(shell: Shell, run: Path) -> None:
    (run / "here").symlink_to(".")
    for given, code, error in (
        ([run], 2, "invalid-input"),
        ([run / "empty"], 2, "invalid-input"),
        ([run / "no"], 1, "not-found"),
        ([run / "config.json", run / "config.json"], 2, "invalid-input"),
    ):
        told = shell.json("commit", *given, code=code)["error"]
        assert (told["code"], told["exit_code"]) == (error, code)
        assert told["hint"]
    (run / "here").unlink()
    (run / "bad.safetensors").write_bytes(b"\xff" * 100)
    told = shell.json("commit", run, code=1)["error"]
    assert told["code"] == "format"
    assert "'bad.safetensors'" in told["what"]
    assert "--opaque" in shell.run("commit", run, code=1).stderr
    assert shell.json("log")["result"] == []


def test_only_some_files(shell: Shell, run: Path) -> None:
    shell.run("commit", run)
    result = shell.json("checkout", "main", "-o", "some", "--only", "*.json", "--only", "optimizer.pt")["result"]
    assert [path for path, _ in result["files"]] == ["some/config.json", "some/optimizer.pt"]
    assert result["converted"] is False
    shell.run("checkout", "main", "-o", "single", "--only", "config.json")
    assert (shell.folder / "single").read_text() == '{"a": 1}'
    told = shell.json("checkout", "main", "-o", "none", "--only", "*.txt", code=2)["error"]
    assert "*.txt" in told["why"]
    assert not (shell.folder / "none").exists()


def test_new_files(shell: Shell, run: Path) -> None:
    shell.run("commit", run)
    said = shell.run("checkout", "main", "-o", "all.safetensors").stdout
    assert said.startswith("all.safetensors  ")
    assert "1 values are no tensors and were left out: optimizer.param_groups.0.lr" in said
    result = shell.json("checkout", "main", "-o", "part", "--only", "model.w", "--format", "safetensors")["result"]
    assert (result["converted"], result["left_out"], result["left_out_paths"]) == (True, 0, [])
    assert_same(
        safetensors.torch.load_file(shell.folder / "part"), safetensors.torch.load_file(run / "model.safetensors")
    )
    shell.run("checkout", "main", "-o", "o.pt", "--only", "optimizer.state.*")
    assert_same(torch.load(shell.folder / "o.pt")["state"], torch.load(run / "optimizer.pt")["state"])
    assert "exists" in shell.run("checkout", "main", "-o", "o.pt", "--format", "pt", code=2).stderr
    assert "--format" in shell.run("checkout", "main", "-o", "x.onnx", "--only", "model.w", code=2).stderr


def test_exports(shell: Shell, run: Path) -> None:
    shell.run("commit", run)
    said = shell.run("export", "main", "-o", "hub", "--format", "huggingface").stdout
    assert "hub/model.safetensors  " in said
    assert "Read back: equal to the commit, bit for bit." in said
    assert sorted(os.listdir(shell.folder / "hub")) == ["config.json", "model.safetensors"]
    result = shell.json("export", "main", "-o", "x.pt", "--format", "pytorch", "--only", "model")["result"]
    assert (result["format"], result["left_out"]) == ("pytorch", 0)
    assert [path for path, _ in result["files"]] == ["x.pt"]
    assert list(torch.load(shell.folder / "x.pt")) == ["w"]
    for arguments in (["-o", "x.pt", "--format", "pytorch"], ["-o", "y", "--format", "onnx"]):
        assert shell.json("export", "main", *arguments, code=2)["error"]["hint"]
    shell.run("export", "main", "-o", "y", code=2)
    assert not (shell.folder / "y").exists()


def test_names_cannot_steer_the_terminal(shell: Shell, run: Path) -> None:
    for name in (b"\x1b[2Jgone", b"two\nlines", b"\xff\xfe"):
        Path(os.fsdecode(os.fsencode(run) + b"/" + name)).write_bytes(name)
    shell.run("commit", run)
    text = shell.run("checkout", "main", "-o", "back").stdout
    assert "\x1b" not in text
    assert len(text.splitlines()) == 6
    refused = shell.run("checkout", "main", "-o", "back", code=2).stderr
    assert "?[2Jgone exists" in refused
    assert "\x1b" not in refused
    paths = [path for path, _ in shell.json("checkout", "main", "-o", "again")["result"]["files"]]
    assert sorted(os.fsencode(path) for path in paths)[0] == b"again/\x1b[2Jgone"
    assert snapshot(shell.folder / "back") == snapshot(run)
    assert json.loads(shell.run("--json", "log").stdout)["command"] == "log"
