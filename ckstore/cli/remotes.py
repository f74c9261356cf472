"""remote: the places that a repository is pushed to and pulled from."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import remotes
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.progress_line import size
from ckstore.cli.sharing import Jobs, LimitRate, Timeout, listening
from ckstore.cli.text import SHORT, count, printable, table
from ckstore.errors import InvalidInput
from ckstore.units import parse_span, span_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.porcelain.remote import Pruned, RemoteBranch, RemoteInfo, RemoteReport, RemoteShown

remote = typer.Typer(
    help="Add, list, test and remove the places that are pushed to and pulled from.\n\n"
    "A place is a folder or s3://BUCKET/PREFIX, with ?endpoint= ?region= ?profile= where needed. Credentials come "
    "from the cloud's own chain (AWS_*, ~/.aws) and are never stored.\n\n"
    "Example: ckstore remote add origin s3://bucket/runs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str | None, typer.Argument(help="Which (default: origin, or the only one).", autocompletion=remotes)]


@remote.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called here: origin, say.")],
    url: Annotated[str, typer.Argument(help="Where it is: a folder, or s3://BUCKET/PREFIX.")],
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    timeout: Timeout = None,
    no_test: Annotated[bool, typer.Option("--no-test", help="Write it down without trying what it can do.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a remote down, after a test of what its place can do.

    A folder is made where the one above it is there. Where the place cannot be reached nothing is written down.

    Example: ckstore remote add origin s3://bucket/runs?region=eu-central-1

    Example: ckstore remote add backup /mnt/backup/runs --limit-rate 50M
    """
    from ckstore.porcelain.remote import AddRemoteOptions, Manner, add_remote

    told = settings(context, json_flag=json)
    token = None if no_test else secrets.token_hex(8)
    manner = Manner(jobs, limit_rate, timeout)
    with told.open() as repository:
        result = add_remote(repository, AddRemoteOptions(name, url, Path.cwd(), token, lambda: told.now_ns, manner))
    lines = [f"{printable(name)} is {printable(result.remote.url)}"]
    if result.made_folder:
        lines.append("Its folder was made.")
    if result.report is not None:
        lines += _report(result.report)
    emit(told, result, "\n".join(lines))


@remote.command("list")
def list_(context: typer.Context, json: JsonFlag = False) -> None:
    """List the remotes; none of them is asked anything.

    Example: ckstore remote list
    """
    from ckstore.porcelain.remote import list_remotes

    told = settings(context, json_flag=json)
    with told.open() as repository:
        found = list_remotes(repository)
    emit(told, found, "\n".join(_remotes(found)) or "No remotes yet: ckstore remote add origin URL")


@remote.command("show")
def show(context: typer.Context, name: Name = None, json: JsonFlag = False) -> None:
    """Show what a remote holds now: its branches beside those here, tags and sizes.

    Example: ckstore remote show origin
    """
    from ckstore.porcelain.remote import show_remote

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = show_remote(repository, name, listening(told))
    emit(told, result, "\n".join(_shown(result)))


@remote.command("test")
def try_(context: typer.Context, name: Name = None, json: JsonFlag = False) -> None:
    """Find out what a remote can do, by doing it in a place of its own there, which is cleared afterwards.

    Exit code 4 if something is not as push, pull and gc need it.

    Example: ckstore remote test origin
    """
    from ckstore.porcelain.remote import TestRemoteOptions, test_remote

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = test_remote(repository, TestRemoteOptions(name, secrets.token_hex(8), lambda: told.now_ns))
    emit(told, result, "\n".join([printable(result.url), *_report(result)]))
    if not all(finding.good for finding in result.findings):
        raise typer.Exit(FINDINGS)


@remote.command("remove")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which.", autocompletion=remotes)],
    json: JsonFlag = False,
) -> None:
    """Forget a remote, and where its branches were; nothing is deleted there.

    Example: ckstore remote remove backup
    """
    from ckstore.porcelain.remote import remove_remote

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = remove_remote(repository, name, told.now_ns)
    emit(told, result, f"{printable(name)} is forgotten here; what is in {printable(result.url)} stays.")


@remote.command("gc")
def gc(
    context: typer.Context,
    name: Name = None,
    grace: Annotated[str, typer.Option("--grace", help="How long what nothing needs stays there: 7d, 0.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonFlag = False,
) -> None:
    """Free what no branch and tag of a remote needs: noted first, deleted by a later gc once the grace is over.

    What an interrupted push left behind goes as well. The grace goes by the remote's clock.

    Example: ckstore remote gc origin --dry-run
    """
    from ckstore.porcelain.remote import RemoteGcOptions, gc_remote

    told = settings(context, json_flag=json)
    grace_ns = 0 if grace == "0" else parse_span(grace)
    if grace_ns is None:
        raise InvalidInput(f"{grace!r} is no span of time", hint="write it as 7d, 12h, 30m or 0")
    with told.open() as repository:
        result = gc_remote(repository, RemoteGcOptions(name, grace_ns, dry_run), told.bar(), listening(told))
    emit(told, result, "\n".join(_freed(result, grace_ns, dry_run=dry_run)))


def _report(report: RemoteReport) -> list[str]:
    lines = [
        f"  {typer.style('yes', fg='green') if one.good else typer.style('no ', fg='red')}  {printable(one.text)}"
        for one in report.findings
    ]
    can = [name for name, good in (("pull", report.can_pull), ("push", report.can_push), ("gc", report.can_gc)) if good]
    cannot = [name for name in ("pull", "push", "gc") if name not in can]
    said = f"Good for {', '.join(can)}" if can else "Good for nothing"
    return [*lines, f"{said}; not for {', '.join(cannot)}." if cannot else f"{said}."]


def _remotes(found: Sequence[RemoteInfo]) -> list[str]:
    rows = [(printable(one.name), printable(one.url), ", ".join(_manner(one))) for one in found]
    return table(("",) * 3, rows)[1:] if rows else []


def _manner(one: RemoteInfo) -> list[str]:
    said = [f"{one.jobs} jobs"]
    said += [] if one.limit_bytes_per_s is None else [f"{size(one.limit_bytes_per_s)}/s at most"]
    return [*said, f"timeout {span_text(round(one.timeout_s * 1e9))}"]


def _shown(result: RemoteShown) -> list[str]:
    lines = [f"{printable(result.remote.name)} is {printable(result.remote.url)}"]
    if result.empty:
        return [*lines, "It holds nothing yet: `ckstore push` sends something there."]
    rows = [
        (f"{'* ' if one.name == result.head else '  '}{printable(one.name)}", one.id[:SHORT], _apart(one))
        for one in result.branches
    ]
    lines += table(("",) * 3, rows)[1:] if rows else ["  no branches"]
    if result.tags:
        lines.append(f"  tags: {', '.join(map(printable, result.tags))}")
    lines.append(f"{count(result.objects, 'object')} in {count(result.files, 'file')}, {size(result.stored_bytes)}.")
    if result.holes:
        lines.append(f"{count(result.holes, 'component')} of commits are absent there.")
    return lines


def _apart(one: RemoteBranch) -> str:
    if one.ahead is None or one.behind is None:
        return "not fetched"
    if not (one.ahead or one.behind):
        return "the same here"
    said = [f"{one.ahead} ahead"] if one.ahead else []
    return f"yours is {', '.join([*said, f'{one.behind} behind'] if one.behind else said)}"


def _freed(result: Pruned, grace_ns: int, *, dry_run: bool) -> list[str]:
    would = "Would delete" if dry_run else "Deleted"
    if not (result.deleted or result.condemned or result.waiting or result.left_bytes):
        return ["Nothing to remove: all of it is needed."]
    lines = [f"{would} {count(result.deleted, 'file')}, {size(result.deleted_bytes)}."]
    if result.condemned:
        found = "Would note" if dry_run else "Noted"
        when = span_text(grace_ns)
        lines.append(
            f"{found} {count(result.condemned, 'file')}, {size(result.condemned_bytes)}, that nothing needs: "
            f"a gc after {when} deletes them."
        )
    if result.waiting - result.condemned > 0:
        lines.append(f"{count(result.waiting - result.condemned, 'file')} wait for the end of their grace.")
    if result.left_bytes:
        lines.append(f"{size(result.left_bytes)} that nothing needs stay in packs that are needed.")
    return lines
