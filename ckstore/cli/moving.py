"""checkout, branch, tag, reflog and undo: commits out, their names, and how those move."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import revisions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, age, left_out, printable, table
from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.checkpoint.refs import RefChange, RefInfo, RefsMoved
    from ckstore.cli.context import Settings
    from ckstore.porcelain.branch import BranchInfo
    from ckstore.porcelain.reflog import ReflogResult


def checkout(
    context: typer.Context,
    revision: Annotated[
        str | None, typer.Argument(help="A branch to move to, or any commit.", autocompletion=revisions)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the commit's files here.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="Files by name, or what to convert by path; may be repeated."),
    ] = None,
    format: Annotated[str | None, typer.Option("--format", help="Make a new file: pt or safetensors.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    create: Annotated[str | None, typer.Option("-b", metavar="NAME", help="Make a branch, and move to it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Without -o: only say where HEAD would go.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commit's files or state to the disk, or move to a branch.

    With -o the files come back byte for byte, or as a new file of the commit's state. Without it no file is touched:
    HEAD moves.

    Example: ckstore checkout best:val/loss:min -o best.pt

    Example: ckstore checkout main -o model.safetensors --only "model.*"

    Example: ckstore checkout -b low-lr main~2
    """
    from ckstore.porcelain.checkout import CheckoutOptions
    from ckstore.porcelain.checkout import checkout as verb

    told = settings(context, json_flag=json)
    if output is None or create is not None:
        _switch(told, revision, create, dry_run=dry_run, others=(output, only, format))
        return
    with told.open() as repository:
        result = verb(
            repository, revision or "HEAD", CheckoutOptions(output, told.now_ns, only, format, force), told.bar()
        )
    lines = [f"{printable(str(path))}  {size(length)}" for path, length in result.files]
    emit(told, result, "\n".join([*lines, *left_out(result)]))


def _switch(
    told: Settings, revision: str | None, create: str | None, *, dry_run: bool, others: tuple[object, ...]
) -> None:
    from ckstore.porcelain.switch import SwitchOptions, switch

    if any(other is not None for other in others):
        raise InvalidInput(
            "-b, and --only or --format without -o, write nothing", hint="add -o PATH, or leave them out"
        )
    if revision is None and create is None:
        raise InvalidInput("where to?", hint="ckstore checkout BRANCH, or REV -o PATH to write its files")
    target, start = (create, revision or "HEAD") if create is not None else (revision or "", "HEAD")
    with told.open() as repository:
        result = switch(repository, SwitchOptions(target, told.now_ns, create is not None, start, dry_run))
    where = f"On branch {printable(result.branch)}" if result.branch else f"HEAD is at {(result.id or '')[:SHORT]}"
    lines = [f"{'Would be: ' if dry_run else ''}{where}"]
    if result.branch is None:
        lines.append(
            "It is on no branch: a commit must name one (--branch), or make one here: ckstore checkout -b NAME"
        )
    emit(told, result, "\n".join(lines))


def branch(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The new branch (default: list them).")] = None,
    revision: Annotated[str, typer.Argument(help="Where it begins.", autocompletion=revisions)] = "HEAD",
    delete: Annotated[str | None, typer.Option("-d", "--delete", metavar="NAME", help="Delete a branch.")] = None,
    rename: Annotated[
        tuple[str, str] | None, typer.Option("-m", "--move", metavar="OLD NEW", help="Rename a branch.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it even where no other name reaches its commits.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would move.")] = False,
    json: JsonFlag = False,
) -> None:
    """List, make, rename or delete branches.

    Example: ckstore branch low-lr main~2

    Example: ckstore branch --delete low-lr
    """
    from ckstore.porcelain import branch as verb

    told = settings(context, json_flag=json)
    if sum(given is not None for given in (name, delete, rename)) > 1:
        raise InvalidInput("one branch at a time", hint="ckstore branch --help")
    with told.open() as repository:
        if delete is not None:
            moved = verb.delete_branch(repository, verb.DeleteBranchOptions(delete, told.now_ns, force, dry_run))
            emit_moved(told, moved, dry_run=dry_run)
        elif rename is not None:
            moved = verb.rename_branch(repository, verb.RenameBranchOptions(*rename, told.now_ns, dry_run))
            emit_moved(told, moved, dry_run=dry_run)
        elif name is not None:
            moved = verb.create_branch(repository, verb.BranchOptions(name, told.now_ns, revision, dry_run))
            emit_moved(told, moved, dry_run=dry_run)
        else:
            found = verb.list_branches(repository)
            emit(told, found, "\n".join(_branches(found, told)) or "No branches yet.")


def tag(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The new tag (default: list them).")] = None,
    revision: Annotated[str, typer.Argument(help="The commit it names.", autocompletion=revisions)] = "HEAD",
    delete: Annotated[str | None, typer.Option("-d", "--delete", metavar="NAME", help="Delete a tag.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Move a tag that is taken.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would move.")] = False,
    json: JsonFlag = False,
) -> None:
    """List, make or delete tags.

    Example: ckstore tag v1 best:val/loss:min
    """
    from ckstore.porcelain import tag as verb

    told = settings(context, json_flag=json)
    if name is not None and delete is not None:
        raise InvalidInput("one tag at a time", hint="ckstore tag --help")
    with told.open() as repository:
        if delete is not None:
            moved = verb.delete_tag(repository, verb.DeleteTagOptions(delete, told.now_ns, dry_run))
            emit_moved(told, moved, dry_run=dry_run)
        elif name is not None:
            options = verb.TagOptions(name, told.now_ns, revision, force, dry_run)
            emit_moved(told, verb.create_tag(repository, options), dry_run=dry_run)
        else:
            found = verb.list_tags(repository)
            emit(told, found, "\n".join(ref_lines(found, told.now_ns)) or "No tags yet.")


def reflog(
    context: typer.Context,
    ref: Annotated[
        str | None, typer.Argument(help="Only of this branch, tag or HEAD.", autocompletion=revisions)
    ] = None,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="At most so many moves.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show how branches, tags and HEAD moved.

    The number in front is what `ckstore undo` takes.

    Example: ckstore reflog main -n 20
    """
    from ckstore.porcelain.reflog import ReflogOptions
    from ckstore.porcelain.reflog import reflog as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository, ReflogOptions(ref, limit))
    emit(told, result, "\n".join(_reflog(result, told.now_ns)) or "Nothing has moved yet.")


def undo(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(help="Which move, as reflog numbers it (default: the last).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would move.")] = False,
    json: JsonFlag = False,
) -> None:
    """Take back the last move of a branch, tag or HEAD, or what gc dropped.

    Again takes back the one before. Commits stay; undoing the number of an undo is redo. What gc dropped comes back as
    far as it is still on the disk.

    Example: ckstore undo --dry-run
    """
    from ckstore.porcelain.undo import UndoOptions
    from ckstore.porcelain.undo import undo as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository, UndoOptions(told.now_ns, number, dry_run))
    ago = age(told.now_ns - result.time_ns)
    said = f"{'Would take' if dry_run else 'Took'} back number {result.seq}: {printable(result.reason)}, {ago} ago"
    if result.restored or result.lost:
        lost = f", {result.lost} are gone for good" if result.lost else ""
        again = f"{result.restored} components of commits are back{lost}. The next gc drops them again."
    else:
        again = "" if result.record is None else f"`ckstore undo {result.record}` takes this back in turn."
    emit(told, result, "\n".join([said, *map(_change, result.moves), again]).rstrip())


def emit_moved(told: Settings, moved: RefsMoved, *, dry_run: bool) -> None:
    """Print how refs moved."""
    lines = [f"{'Would move ' if dry_run else ''}{_change(move).strip()}" for move in moved.moves]
    emit(told, moved, "\n".join(lines) or "Nothing had to move.")


def _change(move: RefChange) -> str:
    return f"  {printable(move.name)}: {_place(move.old)} -> {_place(move.new)}"


def _place(target: str | None) -> str:
    if target is None:
        return "(none)"
    return target[:SHORT] if len(target) == 64 else printable(target)


def _branches(found: Sequence[BranchInfo], told: Settings) -> list[str]:
    lines = ref_lines(found, told.now_ns)
    return [f"{'* ' if one.is_current else '  '}{line}" for one, line in zip(found, lines, strict=True)]


def ref_lines(found: Sequence[RefInfo], now_ns: int, *, named: bool = True) -> list[str]:
    """Refs and their commits as lines of a table, the names first unless the ids say it all."""
    rows = [
        (
            *([printable(one.name)] if named else []),
            one.id[:SHORT],
            "" if one.step is None else f"step {one.step}",
            "" if one.time_ns is None else f"{age(now_ns - one.time_ns)} ago",
            printable(one.message or ""),
        )
        for one in found
    ]
    return table(("",) * len(rows[0]), rows)[1:] if rows else []


def _reflog(result: ReflogResult, now_ns: int) -> list[str]:
    rows = [
        (
            str(entry.seq),
            printable(entry.ref),
            f"{_place(entry.old)} -> {_place(entry.new)}",
            printable(entry.reason),
            f"{age(now_ns - entry.time_ns)} ago",
            " ".join(
                filter(None, ("" if entry.step is None else f"step {entry.step}", printable(entry.message or "")))
            ),
        )
        for entry in result.entries
    ]
    lines = table(("",) * 6, rows, right=(0,))[1:] if rows else []
    return [*lines, f"What is older is not known: {printable(result.cut_short)}"] if result.cut_short else lines
