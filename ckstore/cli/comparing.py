"""show, diff and diverge: what commits hold, and how they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.complete import revisions
from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, full, oneline, printable, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.porcelain.diff import ComponentDiff, DiffResult
    from ckstore.porcelain.diverge import DivergeResult, Meeting
    from ckstore.porcelain.show import ShownTensor, ShowResult

DIFFERS = 1
"""Exit code of `diff --exit-code` where anything differs."""

_SHOWN = 30

Only = Annotated[
    list[str] | None, typer.Option("--only", "--tensor", metavar="GLOB", help="Only these paths; may be repeated.")
]


def show(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="Which commit.", autocompletion=revisions)] = "HEAD",
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors.")] = False,
    stat: Annotated[bool, typer.Option("--stat", help="Read the tensors, and give their figures.")] = False,
    only: Only = None,
    json: JsonFlag = False,
) -> None:
    """Show what a commit holds.

    Example: ckstore show best:val/loss:min --tensors

    Example: ckstore show HEAD --stat --only "model.layers.0.*"
    """
    from ckstore.porcelain.show import ShowOptions
    from ckstore.porcelain.show import show as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(
            repository, revision, ShowOptions(told.now_ns, tensors or only is not None, stat, only), told.bar()
        )
        head = repository.commits().head_name
    emit(told, result, "\n".join(_show(result, head.removeprefix("heads/") if head else None, stat=stat)))


def _show(result: ShowResult, head: str | None, *, stat: bool) -> list[str]:
    rows = [
        (printable(one.name), str(one.tensors), str(one.values), size(one.raw_bytes), size(one.stored_bytes))
        for one in result.components
    ]
    lines = [
        *full(result.commit, head).rstrip().splitlines(),
        "",
        *table(("component", "tensors", "values", "raw", "stored"), rows, right=(1, 2, 3, 4)),
    ]
    missing = sum(one.missing_chunks for one in result.components)
    if missing:
        lines.append(f"{missing} chunks are missing: `ckstore verify` tells what that affects.")
    if result.files:
        lines += [
            "",
            *table(("file", "size"), [(printable(f.name), size(f.size_bytes)) for f in result.files], right=(1,)),
        ]
    if result.tensors:
        lines += ["", *_tensors(result.tensors, stat=stat)]
    return lines


def _tensors(tensors: Sequence[ShownTensor], *, stat: bool) -> list[str]:
    head: tuple[str, ...] = ("tensor", "dtype", "shape", "size")
    rows = []
    for one in tensors:
        shape = "x".join(map(str, one.shape)) or "scalar"
        row: tuple[str, ...] = (printable(one.path), one.dtype, shape, size(one.size_bytes))
        if stat:
            found = one.statistics
            row += ("",) * 6 if found is None else (
                _number(found.minimum), _number(found.maximum), _number(found.mean), _number(found.std),
                f"{found.zero_share:.1%}", str(found.nans + found.infs),
            )  # fmt: skip
        rows.append((*row, f"shares {printable(one.shared_with)}" if one.shared_with else ""))
    if stat:
        head += ("min", "max", "mean", "std", "zeros", "nan+inf")
    return table((*head, ""), rows, right=range(3, 10 if stat else 4))


def diff(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="The older commit.", autocompletion=revisions)],
    after: Annotated[str, typer.Argument(help="The newer one.", autocompletion=revisions)] = "HEAD",
    stat: Annotated[bool, typer.Option("--stat", help="Read what changed, and give figures for each tensor.")] = False,
    only: Only = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if anything differs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show what changed between two commits, tensor by tensor.

    Example: ckstore diff HEAD~1 --stat

    Example: ckstore diff v1 main --tensor "model.*" --exit-code
    """
    from ckstore.porcelain.diff import DiffOptions
    from ckstore.porcelain.diff import diff as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository, before, after, DiffOptions(told.now_ns, only, stat), told.bar())
    emit(told, result, "\n".join(_diff(result, stat=stat)))
    if exit_code and result.differs:
        raise typer.Exit(DIFFERS)


def _diff(result: DiffResult, *, stat: bool) -> list[str]:
    lines = [f"before  {oneline(result.before, None)}", f"after   {oneline(result.after, None)}"]
    if result.metrics:
        rows = [
            (printable(one.name), _number(one.before), _number(one.after), _signed(one.difference))
            for one in result.metrics
        ]
        lines += ["", *table(("metric", "before", "after", "change"), rows, right=(1, 2, 3))]
    for component in result.components:
        lines += ["", *_component(component, stat=stat)]
    if result.files:
        rows_ = [
            (
                _mark(one.before_bytes, one.after_bytes),
                printable(one.name),
                _sized(one.before_bytes),
                _sized(one.after_bytes),
            )
            for one in result.files[:_SHOWN]
        ]
        lines += ["", "files", *table(("", "", "before", "after"), rows_, right=(2, 3))[1:], *_more(len(result.files))]
    differing = (
        f"{size(result.differing_bytes)} of {size(result.compared_bytes)} differ ({result.differing_share:.1%})."
    )
    return [*lines, "", differing if result.differs else "No difference."]


def _component(one: ComponentDiff, *, stat: bool) -> list[str]:
    title = printable(one.name)
    if one.in_before != one.in_after:
        title += " (new)" if one.in_after else " (gone)"
    counts = [
        f"{len(found)} {what}"
        for what, found in (
            ("changed", one.changed),
            ("added", one.added),
            ("removed", one.removed),
            ("retyped", one.retyped),
        )
        if found
    ]
    counts += [f"{one.unchanged} unchanged"] if one.unchanged else []
    lines = [f"{typer.style(title, bold=True)}: {', '.join(counts) or 'no tensors'}"]
    rows: list[tuple[str, ...]] = [
        (
            "~",
            printable(tensor.path),
            f"{tensor.dtype} {'x'.join(map(str, tensor.shape))}",
            *_figures(tensor.change, stat=stat),
        )
        for tensor in one.changed
    ]
    empty = ("",) * (4 if stat else 0)
    rows += [("+", printable(t.path), f"{t.dtype} {'x'.join(map(str, t.shape))}", *empty) for t in one.added]
    rows += [("-", printable(t.path), f"{t.dtype} {'x'.join(map(str, t.shape))}", *empty) for t in one.removed]
    rows += [
        ("!", printable(t.path), f"{t.before.dtype} {'x'.join(map(str, t.before.shape))} -> "
         f"{t.after.dtype} {'x'.join(map(str, t.after.shape))}", *empty)
        for t in one.retyped
    ]  # fmt: skip
    if rows:
        head = ("", "", "", "changed", "relative", "largest", "cosine") if stat else ("", "", "")
        cells = table(head, rows[:_SHOWN], right=(3, 4, 5, 6))
        lines += [*(cells if stat else cells[1:]), *_more(len(rows))]
    values = [
        (
            _mark(value.before, value.after),
            printable(value.path),
            printable(value.before or ""),
            "->",
            printable(value.after or ""),
        )
        for value in one.values
    ]
    if values:
        lines += [*table(("",) * 5, values[:_SHOWN])[1:], *_more(len(values))]
    return lines


def _figures(change: object, *, stat: bool) -> tuple[str, ...]:
    from ckstore.graph.sums import Change

    if not stat:
        return ()
    if not isinstance(change, Change):
        return ("", "", "", "")
    return (
        f"{change.differing_share:.1%}",
        _number(change.relative_change),
        _number(change.largest_change),
        "" if change.cosine is None else f"{change.cosine:.6f}",
    )


def diverge(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help="One run.", autocompletion=revisions)],
    second: Annotated[str, typer.Argument(help="The other.", autocompletion=revisions)],
    json: JsonFlag = False,
) -> None:
    """Find the step at which two runs that began alike part.

    Ids alone tell: no tensor is read.

    Example: ckstore diverge main rerun
    """
    from ckstore.porcelain.diverge import DivergeOptions
    from ckstore.porcelain.diverge import diverge as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        result = verb(repository, first, second, DivergeOptions(told.now_ns))
    emit(told, result, "\n".join(_diverge(result)))


def _diverge(result: DivergeResult) -> list[str]:
    lines = [f"{result.outcome[:1].upper()}{result.outcome[1:]} ({result.meetings} steps compared)."]
    if result.common is not None:
        lines.append(f"Common commit:   {oneline(result.common, None)}")
    if result.last_equal is not None:
        lines.append(f"Last equal:      {_meeting(result.last_equal)}")
    if result.first_different is not None:
        lines.append(f"First different: {_meeting(result.first_different)}")
        lines.append(f"In:              {', '.join(map(printable, result.components))}")
        lines += [f"  {one.kind:<8} {printable(one.path)}{'' if one.is_certain else ' (?)'}" for one in result.paths]
        lines += (
            [f"  and {result.path_count - len(result.paths)} more"] if result.path_count > len(result.paths) else []
        )
        lines.append(f"`ckstore diff {result.first_different.first.id[:SHORT]} "
                     f"{result.first_different.second.id[:SHORT]} --stat` says by how much.")  # fmt: skip
    return lines


def _meeting(meeting: Meeting) -> str:
    step = f"step {meeting.step}" if meeting.step is not None else f"commit {meeting.position}"
    return f"{step}: {meeting.first.id[:SHORT]} and {meeting.second.id[:SHORT]}"


def _mark(before: object, after: object) -> str:
    return "+" if before is None else "-" if after is None else "~"


def _more(count: int) -> list[str]:
    return [f"   and {count - _SHOWN} more (--json has all)"] if count > _SHOWN else []


def _sized(count: int | None) -> str:
    return "" if count is None else size(count)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"
