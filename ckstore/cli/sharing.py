"""push, pull, fetch and clone: commits to and from remotes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.api.environment import default_cache, settings_layers
from ckstore.cli.complete import remotes, revisions
from ckstore.cli.context import PRICE, JsonFlag, Price, emit, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, count, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.cli.context import Settings
    from ckstore.porcelain.clone import CloneResult
    from ckstore.porcelain.fetch import FetchOptions, FetchResult, Listening, RefUpdate
    from ckstore.porcelain.pull import PullResult
    from ckstore.porcelain.push import PushResult
    from ckstore.remote.retry import Retry

_CENT = 0.01

Jobs = Annotated[int | None, typer.Option("-j", "--jobs", min=1, max=999, help="So many transfers at once.")]
LimitRate = Annotated[str | None, typer.Option("--limit-rate", help="So many bytes a second at most: 50M, 500k.")]
Timeout = Annotated[str | None, typer.Option("--timeout", help="How long a transfer may stand still: 30s, 2m.")]
RemoteName = Annotated[
    str | None,
    typer.Argument(metavar="REMOTE", help="Which (default: origin, or the only one).", autocompletion=remotes),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent or brought, and move.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="COMPONENT", help="Bring only this of new commits (model, say); may be repeated."),
]
Depth = Annotated[int | None, typer.Option("--depth", min=1, help="Bring the data of only so many of each branch.")]
Metadata = Annotated[bool, typer.Option("--metadata", help="Bring commits, steps and metrics, but no data.")]
Fill = Annotated[bool, typer.Option("--fill", help="Bring what is absent here of older commits, too.")]
Foreign = Annotated[bool, typer.Option("--foreign", help="The remote may hold another repository: mix both.")]
Older = Annotated[bool, typer.Option("--accept-older", help="The remote was put back on purpose: go on from there.")]


def push(
    context: typer.Context,
    remote: RemoteName = None,
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REF]...", help="Branches or tags (default: the current branch).", autocompletion=revisions
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every branch and tag.")] = False,
    tags: Annotated[bool, typer.Option("--tags", help="Every tag, too.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them there.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move a branch though that leaves commits of others behind, and tags.")
    ] = False,
    fill: Annotated[bool, typer.Option("--fill", help="Send what is absent there of older commits, too.")] = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    timeout: Timeout = None,
    foreign: Foreign = False,
    older: Older = False,
    dry_run: DryRun = False,
    price: Price = PRICE,
    json: JsonFlag = False,
) -> None:
    """Send a remote what it lacks of branches and tags, then move them there.

    Nothing shows there before all of it is there. A push that was cut off goes on where it was when it is run again.

    Example: ckstore push

    Example: ckstore push origin main v1 --limit-rate 50M

    Example: ckstore push backup --all --dry-run
    """
    from ckstore.porcelain.push import Manner, PushOptions
    from ckstore.porcelain.push import push as verb

    told = settings(context, json_flag=json)
    options = PushOptions(
        now_ns=told.now_ns,
        remote=remote,
        refs=tuple(refs or ()),
        all=all_,
        tags=tags,
        delete=delete,
        force=force,
        fill=fill,
        dry_run=dry_run,
        foreign=foreign,
        older=older,
        manner=Manner(jobs, limit_rate, timeout),
    )
    with told.open() as repository:
        result = verb(repository, options, told.bar(), listening(told))
    emit(told, result, "\n".join(_pushed(result, price, dry_run=dry_run)))


def pull(
    context: typer.Context,
    remote: RemoteName = None,
    branches: Annotated[
        list[str] | None, typer.Argument(metavar="[BRANCH]...", help="Which (default: the current one).")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every branch there is there, and new tags.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Put a branch where the remote's is though that leaves own commits behind.")
    ] = False,
    only: Only = None,
    depth: Depth = None,
    metadata: Metadata = False,
    fill: Fill = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    timeout: Timeout = None,
    foreign: Foreign = False,
    older: Older = False,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Fetch, then move branches here to where the remote's are, where no commit is left behind by that.

    Example: ckstore pull

    Example: ckstore pull origin low-lr --only model
    """
    from ckstore.porcelain.pull import PullOptions
    from ckstore.porcelain.pull import pull as verb

    told = settings(context, json_flag=json)
    options = _fetching(told, remote, branches, only, depth, metadata, fill, dry_run, (jobs, limit_rate, timeout))
    options = _trusting(options, foreign=foreign, older=older)
    with told.open() as repository:
        result = verb(repository, PullOptions(options, all_, force), told.bar(), listening(told))
    emit(told, result, "\n".join(_pulled(result, dry_run=dry_run)))


def fetch(
    context: typer.Context,
    remote: RemoteName = None,
    branches: Annotated[
        list[str] | None, typer.Argument(metavar="[BRANCH]...", help="Which (default: all, and new tags).")
    ] = None,
    only: Only = None,
    depth: Depth = None,
    metadata: Metadata = False,
    fill: Fill = False,
    prune: Annotated[bool, typer.Option("--prune", help="Forget branches that are gone there.")] = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    timeout: Timeout = None,
    foreign: Foreign = False,
    older: Older = False,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Bring a remote's commits here without moving a branch: origin/main is where its branch is then.

    What --only, --depth and --metadata leave out is noted as absent; `ckstore fetch --fill` brings it later.

    Example: ckstore fetch origin

    Example: ckstore fetch origin main --fill --only optimizer --depth 1
    """
    from ckstore.porcelain.fetch import fetch as verb

    told = settings(context, json_flag=json)
    options = _fetching(told, remote, branches, only, depth, metadata, fill, dry_run, (jobs, limit_rate, timeout))
    options = _trusting(options, foreign=foreign, older=older, prune=prune)
    with told.open() as repository:
        result = verb(repository, options, told.bar(), listening(told))
    emit(told, result, "\n".join(_fetched(result, dry_run=dry_run)))


def clone(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="What to clone: a folder that was pushed to, or s3://BUCKET/PREFIX.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to (default: the URL's last part, here).")] = None,
    name: Annotated[str, typer.Option("--name", help="What the remote is called in the clone.")] = "origin",
    only: Only = None,
    depth: Depth = None,
    metadata: Metadata = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    timeout: Timeout = None,
    json: JsonFlag = False,
) -> None:
    """Make a repository of what a remote holds, whole or in parts.

    A clone that was cut off goes on where it was when it is run again. What --only, --depth and --metadata leave out
    is noted as absent; `ckstore fetch --fill` brings it later.

    Example: ckstore clone s3://bucket/runs

    Example: ckstore clone /mnt/backup/runs laptop --only model --depth 1
    """
    from ckstore.porcelain.clone import CloneOptions
    from ckstore.porcelain.clone import clone as verb

    told = settings(context, json_flag=json)
    fetching = _fetching(told, None, None, only, depth, metadata, False, False, (jobs, limit_rate, timeout))
    options = CloneOptions(
        url=url,
        fetch=fetching,
        base=Path.cwd(),
        cache=default_cache(),
        folder=folder,
        name=name,
        index_in_cache=os.environ.get("CKSTORE_INDEX") == "cache",
        layers=settings_layers(),
    )
    result = verb(options, told.bar(), listening(told))
    emit(told, result, "\n".join(_cloned(result)))


def listening(told: Settings) -> Listening:
    """Who says on the error stream that something is tried again."""
    from ckstore.porcelain.push import Listening

    def retried(retry: Retry) -> None:
        what = f"{retry.error.what}: {retry.error.why}" if retry.error.why else retry.error.what
        typer.echo(f"{printable(what)}; trying again in {retry.wait_s:.0f} s", err=True)

    return Listening() if told.quiet or told.json else Listening(retried)


def _fetching(
    told: Settings,
    remote: str | None,
    branches: Sequence[str] | None,
    only: Sequence[str] | None,
    depth: int | None,
    metadata: bool,
    fill: bool,
    dry_run: bool,
    manner: tuple[int | None, str | None, str | None],
) -> FetchOptions:
    from ckstore.porcelain.fetch import FetchOptions, Manner

    return FetchOptions(
        now_ns=told.now_ns,
        remote=remote,
        branches=tuple(branches or ()),
        only=tuple(only or ()),
        depth=depth,
        metadata=metadata,
        fill=fill,
        dry_run=dry_run,
        manner=Manner(*manner),
    )


def _trusting(options: FetchOptions, *, foreign: bool, older: bool, prune: bool = False) -> FetchOptions:
    from dataclasses import replace

    return replace(options, foreign=foreign, older=older, prune=prune)


def _pushed(result: PushResult, price: float, *, dry_run: bool) -> list[str]:
    to = f"{printable(result.remote)} ({printable(result.url)})"
    if not (result.moves or result.filled):
        return [f"{to} has everything already."]
    lines = [_where(to, dry_run=dry_run), *map(_update, result.moves)]
    sent = f"{count(result.objects, 'object')}, {size(result.sent_bytes)} in {count(result.packs, 'pack')}"
    requests = count(result.requests, "request")
    lines.append(f"Would send {sent}: {requests}." if dry_run else f"Sent {sent}; {requests}.")
    if result.resumed_packs:
        lines.append(f"{count(result.resumed_packs, 'pack')} had been sent before.")
    monthly = result.sent_bytes * price / 1e9
    if dry_run and monthly >= _CENT:
        lines.append(f"That is ${monthly:,.2f} a month more, at ${price:g} a GB and month.")
    if result.holes:
        lines.append(f"{count(result.holes, 'component')} of commits are absent here, and so there.")
    if result.filled:
        lines.append(f"{count(result.filled, 'component')} of commits that were absent there are there now.")
    return lines


def _fetched(result: FetchResult, *, dry_run: bool) -> list[str]:
    source = f"{printable(result.remote)} ({printable(result.url)})"
    if not (result.moves or result.filled):
        return [f"{source} has nothing new."]
    colon = ":" if result.moves else ""
    lines = [f"{'Would bring from' if dry_run else 'From'} {source}{colon}", *map(_update, result.moves)]
    return [*lines, *_brought(result, dry_run=dry_run)]


def _brought(result: FetchResult, *, dry_run: bool) -> list[str]:
    came = f"{count(result.commits, 'commit')}, {count(result.objects, 'object')}, {size(result.stored_bytes)}"
    requests = count(result.requests, "request")
    lines = []
    if result.commits or not result.filled:
        lines.append(f"Would bring {came}: {requests}." if dry_run else f"Brought {came}; {requests}.")
    if result.filled:
        verb = "Would fill" if dry_run else "Filled"
        lines.append(f"{verb} {count(result.filled, 'component')} of commits, {size(result.filled_bytes)}.")
    if result.holes:
        lines.append(
            f"{count(result.holes, 'component')} of commits stay absent here: "
            f"`ckstore fetch {printable(result.remote)} --fill` brings what is there."
        )
    return lines


def _pulled(result: PullResult, *, dry_run: bool) -> list[str]:
    fetched = result.fetched
    lines = _fetched(fetched, dry_run=dry_run) if fetched.moves or fetched.filled else []
    lines += [f"{'Would move ' if dry_run else ''}{_update(one).strip()}" for one in result.branches]
    lines += [
        f"{printable(name)} has more than {printable(fetched.remote)}'s: `ckstore push` sends it."
        for name in result.ahead
    ]
    return lines or [f"Up to date with {printable(fetched.remote)} ({printable(fetched.url)})."]


def _cloned(result: CloneResult) -> list[str]:
    where = f"Cloned {printable(result.fetched.url)} into {printable(str(result.folder))}"
    branches = f"{count(len(result.branches), 'branch')}; on {printable(result.head)}"
    return [where, *_brought(result.fetched, dry_run=False), f"{branches}."]


def _where(to: str, *, dry_run: bool) -> str:
    return f"{'Would push to' if dry_run else 'To'} {to}:"


def _update(move: RefUpdate) -> str:
    forced = " (forced)" if move.forced else ""
    return f"  {printable(move.name)}: {_short(move.old)} -> {_short(move.new)}{forced}"


def _short(id: str | None) -> str:
    return "(none)" if id is None else id[:SHORT]
