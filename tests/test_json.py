"""`--json`: what every command prints is as docs/reference/schema.json says, errors included."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command
from tests.test_golden import NOW, SCRIPT, folder

__all__ = ["folder"]

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = Path(__file__).parent.parent / "docs" / "reference" / "schema.json"
TEXT_ONLY = ("completion", "--help", "--version")


@pytest.fixture
def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))


def test_every_command_keeps_to_the_schema(folder: Path, validator: Any) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
    seen = set()
    for number, line in enumerate(SCRIPT.strip().splitlines()):
        arguments = shlex.split(line)[1:]
        if any(word in arguments for word in TEXT_ONLY):
            continue
        environment["CKSTORE_NOW"] = str(NOW + 60 * number)
        ran = run_command([*arguments, "--json"], folder, environment)
        document = json.loads(ran.stdout)
        validator.validate(document)
        assert ("error" in document) == (ran.returncode not in (0, 3, 4)), line
        seen.add(document.get("command", "error"))
    assert len(seen) > 20


def test_usage_errors_keep_to_it_too(tmp_path: Path, validator: Any) -> None:
    for arguments in (["commit"], ["log", "--bogus"], ["log", "-n", "many"], ["nonsense"]):
        ran = run_command(["--json", *arguments], tmp_path, os.environ)
        document = json.loads(ran.stdout)
        validator.validate(document)
        assert (document["error"]["code"], ran.returncode) == ("usage", 2)


def test_a_wrong_document_is_refused(validator: Any) -> None:
    for document in (
        {},
        {"schema": 1},
        {"schema": 1, "command": "log", "result": [{"id": 3}]},
        {"schema": 2, "error": {}},
    ):
        assert not validator.is_valid(document)
