"""The application: global options, the commands, and errors as three lines and an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

import ckstore
from ckstore.cli import commands, scanning
from ckstore.cli.context import SCHEMA, Settings
from ckstore.cli.demo import demo
from ckstore.errors import (
    Auth,
    CkstoreError,
    InvalidInput,
    Locked,
    NoRepository,
    NoRevision,
    StoreFull,
)

EXIT_CODES: dict[type[CkstoreError], int] = {
    InvalidInput: 2,
    NoRepository: 10,
    Locked: 11,
    Auth: 12,
    NoRevision: 13,
    StoreFull: 14,
}
"""Exit code of each error; 1 for all others."""

_INTERRUPTED = 130

app = typer.Typer(
    name="ckstore",
    help="git for training state: checkpoints as commits, deduplicated, bit-exact, safe under kill -9.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ckstore {ckstore.__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    repo: Annotated[Path, typer.Option("-C", "--repo", help="Work as if started in this folder.")] = Path(),
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Do not report progress.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Checkpoints as commits: deduplicated, bit-exact, safe under kill -9."""
    context.obj = Settings(repo, json_output, quiet, not no_progress)


for _command in (
    commands.init,
    commands.commit,
    commands.log,
    commands.checkout,
    commands.export,
    commands.verify,
    scanning.scan,
    demo,
):
    app.command()(_command)
app.command("import")(scanning.import_)


def run() -> None:
    """The entry point: runs one command and exits with its code."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except CkstoreError as error:
        _fail(error.code, error.what, error.why, error.hint, error.retryable, _exit_code(error))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; what Python would flush at exit has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("CKSTORE_DEBUG"):
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        _fail("internal", what, None, "run again with CKSTORE_DEBUG=1 and report what it prints", False, 1)


def _exit_code(error: CkstoreError) -> int:
    return next((EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES), 1)


def _fail(code: str, what: str, why: str | None, hint: str | None, retryable: bool, exit_code: int) -> None:
    if os.environ.get("CKSTORE_DEBUG"):
        traceback.print_exc()
    if "--json" in sys.argv[1:]:
        said = {"code": code, "what": what, "why": why, "hint": hint, "retryable": retryable, "exit_code": exit_code}
        typer.echo(json.dumps({"schema": SCHEMA, "error": said}, indent=2))
    else:
        typer.echo(f"error: {what}", err=True)
        if why:
            typer.echo(f"  {why}", err=True)
        if hint:
            typer.echo(f"  Fix: {hint}", err=True)
    sys.exit(exit_code)


def _show_warning(message: Warning | str, *_: object) -> None:
    typer.echo(f"warning: {message}", err=True)
