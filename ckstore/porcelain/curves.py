"""curves: what runs logged on the way to a commit, point by point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ckstore.errors import Absent, Format
from ckstore.objects.commit import SERIES
from ckstore.objects.reader import read_tree
from ckstore.objects.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckstore.repository import Repository


class Point(NamedTuple):
    """A value of a metric: at which step it was logged, and when, in ns since 1970 UTC."""

    step: int
    time_ns: int
    value: float


@dataclass(frozen=True)
class CurvesOptions:
    """The commit whose history is asked for, and the metrics; none named: all."""

    revision: str
    now_ns: int
    metrics: Collection[str] = ()


def curves(repository: Repository, options: CurvesOptions) -> dict[str, tuple[Point, ...]]:
    """The points of each metric from the first commit to the revision, along first parents, as they were logged.

    What was logged after the commit that a run went on from is no part of it. Raises `NoRevision`, `Absent` where a
    commit's points are lost, `Integrity`, `Format`.
    """
    from ckstore.torch.unflatten import unflatten  # torch

    id: bytes | None
    id, _ = repository.resolve(options.revision, options.now_ns)
    commits, gone = repository.commits(), repository.absent()
    parts: list[dict[str, tuple[Point, ...]]] = []
    while id is not None:
        commit = commits.read_commit(id)
        if commit.series is not None:
            if SERIES in gone.get(id, {}):
                raise Absent(f"what was logged before {id.hex()[:12]} is not here: {gone[id][SERIES]}")
            structure = Structure(SERIES, read_tree(repository.store.objects, commit.series))
            parts.append(_points(unflatten(structure, repository.store.objects), options.metrics))
        id = commit.parents[0] if commit.parents else None
    names = dict.fromkeys(name for part in reversed(parts) for name in part)
    return {name: tuple(point for part in reversed(parts) for point in part.get(name, ())) for name in names}


def _points(series: Any, wanted: Collection[str]) -> dict[str, tuple[Point, ...]]:
    """The points of one commit. Raises `Format` where they are none."""
    try:
        return {
            name: tuple(Point(*point) for point in zip(*(one[key].tolist() for key in Point._fields), strict=True))
            for name, one in series.items()
            if not wanted or name in wanted
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Format(f"a commit's series holds no points: {error}") from error
