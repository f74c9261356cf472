"""The application: global options, the commands, and errors as three lines and an exit code."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import ckstore
from ckstore.cli.context import SCHEMA, Settings
from ckstore.cli.group import Group
from ckstore.cli.text import lines
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

COMPLETING = "_CKSTORE_COMPLETE"
"""Set by a shell that asks what could follow."""

app = typer.Typer(
    name="ckstore",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ckstore {ckstore.__version__}")
        raise typer.Exit


def _color(when: str) -> str:
    if when not in ("auto", "always", "never"):
        raise InvalidInput(f"--color {when!r} is not known", hint="use auto, always or never")
    return when


@app.callback()
def main(
    context: typer.Context,
    repo: Annotated[Path, typer.Option("-C", "--repo")] = Path(),
    json_output: Annotated[bool, typer.Option("--json")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress")] = False,
    color: Annotated[str, typer.Option("--color", callback=_color)] = "auto",
    yes: Annotated[bool, typer.Option("-y", "--yes")] = False,
    no_input: Annotated[bool, typer.Option("--no-input")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Checkpoints as commits: deduplicated, bit-exact, safe under kill -9."""
    context.obj = Settings(repo, json_output, quiet, verbose, not no_progress, color, yes, no_input)


def run() -> None:
    """The entry point: runs one command and exits with its code."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without the character must not end the command
    try:
        if COMPLETING in os.environ:
            from typer.completion import completion_init  # type: ignore[attr-defined]  # the shells' scripts: only where one asks

            completion_init()
        sys.exit(app(prog_name="ckstore", standalone_mode=False))
    except CkstoreError as error:
        _fail(error.code, error.what, error.why, error.hint, error.retryable, _exit_code(error))
    except typer.TyperException as error:
        _usage(error)
    except (KeyboardInterrupt, typer.Abort):
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


def _usage(error: typer.TyperException) -> NoReturn:
    """A command line that is none: what is wrong with it, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "ckstore"
    message = error.format_message()
    if not message and context is not None:  # no arguments at all
        typer.echo(context.get_help())
        sys.exit(0)
    _fail("usage", message[:1].lower() + message[1:], None, f"{command} --help", False, 2)


def _fail(code: str, what: str, why: str | None, hint: str | None, retryable: bool, exit_code: int) -> NoReturn:
    if os.environ.get("CKSTORE_DEBUG"):
        traceback.print_exc()
    if "--json" in sys.argv[1:]:
        said = {"code": code, "what": what, "why": why, "hint": hint, "retryable": retryable, "exit_code": exit_code}
        typer.echo(json.dumps({"schema": SCHEMA, "error": said}, indent=2))
    else:
        typer.echo(f"error: {lines(what)}", err=True)
        if why:
            typer.echo(f"  {lines(why)}", err=True)
        if hint:
            typer.echo(f"  Fix: {lines(hint)}", err=True)
    sys.exit(exit_code)


def _show_warning(message: Warning | str, *_: object) -> None:
    typer.echo(f"warning: {lines(str(message))}", err=True)
