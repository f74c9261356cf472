"""The commit graph in text, as git draws it: a column for each line of history."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.graph.history import CommitInfo


def graph_lines(commits: Sequence[CommitInfo]) -> Iterator[tuple[str, CommitInfo | None]]:
    """Graph columns line by line, with the commit that stands on the line, or None for a joining line.

    `commits` have each commit before its parents.
    """
    shown = {commit.id for commit in commits}
    lanes: list[str] = []
    for commit in commits:
        if commit.id not in lanes:
            lanes.append(commit.id)
        place = lanes.index(commit.id)
        while lanes.count(commit.id) > 1:
            other = len(lanes) - 1 - lanes[::-1].index(commit.id)
            yield _joining(len(lanes), other), None
            del lanes[other]
        yield " ".join("*" if number == place else "|" for number in range(len(lanes))), commit
        parents = [parent for parent in commit.parents if parent in shown]
        lanes[place : place + 1] = parents[:1]
        for parent in parents[1:]:
            lanes.insert(place + 1, parent)
            yield " ".join("|\\" if number == place else "|" for number in range(len(lanes) - 1)), None


def _joining(count: int, lane: int) -> str:
    """The line on which lane `lane` joins the one to its left."""
    return " ".join("|" for _ in range(lane)) + "/" + " |" * (count - lane - 1)
