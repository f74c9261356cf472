"""verify: whether everything is there, here or on a remote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore import durable
from ckstore.cli.complete import remotes
from ckstore.cli.context import JsonFlag, document, emit, settings
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.progress_line import size
from ckstore.cli.sharing import listening
from ckstore.cli.text import SHORT, count, printable
from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from ckstore.porcelain.verify import Finding, VerifyResult
    from ckstore.porcelain.verify_remote import RemoteFinding, VerifyRemoteResult


def verify(
    context: typer.Context,
    read_data: Annotated[bool, typer.Option("--read-data", help="Read and hash every byte too.")] = False,
    subset: Annotated[
        str | None,
        typer.Option("--subset", metavar="SHARE", help="Read only so much (10%, 0.1), of what was read longest ago."),
    ] = None,
    remote: Annotated[
        str | None, typer.Option("--remote", metavar="NAME", help="Check a remote instead.", autocompletion=remotes)
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the result to a file too, as JSON.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check that everything the branches and tags reach is there.

    Exit code 4 if something is wrong. With --remote, what that remote's own branches and tags reach; --read-data then
    brings every byte over the line.

    Example: ckstore verify --read-data

    Example: ckstore verify --subset 10% --report verify.json

    Example: ckstore verify --remote origin
    """
    if remote is not None and subset is not None:
        raise InvalidInput("--subset and --remote exclude each other", hint="--read-data reads all of a remote")
    told = settings(context, json_flag=json)
    result: VerifyResult | VerifyRemoteResult
    with told.open() as repository:
        if remote is None:
            from ckstore.porcelain.verify import verify as verb

            result = verb(repository, told.bar(), read_data=read_data, subset=subset, now_ns=told.now_ns)
            lines = [_here(result, read_data=read_data, subset=subset)]
        else:
            from ckstore.porcelain.verify_remote import VerifyRemoteOptions, verify_remote
            from ckstore.sync.remotes import reaching, remote_named

            named = remote_named(repository, remote)
            with reaching(named, listening(told)) as (place, _):
                options = VerifyRemoteOptions(read_data, named.jobs)
                result = verify_remote(repository, place, options, told.bar())
            lines = [_there(result, read_data=read_data)]
    if report is not None:
        durable.put(report.absolute(), document(told, result).encode())
    lines += map(_finding, result.findings)
    fix = "ckstore repair" if remote is None else f"ckstore repair --remote {printable(remote)}"
    lines.append("No problem found." if result.ok else f"{len(result.findings)} problems found. Fix: {fix}")
    emit(told, result, "\n".join(lines))
    if not result.ok:
        raise typer.Exit(FINDINGS)


def _here(result: VerifyResult, *, read_data: bool, subset: str | None) -> str:
    read = " (add --read-data to hash every byte)"
    if subset is not None:
        read = f", {size(result.read_bytes)} in {count(result.read_packs, 'pack')} read and hashed"
    elif read_data:
        read = f", {size(result.read_bytes)} read and hashed"
    return f"{result.commits} commits, {result.objects} objects, {result.packs} packs{read}"


def _there(result: VerifyRemoteResult, *, read_data: bool) -> str:
    read = f", {size(result.read_bytes)} read and hashed" if read_data else " (add --read-data to hash every byte)"
    return (
        f"{printable(result.url)}: {count(result.commits, 'commit')}, {count(result.objects, 'object')}, "
        f"{count(result.packs, 'pack')}{read}"
    )


def _finding(finding: Finding | RemoteFinding) -> str:
    where = f" (in {', '.join(id[:SHORT] for id in finding.commits[:5])})" if finding.commits else ""
    return f"{finding.kind}: {printable(finding.what)}{where}"
