"""What every command shares: the global options, opening the repository, and one shape of output."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckstore.api import default_cache
from ckstore.cli.progress_line import ProgressLine
from ckstore.progress import SILENT
from ckstore.repository import Repository, open_repository

if TYPE_CHECKING:
    from ckstore.progress import Progress

SCHEMA = 1
"""Version of the `--json` output."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The global options."""

    folder: Path
    json: bool = False
    quiet: bool = False
    progress: bool = True
    command: str = ""

    def open(self) -> Repository:
        """The repository in or above the folder. Raises `NoRepository`."""
        in_cache = os.environ.get("CKSTORE_INDEX") == "cache"
        return open_repository(self.folder, default_cache(), search=True, index_in_cache=in_cache)

    def bar(self) -> Progress:
        """What long work reports to: a line on the terminal, a line now and then elsewhere, or nothing."""
        if self.quiet or self.json or not self.progress:
            return SILENT
        return ProgressLine(sys.stderr, live=sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def settings(context: typer.Context, *, json_flag: bool = False) -> Settings:
    """The settings of this call; `--json` counts before and after the command."""
    found = context.obj
    assert isinstance(found, Settings)
    return dataclasses.replace(found, json=found.json or json_flag, command=context.info_name or "")


def emit(told: Settings, result: object, text: str) -> None:
    """Print a result: as JSON of the versioned schema, or as `text`, unless `--quiet` (then nothing)."""
    if told.json:
        document = {"schema": SCHEMA, "command": told.command, "result": jsonable(result)}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=True))
    elif text and not told.quiet:
        typer.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def jsonable(value: Any) -> Any:
    """A frozen result as JSON values: dataclasses as objects, paths as strings, NaN and infinities as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return str(value)
