"""Commits as text."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.graph.history import CommitInfo


class _Converted(Protocol):
    """A result that says what a new file could not take."""

    @property
    def left_out(self) -> int: ...

    @property
    def left_out_paths(self) -> tuple[str, ...]: ...


SHORT = 12
"""Hexadecimal digits of an id in text."""


def oneline(commit: CommitInfo, head: str | None, marks: Sequence[str] = ()) -> str:
    """Id, names, step, metrics, marks and the first line of the message."""
    parts = [typer.style(commit.id[:SHORT], fg="yellow")]
    if names(commit, head):
        parts.append(typer.style(f"({names(commit, head)})", fg="green"))
    if commit.step is not None:
        parts.append(f"step {commit.step}")
    parts += [typer.style(chip, fg="cyan") for chip in chips(commit)]
    parts += [typer.style(f"[{mark}]", fg="magenta") for mark in marks]
    parts += [typer.style(gone, fg="red") for gone in missing(commit)]
    if commit.message:
        parts.append(printable(commit.message.splitlines()[0]))
    return "  ".join(parts)


def full(commit: CommitInfo, head: str | None, marks: Sequence[str] = ()) -> str:
    """All that is known of a commit, several lines."""
    named = f" ({names(commit, head)})" if names(commit, head) else ""
    lines = [typer.style(f"commit {commit.id}", fg="yellow") + typer.style(named, fg="green")]
    if commit.author:
        lines.append(f"Author:     {printable(commit.author)}")
    lines.append(f"Date:       {moment(commit)}")
    counts = [f"step {commit.step}"] if commit.step is not None else []
    counts += [f"epoch {commit.epoch}"] if commit.epoch is not None else []
    marked = [*(f"[{mark}]" for mark in marks), *missing(commit)]
    if counts or commit.metrics or marked:
        lines.append("At:         " + "  ".join([*counts, *chips(commit), *marked]))
    lines.append("Components: " + ", ".join(printable(name) for name in commit.components))
    if commit.message:
        lines += ["", *(f"    {printable(line)}" for line in commit.message.splitlines())]
    return "\n".join([*lines, ""])


def names(commit: CommitInfo, head: str | None) -> str:
    """Refs on a commit, the current branch first."""
    branches = [f"HEAD -> {name}" if name == head else name for name in map(printable, commit.branches)]
    if commit.is_head and head is None:
        branches.insert(0, "HEAD")
    return ", ".join(
        sorted(branches, key=lambda name: not name.startswith("HEAD")) + [f"tag: {printable(t)}" for t in commit.tags]
    )


def missing(commit: CommitInfo) -> list[str]:
    """What is not here of a commit, as `[optimizer gone]`; of all its components `[data gone]`."""
    if not commit.absent:
        return []
    if set(commit.absent) >= set(commit.components):
        return ["[data gone]"]
    return [f"[{', '.join(map(printable, commit.absent))} gone]"]


def chips(commit: CommitInfo) -> list[str]:
    """Metrics as `loss=0.123`."""
    return [f"{printable(name)}={value:.4g}" for name, value in commit.metrics.items()]


def moment(commit: CommitInfo) -> str:
    """When, in the author's own time."""
    try:
        zone = datetime.timezone(datetime.timedelta(minutes=commit.offset_min))
        return datetime.datetime.fromtimestamp(commit.time_ns / 1e9, zone).strftime("%Y-%m-%d %H:%M:%S %z")
    except (OverflowError, ValueError, OSError):
        return f"{commit.time_ns} ns"


def age(length_ns: float) -> str:
    """How long ago, in the largest unit that fits: `5 min`, `3 d`."""
    seconds = max(length_ns / 1e9, 0)
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h"), (60 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return (
        f"{seconds / (30.44 * 86400):.0f} months"
        if seconds < 2 * 365.25 * 86400
        else f"{seconds / (365.25 * 86400):.0f} years"
    )


def count(number: int, noun: str) -> str:
    """A number of things: `1 branch`, `2 branches`."""
    plural = "" if number == 1 else "es" if noun.endswith(("ch", "x", "s")) else "s"
    return f"{number} {noun}{plural}"


def printable(text: str) -> str:
    """Text without what could steer a terminal: it may come from a stranger's repository."""
    return "".join(char if char.isprintable() else "?" for char in text)


def lines(text: str) -> str:
    """`printable`, but with its lines."""
    return "\n".join(map(printable, text.splitlines()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of columns under their names; those numbered in `right` end together."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def left_out(result: _Converted) -> list[str]:
    """What a new file could not take."""
    if not result.left_out:
        return []
    more = ", ..." if result.left_out > len(result.left_out_paths) else ""
    paths = ", ".join(map(printable, result.left_out_paths))
    return [f"{result.left_out} values are no tensors and were left out: {paths}{more}"]
