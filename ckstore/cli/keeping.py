"""doctor, migrate and completion: that what is around a repository stays well."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.text import printable
from ckstore.errors import InvalidInput, NoRepository

if TYPE_CHECKING:
    from ckstore.porcelain.doctor import Check

FINDINGS = 4
"""Exit code of a verify or doctor that found something."""

SHELLS = ("bash", "zsh", "fish")

_MARKS = {"ok": "ok", "warning": "warn", "problem": "BAD"}
_COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(context: typer.Context, json: JsonFlag = False) -> None:
    """Check the installation and the repository's surroundings.

    Exit code 4 if something is a problem. Changes nothing.

    Example: ckstore doctor
    """
    from ckstore.porcelain.doctor import doctor as verb

    told = settings(context, json_flag=json)
    try:
        with told.open() as repository:
            result = verb(repository, told.now_ns)
    except NoRepository:
        result = verb(None, told.now_ns)
    emit(told, result, "\n".join(line for check in result.checks for line in _check(check)))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def migrate(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: JsonFlag = False,
) -> None:
    """Take a repository of an older format to the one that this ckstore writes.

    Commits, ids and packs stay as they are. An older ckstore refuses the repository afterwards.

    Example: ckstore migrate --dry-run
    """
    from ckstore.porcelain.migrate import migrate as verb

    told = settings(context, json_flag=json)
    result = verb(told.folder, dry_run=dry_run)
    if result.before == result.now:
        text = f"Nothing to do: {printable(str(result.folder))} has format {result.now}."
    else:
        done = "would go" if dry_run else "went"
        text = f"{printable(str(result.folder))} {done} from format {result.before} to {result.now}."
    emit(told, result, text)


def _check(check: Check) -> list[str]:
    mark = typer.style(f"{_MARKS[check.state]:>4}", fg=_COLORS[check.state])
    lines = [f"{mark}  {check.name:<12} {printable(check.what)}"]
    return [*lines, f"{'':18}Fix: {printable(check.hint)}"] if check.hint and check.state != "ok" else lines


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")] = "bash",
) -> None:
    """Print the script that completes commands in your shell.

    Example: ckstore completion bash >> ~/.bashrc

    Example: ckstore completion fish > ~/.config/fish/completions/ckstore.fish
    """
    if shell not in SHELLS:
        raise InvalidInput(f"there is no completion for {shell!r}", hint=f"use one of {', '.join(SHELLS)}")
    # Asked as a shell would ask, in a process of its own: the answer ends it.
    asked = {**os.environ, "_CKSTORE_COMPLETE": f"source_{shell}"}
    program = [sys.executable, "-c", "from ckstore.cli.main import run; run()"]
    script = subprocess.run(program, env=asked, stdout=subprocess.PIPE, text=True, check=False).stdout
    typer.echo(script.rstrip())
