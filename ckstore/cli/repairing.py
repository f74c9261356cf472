"""repair: what is kept of damaged packs, and what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, count, printable
from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.porcelain.repair import LostComponent, RepairResult
    from ckstore.storage.anew import JournalAnew

_MOST = 50


def repair(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is wrong.")] = False,
    rebuild_journal: Annotated[
        bool,
        typer.Option("--rebuild-journal", help="Make a journal of what the packs hold; only where none can be read."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Keep what is sound of damaged packs, and list what is lost.

    Reads everything. Damaged files move to .ckstore/quarantine. What is lost is marked in the log; committing the same
    data again stores it anew. Exit code 4 if something is lost.

    --rebuild-journal is for a repository that cannot be opened. Commits that nothing names get branches, recovered/ID.

    Example: ckstore repair --dry-run
    """
    from ckstore.porcelain.repair import RepairOptions, repair_journal
    from ckstore.porcelain.repair import repair as verb

    told = settings(context, json_flag=json)
    if rebuild_journal:
        if dry_run:
            raise InvalidInput("--rebuild-journal has no dry run", hint="copy the .ckstore folder first to try it")
        anew = repair_journal(told.layout())
        emit(told, anew, "\n".join(_anew(anew)))
        return
    with told.open() as repository:
        result = verb(repository, RepairOptions(told.now_ns, dry_run), told.bar())
    emit(told, result, "\n".join(_lines(result, dry_run=dry_run)))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def _lines(result: RepairResult, *, dry_run: bool) -> Iterator[str]:
    yield f"{size(result.read_bytes)} read and hashed."
    for pack in result.packs:
        what = pack.what or "sound, but for what other packs lost"
        yield f"pack {pack.name[:SHORT]}: {printable(what)}; {pack.salvaged} objects kept, {pack.unusable} frames not"
    for path in result.quarantined:
        yield f"{'would move' if dry_run else 'moved'} to quarantine: {path}"
    if result.journal_mended:
        yield f"The journal {'would be' if dry_run else 'has been'} mended from the index."
    if result.restored_commits:
        yield f"{count(len(result.restored_commits), 'commit')} written anew from the index."
    if result.found:
        yield "Lost before, and all here again:"
        yield from _components(result.found)
    if result.lost:
        yield f"Lost ({count(result.lost_objects, 'object')}):"
        yield from _components(result.lost)
        yield "Committing the same data again stores it anew."
    for commit in result.lost_commits:
        yield f"Lost: commit {commit.commit[:SHORT]}, named by {', '.join(map(_named, commit.named_by[:5]))}."
    if result.lost_commits:
        yield "Delete branches and tags that lead to lost commits: gc needs whole histories."
    if result.reserve_released:
        yield "The disk was full: the reserve has been used."
    if result.ok:
        something = result.packs or result.quarantined or result.journal_mended
        yield "Nothing is lost." if something else "Nothing is damaged."


def _components(lost: Sequence[LostComponent]) -> Iterator[str]:
    for one in lost[:_MOST]:
        yield f"  {one.commit[:SHORT]}  {printable(one.component)}"
    if len(lost) > _MOST:
        yield f"  and {len(lost) - _MOST} more (--json lists all)"


def _named(name: str) -> str:
    return printable(name) if "/" in name or not name.isalnum() else name[:SHORT]


def _anew(result: JournalAnew) -> Iterator[str]:
    names = "names are those of the index" if result.names_kept else "branches, tags and what gc dropped are forgotten"
    yield f"A new journal names {count(result.commits, 'commit')}; {names}."
    for name, id in result.branches.items():
        yield f"  {id[:SHORT]}  {printable(name)}"
    for name in result.segments:
        yield f"moved to quarantine: {name}"
    yield "Now run `ckstore repair`: it notes what is not there."
