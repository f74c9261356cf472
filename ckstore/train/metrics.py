"""What a run logs: kept until a commit has sealed it, and written to a live file at once for whoever watches."""

from __future__ import annotations

import math
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ckstore import durable
from ckstore.errors import CkstoreError, InvalidInput, nearest
from ckstore.train.warned import warn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_KEPT = 8
"""Live files of so many sessions are kept."""


class Points:
    """One metric's values in the order they were logged: at which step, when (ns since 1970 UTC), and what."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.times_ns = array("q")
        self.values = array("d")

    def add(self, step: int, time_ns: int, value: float) -> None:
        self.steps.append(step)
        self.times_ns.append(time_ns)
        self.values.append(value)

    def first(self, count: int) -> dict[str, Any]:
        """The first `count` points, as a commit keeps them."""
        return {
            "step": np.array(self.steps[:count], np.int64),
            "time_ns": np.array(self.times_ns[:count], np.int64),
            "value": np.array(self.values[:count], np.float64),
        }

    def drop(self, count: int) -> None:
        """Forget the first `count` points."""
        del self.steps[:count], self.times_ns[:count], self.values[:count]


class Metrics:
    """Points by metric. `wanted` are the names that rules look at, which are to be logged under exactly these."""

    def __init__(self, live: LiveFile, wanted: frozenset[str]) -> None:
        self._live = live
        self._wanted = wanted
        self._points: dict[str, Points] = {}
        self._nan: set[str] = set()

    def log(self, metrics: Mapping[str, Any], step: int, time_ns: int) -> dict[str, float]:
        """Take in values at a step; as floats. Raises `InvalidInput` for what is no number, before any is taken."""
        values = {_name(name): _number(name, value) for name, value in metrics.items()}
        for name, value in values.items():
            points = self._points.get(name)
            if points is None:
                self._check_new(name)
                points = self._points[name] = Points()
            points.add(step, time_ns, value)
            if math.isnan(value) and name not in self._nan:
                self._nan.add(name)
                warn(_nan_text(name, step))
        self._live.write({"step": step, "time_ns": time_ns, "metrics": {n: _finite(v) for n, v in values.items()}})
        return values

    def sealed(self) -> tuple[dict[str, Any] | None, dict[str, int]]:
        """All points as a commit keeps them, None where there are none; and how many of each that are."""
        counts = {name: len(points.steps) for name, points in self._points.items() if points.steps}
        return {name: self._points[name].first(count) for name, count in counts.items()} or None, counts

    def drop(self, counts: Mapping[str, int]) -> None:
        """Forget points that a commit has sealed."""
        for name, count in counts.items():
            self._points[name].drop(count)

    @property
    def all_sealed(self) -> bool:
        """Whether commits have every point."""
        return not any(points.steps for points in self._points.values())

    def never_logged(self) -> list[str]:
        """The wanted names that nobody has logged."""
        return sorted(self._wanted - self._points.keys())

    def _check_new(self, name: str) -> None:
        """Raise `InvalidInput` for a name that a rule seems to mean by another one."""
        missing = [wanted for wanted in self.never_logged() if wanted != name]
        if name not in self._wanted and any(_alike(name, wanted) for wanted in missing):
            raise InvalidInput(
                f"{name!r} is logged, but a trigger or policy of the run looks at {', '.join(map(repr, missing))}",
                hint=f"call both the same: {nearest(name, missing) or missing[0]}",
            )


class LiveFile:
    """Lines of JSON, appended at once and never synced: a view for others, nothing depends on it.

    Where it cannot be written the run goes on without it, and says so once.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._file: durable.DurableFile | None = None
        self._header: Mapping[str, Any] | None = header

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; the file is made at the first."""
        try:
            if self._header is not None:
                header, self._header = self._header, None
                self._file = durable.create(self.path)
                self._file.write(msgspec.json.encode(header), b"\n")
            if self._file is not None:
                self._file.write(msgspec.json.encode(line), b"\n")
        except CkstoreError as error:
            self.close()
            warn(f"metrics are kept for the next commit, but cannot be watched: {error}")

    def close(self, *, sealed: bool = False) -> None:
        """Close the file; what is written later is left out. `sealed`: commits have it all, and the file goes."""
        if self._file is not None:
            self._file.close()
            if sealed:
                _remove(self.path)
        self._file = None


def tidy(folder: Path) -> None:
    """Remove the live files of a run's oldest sessions: those that were killed leave theirs behind."""
    files = sorted(folder.glob("*.jsonl"), key=lambda path: (len(path.name), path.name))
    for path in files[:-_KEPT]:
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(CkstoreError):
        durable.unlink(path)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{name!r} is no name of a metric", hint='run.log({"train/loss": loss})')
    return name


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInput(f"the metric {name!r} is {value!r:.80}, which is no number", hint="log one number") from None


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _alike(one: str, other: str) -> bool:
    """Whether two names differ in nothing but case and signs."""
    return [c for c in one.casefold() if c.isalnum()] == [c for c in other.casefold() if c.isalnum()]


def _nan_text(name: str, step: int) -> str:
    return (
        f"the metric {name!r} is NaN at step {step}; NaN is never the best, and said once. "
        f"Fix: go on from a commit before it: run.resume(from_='step:N')"
    )
