"""The commands: each reads its options, calls one verb, and shows the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.api import default_author, now
from ckstore.checkpoint.store import CommitOptions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.graph_lines import graph_lines
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, full, oneline, printable
from ckstore.errors import InvalidInput
from ckstore.porcelain import checkout as checkout_verb
from ckstore.porcelain import commit as commit_verb
from ckstore.porcelain import export as export_verb
from ckstore.porcelain import init as init_verb
from ckstore.porcelain import log as log_verb
from ckstore.porcelain import verify as verify_verb

if TYPE_CHECKING:
    from ckstore.porcelain.checkout import CheckoutResult
    from ckstore.porcelain.export import ExportResult

FINDINGS = 4
"""Exit code of a verify that found something."""


def init(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Where to make it (default: -C, or here).")] = None,
    branch: Annotated[str, typer.Option("--branch", help="Name of the first branch.")] = "main",
    preset: Annotated[
        str | None, typer.Option("--preset", help="How it stores chunks: balanced (default), archive, fast.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make an empty repository.

    Example: ckstore init runs
    """
    told = settings(context, json_flag=json)
    result = init_verb.init(folder or told.folder, branch, preset)
    state = "Made an empty repository" if result.created else "There is a repository already"
    emit(told, result, f"{state} in {result.folder.absolute()}")


def commit(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR...", help="Checkpoints: safetensors, .pt, any file, or folders.")
    ],
    message: Annotated[str, typer.Option("-m", "--message", help="What this checkpoint is.")] = "",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="A metric, as name=value; may be repeated.")
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="Training step.")] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", help="Training epoch.")] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Branch to add to (default: the current one).")] = None,
    parent: Annotated[str | None, typer.Option("--parent", help="Revision a new branch starts from.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="A new tag for this commit.")] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="How to store chunks: balanced, archive, fast (default: the repository's)."),
    ] = None,
    opaque: Annotated[bool, typer.Option("--opaque", help="Do not look inside the file: store plain bytes.")] = False,
    json: JsonFlag = False,
) -> None:
    """Store checkpoint files or folders as a commit; they come back byte for byte.

    Example: ckstore commit model.pt -m "warmed up" --step 1000 --metric val/loss=2.31
    """
    told = settings(context, json_flag=json)
    time_ns, offset_min = now()
    options = CommitOptions(
        time_ns=time_ns,
        offset_min=offset_min,
        author=default_author(),
        message=message,
        metrics=_metrics(metric or []),
        step=step,
        epoch=epoch,
        branch=branch,
        tag=tag,
        parent=parent,
        preset=preset,
    )
    with told.open() as repository:
        result = commit_verb.commit_files(repository, paths, options, told.bar(), opaque=opaque)
    emit(
        told,
        result,
        f"[{result.branch} {result.id[:SHORT]}] {printable(message or paths[0].name)}\n"
        f" {size(result.raw_bytes)} given, {size(result.pack_bytes)} stored "
        f"({result.new_objects} objects new, {result.known_objects} known)",
    )


def _metrics(given: list[str]) -> dict[str, float]:
    metrics = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            metrics[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise InvalidInput(f"--metric {text!r} is not name=value", hint="write --metric val/loss=2.31")
    return metrics


def checkout(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="A branch to move to, or with -o any revision.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the commit's files here.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="Files by name, or what to convert by path; may be repeated."),
    ] = None,
    format: Annotated[str | None, typer.Option("--format", help="Make a new file: pt or safetensors.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commit's files, byte-identical, or its state as a new file; or make a branch the current one.

    Example: ckstore checkout best:val/loss:min -o best.pt
    Example: ckstore checkout main -o model.safetensors --only "model.*" --format safetensors
    """
    told = settings(context, json_flag=json)
    with told.open() as repository:
        if output is None:
            switched = checkout_verb.switch(repository, revision, now()[0])
            emit(told, switched, f"On branch {switched.branch}")
            return
        options = checkout_verb.CheckoutOptions(output, now()[0], only, format, force)
        result = checkout_verb.checkout(repository, revision, options, told.bar())
    lines = [f"{path}  {size(length)}" for path, length in result.files]
    emit(told, result, "\n".join([*lines, *_left_out(result)]))


def export(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="Which commit.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file, or folder for huggingface.")],
    format: Annotated[str, typer.Option("--format", help="pytorch, safetensors or huggingface.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GLOB", help="What of it, by path; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commit's state for other tools, and check it bit for bit.

    Example: ckstore export best:val/loss:min -o out --format huggingface
    """
    told = settings(context, json_flag=json)
    with told.open() as repository:
        options = export_verb.ExportOptions(output, now()[0], format, only, force)
        result = export_verb.export(repository, revision, options, told.bar())
    lines = [f"{path}  {size(length)}" for path, length in result.files]
    emit(told, result, "\n".join([*lines, *_left_out(result), "Read back: equal to the commit, bit for bit."]))


def _left_out(result: CheckoutResult | ExportResult) -> list[str]:
    """What a new file could not take."""
    if not result.left_out:
        return []
    more = ", ..." if result.left_out > len(result.left_out_paths) else ""
    paths = ", ".join(map(printable, result.left_out_paths))
    return [f"{result.left_out} values are no tensors and were left out: {paths}{more}"]


def log(
    context: typer.Context,
    revision: Annotated[str | None, typer.Argument(help="Where to begin (default: HEAD).")] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Draw the lines of history.")] = False,
    one_line: Annotated[bool, typer.Option("--oneline", help="A line a commit.")] = False,
    all_refs: Annotated[bool, typer.Option("--all", help="From all branches and tags.")] = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="At most so many commits.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show commits, newest first.

    Example: ckstore log --graph --oneline --all
    """
    told = settings(context, json_flag=json)
    with told.open() as repository:
        commits = log_verb.log(repository, log_verb.LogOptions(now()[0], revision, all_refs, limit))
        head = repository.commits().head_name
    branch = head.removeprefix("heads/") if head else None
    if not commits:
        emit(told, commits, "No commits yet.")
        return
    show = oneline if one_line else full
    if not graph:
        emit(told, commits, "\n".join(show(entry, branch) for entry in commits))
        return
    lines: list[str] = []
    for columns, entry in graph_lines(commits):
        first, *rest = show(entry, branch).splitlines() if entry else [""]
        lines.append(f"{columns} {first}".rstrip())
        lines += [f"{columns.replace('*', '|')} {line}".rstrip() for line in rest]
    emit(told, commits, "\n".join(lines))


def verify(
    context: typer.Context,
    read_data: Annotated[bool, typer.Option("--read-data", help="Read and hash every byte too.")] = False,
    json: JsonFlag = False,
) -> None:
    """Check that everything the branches and tags reach is there. Exit code 4 if something is wrong.

    Example: ckstore verify --read-data
    """
    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verify_verb.verify(repository, told.bar(), read_data=read_data)
    read = f", {size(result.read_bytes)} read and hashed" if read_data else " (add --read-data to hash every byte)"
    lines = [f"{result.commits} commits, {result.objects} objects, {result.packs} packs{read}"]
    for finding in result.findings:
        where = f" (in {', '.join(id[:SHORT] for id in finding.commits[:5])})" if finding.commits else ""
        lines.append(f"{finding.kind}: {printable(finding.what)}{where}")
    lines.append("No problem found." if result.ok else f"{len(result.findings)} problems found.")
    emit(told, result, "\n".join(lines))
    if not result.ok:
        raise typer.Exit(FINDINGS)
