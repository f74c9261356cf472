"""pin and unpin: commits that no policy drops."""

from __future__ import annotations

from typing import Annotated

import typer

from ckstore.cli.complete import revisions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.moving import emit_moved, ref_lines


def pin(
    context: typer.Context,
    revision: Annotated[
        str | None, typer.Argument(help="The commit to pin (default: list them).", autocompletion=revisions)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would move.")] = False,
    json: JsonFlag = False,
) -> None:
    """Keep a commit whatever retention policies say, or list those.

    Example: ckstore pin best:val/loss:min
    """
    from ckstore.porcelain import pin as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        if revision is not None:
            moved = verb.pin(repository, verb.PinOptions(revision, told.now_ns, dry_run))
            emit_moved(told, moved, dry_run=dry_run)
        else:
            found = verb.list_pins(repository)
            emit(told, found, "\n".join(ref_lines(found, told.now_ns, named=False)) or "Nothing is pinned.")


def unpin(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="The commit.", autocompletion=revisions)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would move.")] = False,
    json: JsonFlag = False,
) -> None:
    """Leave a pinned commit to the retention policies again.

    Example: ckstore unpin 3f9c2a1
    """
    from ckstore.porcelain import pin as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        moved = verb.unpin(repository, verb.PinOptions(revision, told.now_ns, dry_run))
    emit_moved(told, moved, dry_run=dry_run)
