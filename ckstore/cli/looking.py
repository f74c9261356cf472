"""status, log, list and du: a repository at a glance."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import revisions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.graph_lines import graph_lines
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, age, count, full, moment, names, oneline, printable, table
from ckstore.errors import InvalidInput
from ckstore.graph.query import ordered

COLUMNS = ("id", "refs", "step", "epoch", "metrics", "age", "message")
"""What `list` shows unless it is told otherwise."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckstore.config import Config
    from ckstore.graph.history import CommitInfo
    from ckstore.porcelain.du import DuResult, DuRow
    from ckstore.porcelain.status import Following, StatusResult


def status(context: typer.Context, json: JsonFlag = False) -> None:
    """Show where HEAD is, what is stored, and what to do next.

    Example: ckstore status
    """
    from ckstore.porcelain.status import status as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository)
    emit(told, result, "\n".join(_status(result, told.now_ns)))


def _status(result: StatusResult, now_ns: int) -> list[str]:
    where = f"On branch {printable(result.branch)}" if result.branch else "HEAD is on no branch"
    lines = [where]
    if result.head is None:
        lines.append("No commits yet.")
    else:
        lines.append(f"Last commit: {oneline(result.head, result.branch)}, {age(now_ns - result.head.time_ns)} ago")
        lines.append(
            f"{count(result.commits, 'commit')} in its history; {count(result.branches, 'branch')}, "
            f"{count(result.tags, 'tag')}."
        )
        lines += map(_following, result.following)
    lines.append(f"{size(result.stored_bytes)} stored, index {size(result.index_bytes)}; {_verified(result, now_ns)}.")
    inodes = "" if result.disk_free_inodes is None else f", {result.disk_free_inodes} inodes"
    lines.append(f"Left on the disk: {size(result.disk_free_bytes)}{inodes}.")
    if result.next:
        lines += ["", "Next:", *(f"  {step}" for step in result.next)]
    return lines


def _following(one: Following) -> str:
    said = [f"{one.ahead} ahead"] if one.ahead else []
    said += [f"{one.behind} behind"] if one.behind else []
    return f"{', '.join(said)} of {printable(one.name)}." if said else f"Even with {printable(one.name)}."


def _verified(result: StatusResult, now_ns: int) -> str:
    if not result.unverified_bytes and result.last_verified_ns is None:
        return "nothing to verify"
    last = (
        "never verified"
        if result.last_verified_ns is None
        else f"last verified {age(now_ns - result.last_verified_ns)} ago"
    )
    return (
        f"{size(result.unverified_bytes)} not verified, {last}" if result.unverified_bytes else f"all verified, {last}"
    )


def log(
    context: typer.Context,
    revision: Annotated[
        str | None, typer.Argument(help="Where to begin (default: HEAD).", autocompletion=revisions)
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Draw the lines of history.")] = False,
    one_line: Annotated[bool, typer.Option("--oneline", help="A line a commit.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="As a table, like list.")] = False,
    all_refs: Annotated[bool, typer.Option("--all", help="From all branches and tags.")] = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="At most so many commits.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show commits, newest first.

    Marks: [last] is the newest of them, [best NAME] the best by a metric whose mode is configured.

    Example: ckstore log --graph --oneline --all

    Example: ckstore config set metrics.val/loss min
    """
    from ckstore.porcelain.log import LogOptions
    from ckstore.porcelain.log import log as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        commits = verb(repository, LogOptions(told.now_ns, revision, all_refs, limit))
        head = repository.commits().head_name
        marked = marks(commits, repository.config)
        columns = repository.config.columns or COLUMNS
    branch = head.removeprefix("heads/") if head else None
    if told.json or not commits:
        emit(told, commits, "No commits yet.")
    elif flat:
        emit(told, commits, "\n".join(commit_table(commits, columns, branch, told.now_ns, told.width)))
    else:
        emit(told, commits, "\n".join(_log(commits, branch, marked, graph=graph, one_line=one_line)))


def _log(
    commits: Sequence[CommitInfo],
    branch: str | None,
    marked: Mapping[str, Sequence[str]],
    *,
    graph: bool,
    one_line: bool,
) -> Iterator[str]:
    show = oneline if one_line else full
    if not graph:
        yield from (show(entry, branch, marked.get(entry.id, ())) for entry in commits)
        return
    for columns, entry in graph_lines(commits):
        first, *rest = show(entry, branch, marked.get(entry.id, ())).splitlines() if entry else [""]
        yield f"{columns} {first}".rstrip()
        yield from (f"{columns.replace('*', '|')} {line}".rstrip() for line in rest)


def marks(commits: Sequence[CommitInfo], config: Config) -> dict[str, list[str]]:
    """For each commit's id what stands out about it: that it is the newest, or the best by a configured metric."""
    found: dict[str, list[str]] = {}
    if len(commits) > 1:
        found.setdefault(max(commits, key=lambda info: info.time_ns).id, []).append("last")
    for name in sorted({name for info in commits for name in info.metrics}):
        with suppress(InvalidInput):
            mode = config.metric_mode(name)
            best = ordered(commits, name, descending=mode == "max")[0] if mode else None
            if best is not None and best.metrics.get(name) == best.metrics.get(name):
                found.setdefault(best.id, []).append(f"best {printable(name)}")
    return found


def list_(
    context: typer.Context,
    revision: Annotated[str | None, typer.Argument(help="Where to begin (default: all branches and tags).")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COND", help="step>1000, val/loss<0.5, branch=main, message~warm, age<2d."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="By a metric or field; -NAME for the largest first.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Which, with commas: id,refs,step,epoch,metrics,NAME,age,time,...")
    ] = None,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="At most so many commits.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show commits as a table, to sort and filter.

    Example: ckstore list --where "val/loss<0.5" --sort val/loss -n 10

    Example: ckstore list --columns id,step,val/loss,message
    """
    from ckstore.porcelain.log import LogOptions, log

    told = settings(context, json_flag=json)
    field = (sort or "").removeprefix("-") or None
    options = LogOptions(
        told.now_ns, revision, revision is None, limit, where or (), field, descending=(sort or "").startswith("-")
    )
    with told.open() as repository:
        commits = log(repository, options)
        head = repository.commits().head_name
        chosen = tuple(columns.split(",")) if columns else repository.config.columns or COLUMNS
    branch = head.removeprefix("heads/") if head else None
    text = "\n".join(commit_table(commits, chosen, branch, told.now_ns, told.width)) if commits else "No such commits."
    emit(told, commits, text)


def commit_table(
    commits: Sequence[CommitInfo], chosen: Sequence[str], head: str | None, now_ns: int, width: int | None
) -> list[str]:
    """Lines of commits; a column that all lack is left out, and what is too wide is cut at its end.

    Raises `InvalidInput` for a column that no commit has.
    """
    cells: dict[str, Callable[[CommitInfo], str]] = {
        "id": lambda info: info.id[:SHORT],
        "refs": lambda info: names(info, head),
        "step": lambda info: "" if info.step is None else str(info.step),
        "epoch": lambda info: "" if info.epoch is None else str(info.epoch),
        "age": lambda info: age(now_ns - info.time_ns),
        "time": moment,
        "author": lambda info: printable(info.author),
        "components": lambda info: " ".join(map(printable, info.components)),
        "message": lambda info: printable(info.message.split("\n")[0]),
    }
    metrics = sorted({name for info in commits for name in info.metrics})
    wanted = [one for name in chosen for one in (metrics if name == "metrics" else [name])]
    shown: list[str] = []
    for name in wanted:
        if name not in cells and name not in metrics:
            raise InvalidInput(f"no column {name!r}", hint=f"there are {', '.join([*cells, 'metrics', *metrics])}")
        if name in metrics and name not in cells:
            cells[name] = lambda info, name=name: f"{info.metrics[name]:.4g}" if name in info.metrics else ""  # type: ignore[misc]
        if any(cells[name](info) for info in commits) or columns_named(chosen, name):
            shown.append(name)
    rows = [[cells[name](info) for name in shown] for info in commits]
    right = [place for place, name in enumerate(shown) if name in ("step", "epoch", "age") or name in metrics]
    lines = table([printable(name) for name in shown], rows, right=right)
    return lines if width is None else [line[: width - 3] + "..." if len(line) > width else line for line in lines]


def columns_named(chosen: Sequence[str], name: str) -> bool:
    """Whether a column was asked for by itself: it is shown even where it is empty."""
    return name in chosen and name not in ("refs", "epoch", "step", "message")


def du(
    context: typer.Context,
    revision: Annotated[str | None, typer.Argument(help="Only this history (default: everything).")] = None,
    json: JsonFlag = False,
) -> None:
    """Show what takes the space.

    Example: ckstore du
    """
    from ckstore.porcelain.du import DuOptions
    from ckstore.porcelain.du import du as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository, DuOptions(told.now_ns, revision))
    emit(told, result, "\n".join(_du(result)))


def _du(result: DuResult) -> list[str]:
    ratio = f", {result.raw_bytes / result.stored_bytes:.2f}x" if result.stored_bytes else ""
    given = f"{size(result.raw_bytes)} given, {size(result.stored_bytes)} stored{ratio}."
    lines = [
        f"{count(result.commits, 'commit')}: {given}",
        f"On the disk: {size(result.disk_bytes)} in packs and journal, {size(result.index_bytes)} index (a cache)"
        + (f"; {size(result.unreached_bytes)} that no branch or tag reaches." if result.unreached_bytes else "."),
    ]
    for what, rows in (("component", result.by_component), ("branch", result.by_branch)):
        if rows:
            lines += ["", *_du_rows(what, rows)]
    return lines


def _du_rows(what: str, rows: Sequence[DuRow]) -> list[str]:
    cells = [
        (printable(row.name), str(row.commits), size(row.raw_bytes), size(row.stored_bytes), size(row.own_bytes))
        for row in rows
    ]
    return table((what, "commits", "given", "stored", "its own"), cells, right=(1, 2, 3, 4))
