"""What a checkpoint says of itself: step, epoch and metrics, from its name, its content, or a table beside it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import Format, InvalidInput
from ckstore.files.detect import parse
from ckstore.files.order import epoch_in, explicit_step_in, step_in
from ckstore.objects.encoding import bits_float
from ckstore.objects.leaf import Float

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ckstore.files.source import Source
    from ckstore.objects.draft import Draft

_STEPS = ("global_step", "step", "iteration", "iter", "steps", "num_steps")
_EPOCHS = ("epoch",)
_NO_METRICS = frozenset({*_STEPS, *_EPOCHS, "lr", "learning_rate"})
_STATE = "trainer_state.json"
_MAX_STATE = 64 << 20


@dataclass(frozen=True)
class Facts:
    """Of which step and epoch a checkpoint is, where that is known, and what was measured then."""

    step: int | None = None
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def over(self, other: Facts) -> Facts:
        """These facts, and what `other` knows besides."""
        return Facts(
            other.step if self.step is None else self.step,
            other.epoch if self.epoch is None else self.epoch,
            {**other.metrics, **self.metrics},
        )


def from_name(name: str, pattern: re.Pattern[str] | None) -> Facts:
    """What a name says: by the named groups of `pattern` (`step`, `epoch`, and metrics), else by what is usual.

    Raises `InvalidInput` where a group is no number.
    """
    found: dict[str, float] = {}
    match = pattern.search(name) if pattern is not None else None
    for group, text in match.groupdict().items() if match else ():
        if text is not None:
            try:
                found[group] = float(text)
            except ValueError:
                raise InvalidInput(
                    f"--metric-from finds {text!r} as {group} in {name!r}, which is no number",
                    hint="let the group match digits only, as in (?P<loss>[0-9.]+[0-9])",
                ) from None
    step, epoch = found.pop("step", None), found.pop("epoch", None)
    return Facts(
        explicit_step_in(name) if step is None else int(step), epoch_in(name) if epoch is None else int(epoch), found
    )


def last_number(name: str) -> Facts:
    """The last number in a name as its step: the weakest of all signs."""
    return Facts(step_in(name))


def from_file(name: str, source: Source) -> Facts:
    """What the top entries of a checkpoint file say. Raises `Format` for a damaged one."""
    components = parse(name, source).components
    scalars = {key: draft.entries[0][1] for key, draft in components.items() if len(draft.entries) == 1}
    metrics = {key: bits_float(value.bits) for key, value in scalars.items() if isinstance(value, Float)}
    if "metrics" in components:
        metrics |= _floats(components["metrics"])
    return Facts(
        _first_count(scalars, _STEPS),
        _first_count(scalars, _EPOCHS),
        {key: value for key, value in metrics.items() if key not in _NO_METRICS},
    )


def from_folder(files: Mapping[str, Path]) -> Facts:
    """What the `trainer_state.json` of a Hugging Face Trainer says, if it is among `files`. Raises `Format`."""
    path = files.get(_STATE)
    if path is None or path.stat().st_size > _MAX_STATE:
        return Facts()
    try:
        state = json.loads(path.read_text("utf-8"))
        step, epoch = state.get("global_step"), state.get("epoch")
        metrics: dict[str, float] = {}
        for entry in state.get("log_history", ()):
            if entry.get("step") == step:
                metrics |= _numbers(entry.items())
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Format(f"{path} is damaged", why=str(error)[:200]) from error
    return Facts(
        step if type(step) is int and step >= 0 else None,
        int(epoch) if isinstance(epoch, (int, float)) and math.isfinite(epoch) and epoch >= 0 else None,
        {key: value for key, value in metrics.items() if key not in _NO_METRICS},
    )


class Table:
    """A CSV of metrics: a column `step` (or `epoch`), and one for each metric. Rows of one step are taken together."""

    def __init__(self, path: Path) -> None:
        """Read the table. Raises `InvalidInput`."""
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise InvalidInput(f"cannot read the table {path}: {error}", hint="give a CSV with a header") from error
        columns = set(rows[0]) if rows else set()
        self._by_step = _by_count(rows, next((name for name in _STEPS if name in columns), None))
        self._by_epoch = _by_count(rows, next((name for name in _EPOCHS if name in columns), None))
        if not self._by_step and not self._by_epoch:
            raise InvalidInput(f"the table {path} has no column step or epoch", hint="name one so in its header")

    def facts(self, known: Facts) -> Facts:
        """The metrics of a checkpoint's step, or else of its epoch."""
        metrics = self._by_step.get(known.step) if known.step is not None else None
        if metrics is None and known.epoch is not None:
            metrics = self._by_epoch.get(known.epoch)
        return Facts(metrics=metrics or {})


def _by_count(rows: Iterable[Mapping[str | None, str | None]], column: str | None) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    if column is None:
        return found
    for row in rows:
        numbers = _numbers((key, value) for key, value in row.items() if key is not None)
        if column in numbers and numbers[column].is_integer():
            metrics = {key: value for key, value in numbers.items() if key not in _NO_METRICS}
            found.setdefault(int(numbers[column]), {}).update(metrics)
    return found


def _numbers(items: Iterable[tuple[str, object]]) -> dict[str, float]:
    """Those of the items that are numbers, or texts of such."""
    found = {}
    for key, value in items:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                found[str(key)] = float(value)
            except (ValueError, OverflowError):
                continue
    return found


def _floats(draft: Draft) -> dict[str, float]:
    """The numbers in a flat dict."""
    return {
        key: bits_float(value.bits) if isinstance(value, Float) else float(value)
        for key, value in draft.entries[1:]
        if isinstance(key, str) and (isinstance(value, Float) or (type(value) is int and abs(value) < 1 << 53))
    }


def _first_count(scalars: Mapping[str, object], names: Iterable[str]) -> int | None:
    for name in names:
        value = scalars.get(name)
        if type(value) is int and 0 <= value < 1 << 63:
            return value
    return None
