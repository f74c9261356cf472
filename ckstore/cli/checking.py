"""validate: what is wrong with what a commit holds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import revisions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.text import SHORT, count, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.graph.content import ContentFinding
    from ckstore.porcelain.validate import ValidateResult

_SHOWN = 50
_COLORS = {"warning": "yellow", "problem": "red"}


def validate(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="Which commit.", autocompletion=revisions)] = "HEAD",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="REV", help="An older commit: compare shapes and norms."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODULE:FACTORY", help="A function that returns the model: compare names and shapes."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GLOB", help="Only these paths; may be repeated.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check what a commit holds: NaN, infinities, broken weights, other shapes.

    Exit code 4 if anything is found, warnings too. Reads the tensors; `verify` looks at how they are stored.

    Example: ckstore validate HEAD --against HEAD~1

    Example: ckstore validate best:val/loss:min --model my_package.model:build --only "model.*"
    """
    from ckstore.plugins import plugins
    from ckstore.porcelain.validate import VALIDATOR, ValidateOptions
    from ckstore.porcelain.validate import validate as verb

    told = settings(context, json_flag=json)
    expected = None
    if model is not None:
        from ckstore.torch.expected import expected_tensors, factory_named  # torch

        sys.path.insert(0, os.getcwd())  # as `python -m` has it: a project's own modules are there
        expected = expected_tensors(factory_named(model))
    with told.open() as repository:
        options = ValidateOptions(told.now_ns, against, expected, only, plugins(VALIDATOR))
        result = verb(repository, revision, options, told.bar())
    emit(told, result, "\n".join(_lines(result)))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def _lines(result: ValidateResult) -> Iterator[str]:
    compared = "" if result.against is None else f", against {result.against.id[:SHORT]}"
    asked = f", plug-ins {', '.join(map(printable, result.validators))}" if result.validators else ""
    unmeasured = f" ({result.unmeasured} of no numbers)" if result.unmeasured else ""
    yield f"{result.commit.id[:SHORT]}: {count(result.tensors, 'tensor')} looked at{unmeasured}{compared}{asked}"
    yield from map(_finding, result.findings[:_SHOWN])
    if len(result.findings) > _SHOWN:
        yield f"... and {len(result.findings) - _SHOWN} more (--json has all, --only selects)"
    problems = sum(finding.severity == "problem" for finding in result.findings)
    warnings = len(result.findings) - problems
    yield f"{count(problems, 'problem')}, {count(warnings, 'warning')}." if result.findings else "Nothing found."


def _finding(finding: ContentFinding) -> str:
    severity = typer.style(f"{finding.severity:<7}", fg=_COLORS[finding.severity])
    where = f"{printable(finding.path)}: " if finding.path else ""
    return f"{severity}  {printable(finding.check):<9}  {where}{printable(finding.what)}"
