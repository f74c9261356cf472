"""init and commit: a repository, and what goes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckstore.api.environment import default_author, now
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, printable
from ckstore.errors import InvalidInput


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
    from ckstore.porcelain.init import init as verb

    told = settings(context, json_flag=json)
    result = verb(folder or told.folder, branch, preset)
    state = "Made an empty repository" if result.created else "There is a repository already"
    emit(told, result, f"{state} in {result.folder.absolute()}")


def commit(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR...", help="Checkpoint files or folders, of any format.")
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
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Commit even if nothing has changed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Store checkpoint files or folders as a commit; they come back byte for byte.

    Example: ckstore commit model.pt -m "warmed up" --step 1000 --metric val/loss=2.31
    """
    from ckstore.checkpoint.store import CommitOptions
    from ckstore.porcelain.commit import commit_files

    told = settings(context, json_flag=json)
    with told.open() as repository:
        options = CommitOptions(
            time_ns=told.now_ns,
            offset_min=now()[1],
            author=default_author(repository.config),
            message=message,
            metrics=_metrics(metric or []),
            step=step,
            epoch=epoch,
            branch=branch,
            tag=tag,
            parent=parent,
            preset=preset,
            allow_empty=allow_empty,
        )
        result = commit_files(repository, paths, options, told.bar(), opaque=opaque)
        if repository.config.policy_text(result.branch) is not None:
            from ckstore.porcelain.gc import auto_gc

            auto_gc(repository, result.branch, told.now_ns)
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
