"""repair: what is kept of damaged packs, and what is lost."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import remotes
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.progress_line import size
from ckstore.cli.sharing import listening
from ckstore.cli.text import SHORT, count, printable
from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.cli.context import Settings
    from ckstore.porcelain.repair import LostComponent, RepairResult
    from ckstore.porcelain.repair_remote import RepairRemoteResult
    from ckstore.storage.anew import JournalAnew

_MOST = 50


def repair(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is wrong.")] = False,
    rebuild_journal: Annotated[
        bool,
        typer.Option("--rebuild-journal", help="Make a journal of what the packs hold; only where none can be read."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Bring what is lost here from a remote.", autocompletion=remotes),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option("--remote", metavar="NAME", help="Repair a remote from here instead.", autocompletion=remotes),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Keep what is sound of damaged packs, and list what is lost.

    Reads everything. Damaged files move to .ckstore/quarantine. What is lost is marked in the log; committing the same
    data again stores it anew. Exit code 4 if something is lost.

    --remote reads everything on that remote and sends anew what is damaged or missing there and sound here.

    --rebuild-journal is for a repository that cannot be opened. Commits that nothing names get branches, recovered/ID.

    Example: ckstore repair --dry-run

    Example: ckstore repair --from origin

    Example: ckstore repair --remote origin
    """
    from ckstore.porcelain.repair import RepairOptions, repair_journal
    from ckstore.porcelain.repair import repair as verb

    told = settings(context, json_flag=json)
    if remote is not None:
        if rebuild_journal or source is not None:
            raise InvalidInput("--remote excludes --from and --rebuild-journal", hint="repair one place at a time")
        _repair_remote(told, remote, dry_run=dry_run)
        return
    if rebuild_journal:
        if dry_run:
            raise InvalidInput("--rebuild-journal has no dry run", hint="copy the .ckstore folder first to try it")
        anew = repair_journal(told.layout())
        emit(told, anew, "\n".join(_anew(anew)))
        return
    with told.open() as repository, ExitStack() as open_places:
        place, jobs = None, 4
        if source is not None:
            from ckstore.sync.remotes import reaching, remote_named

            named = remote_named(repository, source)
            jobs = named.jobs
            place, _ = open_places.enter_context(reaching(named, listening(told)))
        result = verb(repository, RepairOptions(told.now_ns, dry_run, jobs), told.bar(), place)
    emit(told, result, "\n".join(_lines(result, dry_run=dry_run)))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def _repair_remote(told: Settings, name: str, *, dry_run: bool) -> None:
    from ckstore.porcelain.repair_remote import RepairRemoteOptions, repair_remote
    from ckstore.sync.remotes import reaching, remote_named

    with told.open() as repository:
        named = remote_named(repository, name)
        with reaching(named, listening(told)) as (place, _):
            result = repair_remote(repository, place, RepairRemoteOptions(dry_run, named.jobs), told.bar())
    emit(told, result, "\n".join(_there(result, dry_run=dry_run)))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def _there(result: RepairRemoteResult, *, dry_run: bool) -> Iterator[str]:
    yield f"{printable(result.url)}:"
    for pack in result.packs:
        yield f"pack {pack.name[:SHORT]}: {printable(pack.what)}"
    if result.segments:
        yield f"{count(result.segments, 'segment')} of its index {'would be' if dry_run else 'were'} made anew."
    if result.sent_objects or result.copied_objects:
        would = "Would send" if dry_run else "Sent"
        copied = f", {result.copied_objects} of them from sound parts there" if result.copied_objects else ""
        sent = count(result.sent_objects + result.copied_objects, "object")
        yield f"{would} {sent} anew, {size(result.sent_bytes)}{copied}."
    for one in result.lost[:_MOST]:
        yield f"Lost there and here: {one.commit[:SHORT]}  {printable(one.component)}"
    if len(result.lost) > _MOST:
        yield f"and {len(result.lost) - _MOST} more (--json lists all)"
    yield from (f"Lost: commit {id[:SHORT]}." for id in result.lost_commits)
    if result.ok:
        yield "Nothing is lost." if result.packs or result.segments or result.sent_objects else "Nothing is damaged."


def _lines(result: RepairResult, *, dry_run: bool) -> Iterator[str]:
    yield f"{size(result.read_bytes)} read and hashed."
    if result.fetched_objects:
        brought = "would be brought" if dry_run else f"({size(result.fetched_bytes)}) brought"
        yield f"{count(result.fetched_objects, 'lost object')} {brought} from the remote."
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
