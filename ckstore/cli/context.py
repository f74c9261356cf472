"""What every command shares: the global options, opening the repository, and one shape of output."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckstore.api.environment import default_cache, now, settings_layers, user_settings_file
from ckstore.cli.group import ALIASES
from ckstore.cli.progress_line import ProgressLine
from ckstore.config import Config, merge
from ckstore.errors import InvalidInput, NoRepository
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.repository import Repository
    from ckstore.storage.layout import Layout

MIN_WIDTH = 40
"""Narrower terminals get lines that they wrap."""

SCHEMA = 1
"""Version of the `--json` output."""

PRICE = 0.023
"""Dollars a month for a GB in S3 Standard, us-east-1, the first 50 TB (aws.amazon.com/s3/pricing)."""

Price = Annotated[float, typer.Option("--price", help="Dollars for a GB and month.")]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The global options."""

    folder: Path
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    progress: bool = True
    color: str = "auto"
    yes: bool = False
    no_input: bool = False
    command: str = ""
    began_s: float = dataclasses.field(default_factory=time.perf_counter)

    def open(self) -> Repository:
        """The repository in or above the folder. Raises `NoRepository`."""
        from ckstore.repository import open_repository  # the store: help and usage errors need none

        in_cache = os.environ.get("CKSTORE_INDEX") == "cache"
        layers = settings_layers()
        return open_repository(self.folder, default_cache(), search=True, index_in_cache=in_cache, layers=layers)

    def layout(self) -> Layout:
        """Where the repository in or above the folder lies, without opening it. Raises `NoRepository`."""
        from ckstore.repository import find_layout

        return find_layout(self.folder, search=True)

    def config(self) -> Config:
        """The settings that count here, with a repository or without."""
        try:
            with self.open() as repository:
                return repository.config
        except NoRepository:
            return merge(settings_layers())

    def user_file(self) -> Path:
        """The user's own settings."""
        return user_settings_file()

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds since 1970 UTC."""
        return now()[0]

    @property
    def styled(self) -> bool | None:
        """Whether text keeps its colors; None leaves it to whether it goes to a terminal."""
        if self.color != "auto":
            return self.color == "always"
        return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None

    @property
    def width(self) -> int | None:
        """How many characters a line may have; None where nobody looks at a terminal."""
        if sys.stdout.isatty() or "COLUMNS" in os.environ:
            return max(shutil.get_terminal_size().columns, MIN_WIDTH)
        return None

    def confirm(self, question: str, how: str) -> None:
        """Go on only if the user says yes. Raises `InvalidInput`, with `how` to say yes, where nobody can be asked."""
        if self.yes:
            return
        if self.no_input or self.json or not sys.stdin.isatty():
            raise InvalidInput(f"this needs a yes: {question}", hint=how)
        typer.confirm(question, abort=True)

    def bar(self) -> Progress:
        """What long work reports to: a line on the terminal, a line now and then elsewhere, or nothing."""
        if self.quiet or self.json or not self.progress:
            return SILENT
        live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
        return ProgressLine(sys.stderr, live=live)


def settings(context: typer.Context, *, json_flag: bool = False) -> Settings:
    """The settings of this call; `--json` counts before and after the command."""
    found = context.obj
    assert isinstance(found, Settings)
    first, *rest = context.command_path.removeprefix("ckstore ").split()
    command = " ".join([ALIASES.get(first, first), *rest])
    return dataclasses.replace(found, json=found.json or json_flag, command=command)


def emit(told: Settings, result: object, text: str) -> None:
    """Print a result: as JSON of the versioned schema, or as `text`, unless `--quiet` (then nothing).

    With `--verbose` how long it took goes to the error stream.
    """
    if told.json:
        typer.echo(document(told, result))
    elif text and not told.quiet:
        typer.echo(text, color=told.styled)
    if told.verbose:
        typer.echo(f"{told.command}: {time.perf_counter() - told.began_s:.2f} s", err=True)


def document(told: Settings, result: object) -> str:
    """A result as JSON of the versioned schema."""
    said = {"schema": SCHEMA, "command": told.command, "result": jsonable(result)}
    return json.dumps(said, indent=2, ensure_ascii=True)


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
