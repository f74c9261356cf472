"""The command as a person runs it: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore
from tests.commands import run_command

if TYPE_CHECKING:
    from pathlib import Path


class Shell:
    """Runs `ckstore` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), **environment}
        ran = run_command(arguments, self.folder, env)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder = tmp_path / "work"
    folder.mkdir()
    return Shell(folder)


@pytest.fixture
def model(shell: Shell) -> Path:
    path = shell.folder / "model.pt"
    torch.manual_seed(0)
    torch.save({"model": {"w": torch.randn(400, 400), "b": torch.zeros(3)}, "step": 7}, path)
    return path


def test_commit_log_checkout(shell: Shell, model: Path) -> None:
    assert "Made an empty repository" in shell.run("init").stdout
    assert "There is a repository already" in shell.run("init").stdout
    first = shell.run("commit", model, "-m", "first", "--step", "10", "--metric", "val/loss=2.5", "--tag", "v1").stdout
    assert first.startswith("[main ")
    again = shell.json("commit", model, "--step", "20", "--metric", "val/loss=1.5")["result"]
    assert again["known_objects"] >= 3
    assert again["pack_bytes"] < 2000
    text = shell.run("log").stdout
    assert "HEAD -> main" in text
    assert "tag: v1" in text
    assert "val/loss=2.5" in text
    assert "first" in text
    lines = shell.run("log", "--oneline", "--graph").stdout.splitlines()
    assert [line[:2] for line in lines] == ["* ", "* "]
    for revision in ("v1", "HEAD~1", "best:val/loss:max", "step:10", again["parents"][0][:8]):
        target = shell.folder / "out.pt"
        shell.run("checkout", revision, "-o", target, "--force")
        assert target.read_bytes() == model.read_bytes()
    assert target.stat().st_mtime_ns == model.stat().st_mtime_ns
    assert shell.run("-q", "log").stdout == ""


def test_json_is_one_versioned_document(shell: Shell, model: Path) -> None:
    assert shell.json("init")["result"]["created"] is True
    assert shell.json("log") == {"schema": 1, "command": "log", "result": []}
    shell.json("commit", model, "--metric", "acc=nan")
    (entry,) = shell.json("log")["result"]
    assert entry["metrics"] == {"acc": "nan"}
    assert entry["components"] == ["model", "step", "@files"]
    assert json.loads(shell.run("--json", "verify", "--read-data").stdout)["result"]["findings"] == []
    wrong = shell.json("checkout", "mian", "-o", "x", code=13)
    assert wrong["error"]["code"] == "no-revision"
    assert "main" in wrong["error"]["hint"]


def test_verbose_says_how_long_it_took(shell: Shell, model: Path) -> None:
    shell.run("init")
    assert shell.run("commit", model).stderr == ""
    assert re.fullmatch(r"log: \d+\.\d\d s\n", shell.run("-v", "log").stderr)


def test_branches_and_head(shell: Shell, model: Path) -> None:
    shell.run("init", "--branch", "trunk")
    shell.run("commit", model)
    shell.run("commit", model, "--branch", "other")
    shell.run("commit", model, "--branch", "third", "--parent", "trunk")
    assert shell.run("checkout", "third").stdout == "On branch third\n"
    refused = shell.run("commit", model, code=2).stderr
    assert "nothing has changed" in refused
    assert "--allow-empty" in refused
    shell.run("commit", model, "--allow-empty")
    told = {entry["id"]: entry for entry in shell.json("log", "--all")["result"]}
    tips = {name: entry for entry in told.values() for name in entry["branches"]}
    assert tips["other"]["parents"] == []
    assert len(tips["third"]["parents"]) == 1
    assert told[tips["third"]["parents"][0]]["parents"] == [tips["trunk"]["id"]]
    graph = shell.run("log", "--graph", "--oneline", "--all").stdout.splitlines()
    assert sum("*" in line for line in graph) == 4


def test_exit_codes_and_three_lines(shell: Shell, model: Path) -> None:
    no_repository = shell.run("log", code=10)
    assert no_repository.stdout == ""
    assert no_repository.stderr.splitlines()[0].startswith("error: no ckstore repository")
    assert "Fix: " in no_repository.stderr
    shell.run("init")
    shell.run("log", "nope", code=13)
    shell.run("checkout", "main", code=13)
    shell.run("commit", "missing.pt", code=1)
    shell.run("commit", model, "--metric", "loss", code=2)
    shell.run("commit", model, "--nonsense", code=2)
    shell.run("commit", model, "--tag", "a b", code=2)
    shell.run("commit", model, "--tag", "v1")
    shell.run("commit", model, "--tag", "v1", code=2)
    (shell.folder / "there").write_text("mine")
    shell.run("checkout", "v1", "-o", "there", code=2)
    assert (shell.folder / "there").read_text() == "mine"


def test_damaged_files_are_refused_whole(shell: Shell, model: Path) -> None:
    shell.run("init")
    bad = shell.folder / "bad.safetensors"
    bad.write_bytes((10**9).to_bytes(8, "little") + b"{}")
    refused = shell.run("commit", bad, code=1)
    assert "--opaque" in refused.stderr
    cut = shell.folder / "cut.pt"
    cut.write_bytes(model.read_bytes()[:-100])
    shell.run("commit", cut, code=1)
    assert shell.json("log")["result"] == []
    assert list((shell.folder / ".ckstore/packs").iterdir()) == []
    shell.run("commit", bad, "--opaque")
    shell.run("checkout", "HEAD", "-o", "back")
    assert (shell.folder / "back").read_bytes() == bad.read_bytes()


def test_verify_finds_damage(shell: Shell, model: Path) -> None:
    shell.run("init")
    shell.run("commit", model)
    shell.run("verify", "--read-data")
    packs = sorted((shell.folder / ".ckstore/packs").iterdir(), key=lambda path: path.stat().st_size)
    with packs[-1].open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 0x10]))
    assert "No problem found" in shell.run("verify").stdout
    found = shell.json("verify", "--read-data", code=4)["result"]["findings"]
    assert len(found) == 1
    assert len(found[0]["commits"]) == 1
    shell.run("checkout", "HEAD", "-o", "out.pt", code=1)
    assert not (shell.folder / "out.pt").exists()


def test_an_unexpected_error_is_three_lines(shell: Shell) -> None:
    shell.run("init")
    (shell.folder / ".ckstore/format").write_text("format = 99\nid = '" + "0" * 32 + "'\n")
    assert "newer ckstore" in shell.run("log", code=1).stderr
    (shell.folder / ".ckstore/format").write_text("nonsense")
    assert "damaged" in shell.run("log", code=1).stderr


def test_a_strangers_text_cannot_steer_the_terminal(shell: Shell, model: Path) -> None:
    with ckstore.open(shell.folder) as repo:
        repo.commit({"a": 1}, message="\x1b[2Jgone", metrics={"x\x07": 1.0})
    text = shell.run("log").stdout + shell.run("log", "--oneline").stdout
    assert "\x1b[2J" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("command", [["--help"], ["log", "-n", "20"], ["verify"], ["commit", "f.bin"]])
def test_commands_load_neither_torch_nor_numpy(shell: Shell, command: list[str]) -> None:
    shell.run("init")
    (shell.folder / "f.bin").write_bytes(b"x" * 5000)
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'numpy', 'boto3', 'google', 'azure'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from ckstore.cli.main import run\n"
        "run()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=shell.folder, capture_output=True, text=True, check=False
    )
    assert "HEAVY []" in ran.stderr
    assert ran.returncode == 0


def test_demo_in_json(shell: Shell) -> None:
    result = shell.json("demo", "here")["result"]
    assert result["same_as_uninterrupted"] is True
    assert result["exact_checkout"] is True
    assert result["problems"] == 0
    assert result["resumed_at_step"] == 30
    assert result["commits"] == 14
    assert result["stored_bytes"] < result["raw_bytes"]
    assert len(shell.json("-C", "here", "log", "--all")["result"]) == 14
    shell.run("demo", "here", code=2)
