"""The reference pages say what the sources say, and `--json` prints what its schema says."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from ckstore.cli.group import TASKS, Group, Listed
from ckstore.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
LISTED = [listed for task in TASKS.values() for listed in task]

USES = (
    "init",
    "status",
    "branch",
    "tag",
    "commit model.pt -m first --step 1 --metric loss=0.5 --metric worst=inf",
    "commit model.pt -m second --step 2 --metric loss=nan --tag v1",
    "import runs --dry-run",
    "import runs",
    "scan .",
    "status",
    "log",
    "list --sort loss",
    "show HEAD --stat",
    "diff HEAD~1 --stat",
    "diff step:1 v1",
    "checkout -b other HEAD~2",
    "commit runs/step_100.pt --step 200",
    "diverge main other",
    "du",
    "checkout main -o copy",
    "export HEAD -o weights.safetensors --format safetensors",
    "branch",
    "branch third",
    "branch -d third --dry-run",
    "tag",
    "tag v2 HEAD~1",
    "reflog",
    "undo --dry-run",
    "undo",
    "pin",
    "pin HEAD",
    "pin",
    "unpin HEAD",
    "gc --keep-last 2 --keep step:last=1 --dry-run",
    "gc --keep-last 2 --repack",
    "undo",
    "verify --read-data",
    "verify --subset 50%",
    "repair",
    "migrate",
    "validate HEAD --against HEAD~1 --only weight --only *.weight",
    "config list --origin",
    "config get list.columns",
    "config set list.columns step,loss",
    "config unset list.columns",
    "doctor",
    "remote list",
    "remote add origin store",
    "remote add backup backup --no-test --jobs 2 --limit-rate 50M",
    "remote list",
    "push --dry-run",
    "push --all",
    "push backup --tags",
    "remote show",
    "remote show backup",
    "remote test backup",
    "verify --remote origin --read-data",
    "repair --remote origin --dry-run",
    "repair --from origin",
    "fetch",
    "pull",
    "clone store laptop --only model",
    "-C laptop fetch --fill",
    "-C laptop pull --dry-run",
    "status",
    "remote gc --dry-run",
    "remote remove backup",
)
"""Command lines, run one after another: together they give every result, in both of its forms where it has two."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and subcommand with its words."""
    group = Group(name="ckstore")
    for listed in LISTED:
        command = group.get_command(None, listed.name)
        below = getattr(command, "commands", {})
        yield from ((f"{listed.name} {name}", one) for name, one in below.items())
        if not below:
            yield listed.name, command


def test_pages_are_up_to_date() -> None:
    ran = subprocess.run([sys.executable, REFERENCE / "build.py", "--check"], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed.name)
def test_a_summary_begins_the_help(listed: Listed) -> None:
    help_text = inspect.cleandoc(Group(name="ckstore").get_command(None, listed.name).help)
    assert f"{help_text.splitlines()[0]} ".startswith(f"{listed.summary} ")


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=[words for words, _ in commands()])
def test_every_command_has_an_example_of_itself(words: str, command: Any) -> None:
    examples = re.findall(r"^Example: (.*)$", inspect.cleandoc(command.help), re.MULTILINE)
    assert examples
    assert any(shlex.split(example)[1:][: len(words.split())] == words.split() for example in examples)


def test_every_command_has_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REFERENCE)
    results = importlib.import_module("json_schema").RESULTS
    assert set(results) == {words for words, _ in commands()}


def test_every_variable_is_told() -> None:
    told = (REFERENCE / "cli.md").read_text()
    sources = [path.read_text() for part in ("cli", "api") for path in (ROOT / "ckstore" / part).glob("*.py")]
    variables = {name for source in sources for name in re.findall(r"\bCKSTORE_[A-Z]+\b", source)}
    assert variables
    assert [name for name in sorted(variables) if f"`{name}`" not in told] == []


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    document = json.loads((REFERENCE / "schema.json").read_text())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_json_is_what_the_schema_says(
    schema: Draft202012Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.randn(50, 50), "bias": torch.full((3,), torch.nan)}}, "model.pt")
    (tmp_path / "runs").mkdir()
    for step in (100, 200):
        torch.save({"model": {"weight": torch.randn(50, 50)}, "step": step}, tmp_path / f"runs/step_{step}.pt")
    for use in USES:
        ran = CliRunner().invoke(app, ["--json", *shlex.split(use)])
        assert ran.exit_code == 0, (use, ran.output, ran.exception)
        document = json.loads(ran.stdout)
        assert not list(schema.iter_errors(document)), use
    used = {use.removeprefix("-C laptop ").split()[0] for use in USES}
    assert {listed.name for listed in LISTED} - used == {"completion", "demo"}


def test_errors_are_what_the_schema_says(schema: Draft202012Validator, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from ckstore.cli.main import run; run()", "status", "--json"]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    document = json.loads(ran.stdout)
    assert not list(schema.iter_errors(document))
    assert document["error"]["exit_code"] == ran.returncode == 10


def test_the_schema_refuses_what_is_not_printed(schema: Draft202012Validator) -> None:
    assert list(schema.iter_errors({"schema": 1, "command": "log", "result": [{"id": "3f9c"}]}))
    assert list(schema.iter_errors({"schema": 1, "command": "nothing", "result": {}}))
